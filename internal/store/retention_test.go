package store_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

const partitionCount = `SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^exposure_[0-9]{8}$'`

func (l *ledger) drop() int {
	l.t.Helper()
	n, err := l.DropPartitions(l.t.Context(), l.now.Add(-retention))
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func TestPartitions(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	if got, want := l.count(partitionCount), 16+1+2; got != want {
		t.Errorf("%d partitions were made, want %d: 16 days back, today, 2 ahead", got, want)
	}
	if n, err := l.EnsurePartitions(t.Context(), l.now, retention); n != 0 || err != nil {
		t.Errorf("a second run made %d partitions (%v)", n, err)
	}
	if n := l.drop(); n != 0 {
		t.Errorf("%d key days were forgotten before their time", n)
	}
	l.addExport("us", "US")
	l.add(l.upload(entest.Exposures(1, 2, l.now)))
	l.seal()

	l.now = l.now.Add(18 * 24 * time.Hour)
	if n := l.drop(); n != 15 {
		t.Errorf("%d key days were forgotten, want the 15 before the one that an open batch needs", n)
	}
	l.publish()
	if n := l.drop(); n != 3 {
		t.Errorf("%d key days were forgotten, want the last 3 that are over", n)
	}
	if n := l.count(`SELECT count(*) FROM exposure`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// A kill between detaching and dropping, or in the middle of detaching.
func TestDropPartitionsFinishesWhatAKillLeft(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec(`ALTER TABLE exposure DETACH PARTITION exposure_20201021`)
	if n := l.drop(); n != 1 {
		t.Errorf("%d leftovers were dropped, want 1", n)
	}
	l.halfDetach("exposure_20201022")
	l.add(l.upload(entest.Exposures(1, 1, l.now, func(e *exposure.Exposure) { e.Start = entest.DaysAgo(l.now, 14) })))
	if got := l.seal(); got.Discarded != 1 {
		t.Errorf("got %+v, want a key of a day that goes discarded, and no failure", got)
	}
	if n := l.drop(); n != 1 {
		t.Errorf("%d half detached key days were dropped, want 1", n)
	}
}

// halfDetach gives up in the middle of a detachment, because somebody reads.
func (l *ledger) halfDetach(name string) {
	l.t.Helper()
	err := l.InTx(l.t.Context(), func(tx database.Tx) error {
		if _, err := tx.Exec(l.t.Context(), `SELECT FROM exposure LIMIT 1`); err != nil {
			return err
		}
		// It waits for as long as the session's lock_timeout says.
		if _, err := l.Exec(l.t.Context(), `ALTER TABLE exposure DETACH PARTITION `+name+` CONCURRENTLY`); err == nil {
			return errors.New("the detachment did not wait for the reader")
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	if n := l.count(`SELECT count(*) FROM pg_inherits WHERE inhdetachpending`); n != 1 {
		l.t.Fatalf("%d partitions are half detached, want 1", n)
	}
}

// Uploads and seals go on while key days are dropped.
func TestDropPartitionsBlocksNobody(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.now = l.now.Add(10 * 24 * time.Hour)
	if _, err := l.EnsurePartitions(t.Context(), l.now, retention); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		for dropped := 0; dropped < 10; {
			n, err := l.DropPartitions(t.Context(), l.now.Add(-retention))
			if err != nil {
				return err
			}
			dropped += n
		}
		return nil
	})
	for i := range 30 {
		l.add(l.upload(entest.Exposures(10*i, 10, l.now)))
		if i%5 == 0 {
			l.seal()
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	l.seal()
	if n := l.count(`SELECT count(*) FROM exposure`); n != 300 {
		t.Errorf("%d keys are in the log, want 300", n)
	}
}

func TestForgetUploads(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.add(l.upload(entest.Exposures(1, 2, l.now)))
	for _, tc := range []struct {
		why  string
		at   time.Time
		want int64
	}{
		{"the certificate is valid", l.now, 0},
		{"it expired today: by whole days only", l.now.Add(6 * time.Hour), 0},
		{"a day of grace", l.now.Add(24 * time.Hour), 0},
		{"the day after", l.now.Add(48 * time.Hour), 1},
	} {
		if got, _, err := l.ForgetUploads(t.Context(), tc.at, tc.at); got != tc.want || err != nil {
			t.Errorf("%s: %d receipts were forgotten (%v), want %d", tc.why, got, err, tc.want)
		}
	}
}
