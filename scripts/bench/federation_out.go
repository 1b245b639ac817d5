package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/configuration"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/system"
)

// The pages that are asked for: what servers in the field ask for, and what
// ours does.
const (
	smallPage = 500
	largePage = 10_000
)

// federationOut measures how fast a neighbour is told a log, by a client that
// does nothing with it.
func (b *bench) federationOut(ctx context.Context) error {
	id, err := newIdentity()
	if err != nil {
		return err
	}
	defer id.remove()
	return b.stage(ctx, nil, func(s *stage) error {
		keys := b.keys / uploadKeys * uploadKeys
		b.say("federation-out: sealing %d keys", keys)
		if err := (&crossing{from: s, keys: keys}).seal(ctx); err != nil {
			return err
		}
		t, err := newTelling(ctx, b, id, s, keys)
		if err != nil {
			return err
		}
		defer t.conn.Close()
		repeats := min(b.repeats, slowRepeats)
		for n := range repeats {
			b.say("federation-out: %d of %d", n+1, repeats)
			if err := t.repeat(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// telling is the figures of federation-out, and what they are measured on.
type telling struct {
	*stage
	service *system.Process
	conn    *grpc.ClientConn
	token   string
	keys    int

	small, large tellingFigures
	memory       *figure
}

// tellingFigures are those of pages of one size.
type tellingFigures struct{ keys, pages, service, postgres *figure }

func newTelling(ctx context.Context, b *bench, id *identity, s *stage, keys int) (t *telling, err error) {
	t = &telling{stage: s, keys: keys}
	if err := s.Amend(ctx, func(file *configuration.File) {
		file.Federation = &configuration.Federation{Allow: []configuration.Allow{{
			Name: neighbourName, Issuer: id.issuer.URL, Subject: neighbourName, Audience: neighbourName, IncludeRegions: []string{"US"},
		}}}
	}); err != nil {
		return nil, err
	}
	if t.service, err = s.Launch(ctx, system.FederationOut, "FEDERATION_RATE=10000",
		"FEDERATION_TLS_CERT="+id.cert, "FEDERATION_TLS_KEY="+id.key, "REMOTE_ALLOW_PRIVATE=true", "REMOTE_CA_FILE="+id.cert); err != nil {
		return nil, err
	}
	if err := t.dial(id); err != nil {
		return nil, err
	}
	g := b.report.group("federation-out", "%s keys told to a client on the same machine, over TLS", number(float64(keys)))
	const plain = "one SELECT of the same rows in the same order, put into messages"
	for _, of := range []struct {
		figures *tellingFigures
		name    string
	}{{&t.small, "pages of 500"}, {&t.large, "pages of 10 000"}} {
		*of.figures = tellingFigures{
			keys:     g.figure("keys in "+of.name, "/s", nil).beside(plain),
			pages:    g.figure(of.name, "/s", nil),
			service:  g.figure("federation-out, "+of.name, "CPU s", nil).beside(plain),
			postgres: g.figure("PostgreSQL, "+of.name, "CPU s", nil).beside(plain),
		}
	}
	t.memory = g.figure("federation-out, peak", "MiB", atMost(64))
	return t, nil
}

func (t *telling) dial(id *identity) error {
	ca, err := os.ReadFile(id.cert)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(id.token)
	if err != nil {
		return err
	}
	t.token = string(token)
	at, err := url.Parse(t.service.URL())
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	t.conn, err = grpc.NewClient(at.Host, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})))
	return err
}

func (t *telling) repeat(ctx context.Context) error {
	for _, of := range []struct {
		page    uint32
		figures tellingFigures
	}{{smallPage, t.small}, {largePage, t.large}} {
		if err := t.tell(ctx, of.page, of.figures); err != nil {
			return err
		}
		if err := t.readPlainly(ctx, of.figures); err != nil {
			return err
		}
	}
	_, peak, err := resident(t.service.PID())
	t.memory.add(peak)
	return err
}

// tell asks for the whole log.
func (t *telling) tell(ctx context.Context, page uint32, f tellingFigures) error {
	var told, pages int
	used, err := t.observe(t.service.PID(), func() (err error) {
		told, pages, err = t.pull(ctx, page)
		return err
	})
	if err != nil {
		return err
	}
	if told != t.keys {
		return fmt.Errorf("%d keys were told, and not %d", told, t.keys)
	}
	f.keys.add(perSecond(told, used.elapsed))
	f.pages.add(perSecond(pages, used.elapsed))
	f.service.add(used.service.Seconds())
	f.postgres.add(used.postgres.Seconds())
	return nil
}

func (t *telling) pull(ctx context.Context, page uint32) (told, pages int, err error) {
	client := federationpb.NewFederationClient(t.conn)
	ctx = grpcmetadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(t.token))
	ask := &federationpb.FederationFetchRequest{MaxExposureKeys: page}
	for {
		answer, err := client.Fetch(ctx, ask)
		if err != nil {
			return told, pages, err
		}
		told, pages = told+len(answer.GetKeys()), pages+1
		if !answer.GetPartialResponse() {
			return told, pages, nil
		}
		ask.State = answer.GetNextFetchState()
	}
}

// readPlainly reads the same rows at once and puts them into messages, with no
// filter, no place in the log, no neighbour and no wire.
func (t *telling) readPlainly(ctx context.Context, f tellingFigures) error {
	used, err := t.observe(os.Getpid(), func() error {
		rows, err := t.database.Query(ctx, `
			SELECT   key, start_interval, period, risk, report, coalesce(onset, 0)::integer, traveler, regions
			FROM     exposure
			WHERE    ordinal IS NOT NULL
			ORDER BY epoch, ordinal`)
		if err != nil {
			return err
		}
		defer rows.Close()
		var answer federationpb.FederationFetchResponse
		for rows.Next() {
			answer.Keys = append(answer.Keys, plainKey(rows.RawValues()))
			if len(answer.Keys) < largePage {
				continue
			}
			if _, err := proto.Marshal(&answer); err != nil {
				return err
			}
			answer.Keys = answer.Keys[:0]
		}
		return rows.Err()
	})
	f.keys.plain(perSecond(t.keys, used.elapsed))
	f.service.plain(used.service.Seconds())
	f.postgres.plain(used.postgres.Seconds())
	return err
}

// plainKey takes a row as it comes, without a look at it.
func plainKey(raw [][]byte) *federationpb.ExposureKey {
	small := func(column int) int32 { return int32(int16(binary.BigEndian.Uint16(raw[column]))) }
	return &federationpb.ExposureKey{
		ExposureKey:              slices.Clone(raw[0]),
		IntervalNumber:           int32(binary.BigEndian.Uint32(raw[1])),
		IntervalCount:            small(2),
		TransmissionRisk:         small(3),
		ReportType:               federationpb.ExposureKey_ReportType(small(4)),
		DaysSinceOnsetOfSymptoms: int32(binary.BigEndian.Uint32(raw[5])),
		HasSymptomOnset:          true,
		Traveler:                 raw[6][0] != 0,
		Regions:                  []string{"US"},
	}
}
