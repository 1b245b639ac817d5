package store_test

import (
	"testing"
	"time"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

// fortnight is what one phone uploads: a key a day, with an onset of its own.
func fortnight(first int, now time.Time, onset int32, edits ...func(*exposure.Exposure)) []exposure.Exposure {
	var keys []exposure.Exposure
	for day := range 7 {
		keys = append(keys, entest.Exposure(first+day, now, append(edits, func(e *exposure.Exposure) {
			e.Start -= exposure.Interval(144 * day)
			e.DaysSinceOnset = onset - int32(day)
		})...))
	}
	return keys
}

func risk(n int32) func(*exposure.Exposure) {
	return func(e *exposure.Exposure) { e.Risk = n }
}

func byKey(keys []exposure.Exposure) map[exposure.Key]exposure.Exposure {
	found := map[exposure.Key]exposure.Exposure{}
	for _, k := range keys {
		found[k.Key] = k
	}
	return found
}

// Who keeps the files in which keys were first published and compares them with
// those that revise them must not tell real keys from generated ones: not by
// the change, and not by which keys change.
func TestRevisedPaddingChangesAsRealKeysDo(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.options.MinRecords, l.options.MinRevised = 100, 40
	l.addExport("us", "US")
	var files []file
	for i, keys := range [][]exposure.Exposure{
		fortnight(100, l.now, 5, report(exposure.Likely), risk(4)),                                      // another phone, another batch
		fortnight(1, l.now, 3, report(exposure.Likely), risk(4)),                                        // the phone that revises
		fortnight(200, l.now.Add(24*time.Hour), 5, report(exposure.Likely), risk(7)),                    // yet another
		fortnight(300, l.now.Add(24*time.Hour), 1, report(exposure.Self), risk(5), regions("CA", "US")), // of another kind
	} {
		l.now = entest.Noon().Add(time.Duration(i+1) * 24 * time.Hour)
		l.add(l.upload(keys))
		l.seal()
		files = append(files, l.publish()...)
	}
	first := byKey(files[1].Keys)

	// The onset that a server assumes moves with the day of the upload.
	l.add(l.upload(fortnight(1, entest.Noon(), 1, risk(2)), withToken(fortnight(1, entest.Noon(), 0))))
	l.seal()
	revised := l.publish()[0].Revised
	if len(revised) < 40 {
		t.Fatalf("%d keys are revised, want 40 at least", len(revised))
	}
	strangers := 0
	for _, now := range revised {
		was, ok := first[now.Key]
		if !ok {
			strangers++
			continue
		}
		if was.Risk != 4 || now.Risk != 2 || was.Report != exposure.Likely || now.Report != exposure.Confirmed {
			t.Errorf("%s with risk %d became %s with risk %d, which no real key did", was.Report, was.Risk, now.Report, now.Risk)
		}
		if was.Start != now.Start || was.Period != now.Period || now.DaysSinceOnset-was.DaysSinceOnset != -2 {
			t.Errorf("%v became %v, want the same times and an onset 2 days later, as of the real ones", was, now)
		}
	}
	if strangers > 0 {
		t.Errorf("%d revised keys are of other batches, where there were enough of the same", strangers)
	}
}

// Where the batch of the real keys has too few padding keys, others of the kind
// are company too.
func TestRevisedPaddingComesFromElsewhereIfItMust(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.options.MinRecords, l.options.MinRevised = 60, 40
	l.add(l.upload(fortnight(100, l.now, 3, report(exposure.Likely), risk(4))))
	l.seal()
	l.options.MinRecords, l.options.MinRevised = 7, 0
	l.add(l.upload(fortnight(1, l.now, 3, report(exposure.Likely), risk(4))))
	l.seal()
	l.publish()
	l.options.MinRevised = 40
	l.add(l.upload(fortnight(1, l.now, 3), withToken(fortnight(1, l.now, 0))))
	l.seal()
	if n := len(byKey(l.publish()[0].Revised)); n != 40 {
		t.Errorf("%d different keys are revised, want 40", n)
	}
}

// What one export's revisions take away from another's batch is filled up.
func TestPaddingOutlivesItsRevision(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("slow", "US")
	l.addExport("fast", "US")
	l.exec(`UPDATE export SET period = '1d' WHERE name = 'slow'`)
	l.options.MinRecords, l.options.MinRevised, l.options.Always = 50, 20, false

	l.now = l.now.Add(time.Hour)
	likely := entest.Exposures(1, 6, l.now, report(exposure.Likely))
	l.add(l.upload(likely))
	l.add(l.upload(entest.Exposures(10, 3, l.now)))
	l.seal()
	if files := l.publish(); len(files) != 1 || files[0].Export != "fast" {
		t.Fatalf("got %v, want a file of fast alone", files)
	}
	l.add(l.upload(entest.Exposures(1, 6, l.now, report(exposure.Revoked)), withToken(likely)))
	l.now = l.now.Add(24 * time.Hour)
	l.seal()
	files := byExport(l.publish())
	if n := len(files["fast"].Revised); n < 20 {
		t.Errorf("fast withdraws %d keys, want 20 at least", n)
	}
	if n := len(files["slow"].Keys); n < 50 {
		t.Errorf("slow has %d keys, want 50 at least", n)
	}
}

func byExport(files []file) map[string]file {
	found := map[string]file{}
	for _, f := range files {
		found[f.Export] = f
	}
	return found
}

// A batch that is large enough needs no padding; but what is revised later must
// not be the keys of one phone alone, so it gets keys that can be revised too.
func TestRevisionsOfALargeBatchHaveCompany(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.options.MinRecords, l.options.MinRevised = 50, 20
	l.add(l.upload(entest.Exposures(1000, 200, l.now)))
	l.seal()
	if n := len(l.publish()[0].Keys); n != 200 {
		t.Errorf("a large batch that nobody can revise has %d keys, want the 200 real ones", n)
	}

	phone := fortnight(1, l.now, 3, report(exposure.Likely), risk(4))
	l.add(l.upload(entest.Exposures(2000, 200, l.now)))
	l.add(l.upload(phone))
	l.seal()
	first := byKey(l.publish()[0].Keys)
	if n := len(first); n != 207+20 {
		t.Errorf("a large batch has %d keys, want the 207 real ones and 20 that can be revised", n)
	}

	l.add(l.upload(fortnight(1, l.now, 3), withToken(phone)))
	l.seal()
	revised := l.publish()[0].Revised
	if n := len(byKey(revised)); n != 20 {
		t.Errorf("%d different keys are revised, want 20", n)
	}
	for _, k := range revised {
		if was := first[k.Key]; was.Report != exposure.Likely || was.DaysSinceOnset != k.DaysSinceOnset {
			t.Errorf("%v became %v, which no real key did", was, k)
		}
	}
}
