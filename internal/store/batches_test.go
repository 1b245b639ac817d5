package store_test

import (
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// openBatches makes that many batches, an hour apart.
func (l *ledger) openBatches(count int) {
	l.t.Helper()
	for i := range count {
		l.now = l.now.Add(time.Hour)
		l.add(l.upload(entest.Exposures(100*i, 2, entest.Noon())))
		l.seal()
	}
}

func (l *ledger) lease(ttl time.Duration, except ...int64) (store.Batch, bool) {
	l.t.Helper()
	b, ok, err := l.LeaseBatch(l.t.Context(), l.now, ttl, except...)
	if err != nil {
		l.t.Fatal(err)
	}
	return b, ok
}

func (l *ledger) complete(b store.Batch, files ...store.File) bool {
	l.t.Helper()
	ok, err := l.CompleteBatch(l.t.Context(), b, files, l.now)
	if err != nil {
		l.t.Fatal(err)
	}
	return ok
}

func fileOf(object string) store.File {
	return store.File{Number: 1, Object: object, Size: 7, SHA256: []byte{1}, Keys: 2}
}

// The story of a lease that runs out: the slow holder cannot finish.
func TestLeaseBatch(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	if _, ok := l.lease(time.Minute); ok {
		t.Fatal("there is a batch before anything was cut")
	}
	l.openBatches(2)
	slow, _ := l.lease(time.Minute)
	second, ok := l.lease(time.Minute)
	if !ok || !slow.End.Before(second.End) || slow.LastEpoch >= second.FirstEpoch {
		t.Errorf("got %v then %v, want the oldest first", slow, second)
	}
	if _, ok := l.lease(time.Minute); ok {
		t.Error("a lease that holds was given away")
	}
	l.now = l.now.Add(time.Minute)
	if _, ok := l.lease(time.Minute, slow.ID, second.ID); ok {
		t.Error("a batch was handed out that the caller did not want")
	}
	taken, ok := l.lease(time.Minute)
	if !ok || taken.ID != slow.ID || taken.Fence == slow.Fence {
		t.Errorf("got %v, want the first batch under a new fence", taken)
	}
	if ok, err := l.ExtendLease(t.Context(), slow, l.now.Add(time.Hour)); ok || err != nil {
		t.Errorf("the old holder extended its lease: %t, %v", ok, err)
	}
	if l.complete(slow, fileOf("us/slow")) {
		t.Error("the old holder finished the batch")
	}
	if !l.complete(taken, fileOf("us/1")) || l.complete(taken, fileOf("us/again")) {
		t.Error("the new holder could not finish the batch once")
	}
	if err := l.ReleaseBatch(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if again, ok := l.lease(time.Minute); !ok || again.ID != second.ID {
		t.Errorf("got %v, want the batch that was given back", again)
	}
}

// What two workers were both given would be made twice.
func TestLeaseBatchIsExclusive(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.openBatches(30)
	var mu sync.Mutex
	seen := map[int64]int{}
	var workers errgroup.Group
	for range 6 {
		workers.Go(func() error {
			for {
				b, ok, err := l.LeaseBatch(t.Context(), l.now, time.Minute)
				if err != nil || !ok {
					return err
				}
				mu.Lock()
				seen[b.ID]++
				mu.Unlock()
			}
		})
	}
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("batch %d was leased %d times", id, n)
		}
	}
	if len(seen) != 30 {
		t.Errorf("%d batches were leased, want 30", len(seen))
	}
}

func (l *ledger) indexes() []store.Index {
	l.t.Helper()
	all, err := l.UnwrittenIndexes(l.t.Context(), l.now)
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

func objects(x store.Index) (names []string) {
	for _, f := range x.Files {
		names = append(names, f.Object)
	}
	return names
}

// The life of a file: held back by an older batch, listed, delisted, dead, gone.
func TestIndex(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.openBatches(2)
	first, _ := l.lease(time.Minute)
	second, _ := l.lease(time.Minute)

	l.complete(second, fileOf("us/2"))
	held := l.indexes()
	if len(held) != 1 || len(held[0].Files) != 0 {
		t.Fatalf("got %v, want an empty index: the first batch is not done", held)
	}
	l.complete(first, fileOf("us/1"))
	listed := l.indexes()
	if diff := cmp.Diff([]string{"us/1", "us/2"}, objects(listed[0])); diff != "" {
		t.Errorf("index (-want +got):\n%s", diff)
	}
	if listed[0].Sequence <= held[0].Sequence {
		t.Errorf("sequence %d does not follow %d", listed[0].Sequence, held[0].Sequence)
	}
	if diff := cmp.Diff([]store.SigningKey{{Name: "us-1", URL: "file:///us-1.pem", ID: "310", Version: "v1"}}, listed[0].SigningKeys); diff != "" {
		t.Errorf("signing keys (-want +got):\n%s", diff)
	}
	l.written(listed[0])
	if rest := l.indexes(); len(rest) != 0 {
		t.Errorf("after writing there is %v to write", rest)
	}

	made := l.now
	l.now = l.now.Add(15 * 24 * time.Hour)
	if n, err := l.DelistFiles(t.Context(), made); n != 0 || err != nil {
		t.Errorf("%d files were delisted (%v), none is that old", n, err)
	}
	if n, err := l.DelistFiles(t.Context(), made.Add(time.Second)); n != 2 || err != nil {
		t.Errorf("%d files were delisted (%v), want 2", n, err)
	}
	if dead := l.dead(); len(dead) != 0 {
		t.Errorf("%v may be deleted while the index in the bucket lists it", dead)
	}
	l.written(listed[0]) // an old writer, late
	if dead := l.dead(); len(dead) != 0 {
		t.Errorf("%v may be deleted although only an old index was written", dead)
	}
	l.written(l.indexes()[0])
	dead := l.dead()
	if len(dead) != 2 {
		t.Fatalf("%v may be deleted, want both files", dead)
	}
	for _, f := range dead {
		if err := l.FileDeleted(t.Context(), f.FileID); err != nil {
			t.Fatal(err)
		}
	}
	if batches, epochs, err := l.ForgetBatches(t.Context(), l.now); batches != 2 || epochs != 2 || err != nil {
		t.Errorf("%d batches and %d epochs were forgotten (%v), want 2 and 2", batches, epochs, err)
	}
}

func (l *ledger) written(x store.Index) {
	l.t.Helper()
	if err := l.IndexWritten(l.t.Context(), x.ExportID, x.Sequence, l.now); err != nil {
		l.t.Fatal(err)
	}
}

func (l *ledger) dead() []store.DeadFile {
	l.t.Helper()
	dead, err := l.DeadFiles(l.t.Context(), l.now.Add(time.Second), 10)
	if err != nil {
		l.t.Fatal(err)
	}
	return dead
}

// Without a valid signing key a batch could never be finished: it is not cut,
// and nothing is lost by waiting.
func TestExportWithoutSigningKey(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.exec(`UPDATE signing_key SET valid_from = $1`, l.now.Add(time.Hour))
	l.add(l.upload(entest.Exposures(1, 2, l.now)))
	if got := l.seal(); got.Batches != 0 || len(got.Unsigned) != 1 {
		t.Errorf("got %+v, want no batch and a word about it", got)
	}
	l.now = l.now.Add(time.Hour)
	if got := l.seal(); got.Batches != 1 {
		t.Errorf("with the key: got %+v, want the batch", got)
	}
	l.exec(`UPDATE signing_key SET valid_thru = $1`, l.now.Add(time.Second))
	l.publish()
	l.now = l.now.Add(time.Hour)
	if x := l.indexes(); len(x) != 1 || len(x[0].SigningKeys) != 1 {
		t.Errorf("after the key's end: got %v, want an index signed by the last key", x)
	}
}

// A sealer that cuts for many exports holds their rows for a while. What took a
// worker minutes to make must not fail for that.
func TestCompleteBatchWaitsForASealer(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.openBatches(1)
	address, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	query := address.Query()
	query.Set("lock_timeout", "100ms")
	address.RawQuery = query.Encode()
	hasty, err := store.Open(t.Context(), database.Settings{URL: address.String(), PoolMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer hasty.Close()
	b, _ := l.lease(time.Minute)
	for _, tc := range []struct {
		why string
		do  func() error
	}{
		{"the end of a batch", func() error {
			ok, err := hasty.CompleteBatch(t.Context(), b, []store.File{fileOf("us/1")}, l.now)
			if err == nil && !ok {
				err = errors.New("the lease was lost")
			}
			return err
		}},
		{"the writing of an index", func() error { return hasty.IndexWritten(t.Context(), b.ExportID, 1, l.now) }},
	} {
		held := make(chan struct{})
		var g errgroup.Group
		g.Go(func() error {
			return l.InTx(t.Context(), func(tx database.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE export SET cut_at = cut_at`)
				close(held)
				if err == nil {
					_, err = tx.Exec(t.Context(), `SELECT pg_sleep(0.4)`)
				}
				return err
			})
		})
		<-held
		if err := tc.do(); err != nil {
			t.Errorf("%s: %v", tc.why, err)
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
