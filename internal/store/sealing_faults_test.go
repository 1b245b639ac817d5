package store_test

import (
	"testing"
	"time"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// An instance whose clock is a second behind took the revision of a key that
// one whose clock is ahead had taken in the next hour already.
func TestRevisionWaitsForItsKey(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	likely := entest.Exposures(1, 3, l.now, report(exposure.Likely))
	confirmed := entest.Exposures(1, 3, l.now)
	behind, ahead := l.now.Add(-time.Second), l.now.Add(time.Second)
	l.now = ahead
	l.add(l.upload(likely))
	l.now = behind
	l.add(l.upload(confirmed, withToken(likely)))

	if got := l.seal(); got.Keys+got.Revisions+got.Discarded != 0 {
		t.Errorf("before the keys are due %+v was sealed, want nothing, and nothing discarded", got)
	}
	l.now = ahead
	if got := l.seal(); got.Keys != 3 || got.Revisions != 3 {
		t.Errorf("when the keys are due %+v was sealed, want 3 keys and 3 revisions", got)
	}
}

// What waits under another start will be discarded; it must not hold back the
// revision of the key that is in the log.
func TestRevisionDoesNotWaitForAnotherStart(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	likely := entest.Exposures(1, 1, l.now, report(exposure.Likely))
	l.add(l.upload(likely))
	l.seal()
	l.add(l.upload(entest.Exposures(1, 1, l.now, func(e *exposure.Exposure) { e.Start += 144 })))
	l.add(l.upload(entest.Exposures(1, 1, l.now), withToken(likely)))
	if got := l.seal(); got.Revisions != 1 {
		t.Errorf("got %+v, want the revision sealed", got)
	}
}

// Epochs keep their rhythm, whatever an export waits for: more epochs would be
// smaller crowds.
func TestExportWithoutSigningKeyDoesNotHurryEpochs(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.exec(`UPDATE signing_key SET valid_from = $1`, l.now.Add(90*time.Minute))
	l.options.Always = false

	l.now = l.now.Add(time.Hour)
	l.add(l.upload(entest.Exposures(1, 2, l.now)))
	if got := l.seal(); got.Epochs != 1 || len(got.Unsigned) != 1 {
		t.Errorf("at the hour: got %+v, want an epoch, and a word about the key", got)
	}
	l.now = l.now.Add(time.Minute)
	l.add(l.upload(entest.Exposures(10, 2, l.now)))
	if got := l.seal(); got.Epochs != 0 || len(got.Unsigned) != 1 {
		t.Errorf("a minute later: got %+v, want no epoch, and the same word", got)
	}
	l.now = l.now.Add(30 * time.Minute)
	if got := l.seal(); got.Batches != 1 {
		t.Errorf("with the key: got %+v, want the batch at once", got)
	}
}

// A clock that was wrong once must not stop sealing until its time has come.
func TestSealAfterAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.options.Always = false
	right := l.now
	l.now = right.Add(300 * 24 * time.Hour)
	l.seal()

	l.now = right.Add(2 * time.Hour)
	l.add(l.upload(entest.Exposures(1, 2, l.now)))
	if got := l.seal(); got.Keys != 2 || got.Batches != 1 {
		t.Errorf("got %+v, want 2 keys in a batch", got)
	}

	// Two instances that differ by a second are no such clock.
	l.now = l.now.Add(-time.Second)
	l.add(l.upload(entest.Exposures(10, 2, l.now)))
	if got := l.seal(); got.Keys != 0 {
		t.Errorf("a second before: got %+v, want nothing", got)
	}
}

// Facts that are told apart from the sums of their day only while their hour
// runs do not wait for a crowd.
func TestFactsDoNotWaitForACrowd(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.options.Always, l.options.MinUploads = false, 3
	l.add(l.upload(entest.Exposures(1, 2, l.now), func(up *store.Upload) {
		up.Fact = store.Fact{Authority: 1, KeyAges: []int{1, 1}, OnsetAge: 2}
	}))
	l.now = l.now.Add(time.Hour)
	if got := l.seal(); got.Waiting != 1 {
		t.Errorf("got %+v, want 1 upload waiting", got)
	}
	if n := l.count(`SELECT count(*) FROM upload_fact`); n != 0 {
		t.Errorf("%d facts are left of an hour that is over, want none", n)
	}
}
