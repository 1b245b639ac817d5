package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/api/v1"
)

// ownTime is what this process has used of the processors so far.
func ownTime() (time.Duration, error) { return processorTime(os.Getpid()) }

// plainUploads stores the rows of uploads without any of the questions that an
// upload asks.
type plainUploads struct {
	insert string
	start  int32
	due    time.Time
}

func (s *stage) plainUploads(ctx context.Context) (plainUploads, error) {
	p := plainUploads{start: int32(s.today().Start()), due: s.Now()}
	if err := s.exec(ctx, `CREATE TABLE plain_arrival (LIKE arrival INCLUDING ALL)`); err != nil {
		return p, err
	}
	var rows []string
	for i := range uploadKeys {
		rows = append(rows, fmt.Sprintf(`($%d, 0, $1 - 144 * %d, 144, 2, 1, 4 - %d, false, '{US}', $2)`, i+3, i+1, i+1))
	}
	p.insert = `
		INSERT INTO plain_arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		VALUES ` + strings.Join(rows, ", ")
	return p, nil
}

// repeat stores the rows of so many uploads, and notes what that took beside
// the figures of uploads.
func (u plainUploads) repeat(ctx context.Context, p *publishing, uploads int) error {
	client, err := startMeter(ownTime)
	if err != nil {
		return err
	}
	var took []time.Duration
	used, err := p.observe(0, func() (err error) {
		took, err = u.all(ctx, p.stage, uploads)
		return err
	})
	if err != nil {
		return err
	}
	own, err := client.used()
	p.rate.plain(perSecond(uploads, used.elapsed))
	p.postgres.plain(each(used.postgres, uploads))
	p.client.plain(each(own, uploads))
	ms := millis(took)
	p.p50.plain(quantile(ms, 0.5))
	p.p95.plain(quantile(ms, 0.95))
	p.p99.plain(quantile(ms, 0.99))
	return err
}

func (u plainUploads) all(ctx context.Context, s *stage, uploads int) ([]time.Duration, error) {
	took := make([]time.Duration, uploads)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range uploaders {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= uploads {
					return nil
				}
				begin := time.Now()
				if _, err := s.database.Exec(ctx, u.insert, u.args()...); err != nil {
					return err
				}
				took[i] = time.Since(begin)
			}
		})
	}
	return took, group.Wait()
}

func (u plainUploads) args() []any {
	args := []any{u.start, u.due}
	for range uploadKeys {
		key := make([]byte, 16)
		_, _ = rand.Read(key) // never fails: see crypto/rand
		args = append(args, key)
	}
	return args
}

// plainAdmission is what decoding an upload and verifying its signature take,
// by themselves, on one core.
func plainAdmission(requests [][]byte) time.Duration {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // never: see crypto/rand
	}
	digest := sha256.Sum256([]byte("a certificate"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	begin := time.Now()
	for _, r := range requests {
		_, body, _ := bytes.Cut(r, []byte("\r\n\r\n"))
		var decoded apiv1.Publish
		if json.Unmarshal(body, &decoded) != nil || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			panic("what we wrote and signed ourselves is not as we did")
		}
	}
	return time.Since(begin) / time.Duration(len(requests))
}
