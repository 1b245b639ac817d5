package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// published drops what a file does not say.
func published(keys []exposure.Exposure) []exposure.Exposure {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i].Regions, keys[i].Traveler = nil, false
	}
	slices.SortFunc(keys, func(a, b exposure.Exposure) int { return slices.Compare(a.Key[:], b.Key[:]) })
	return keys
}

func TestKeyIsPublishedOnceWithItsOutcome(t *testing.T) {
	t.Parallel()
	now := entest.Noon()
	likely := entest.Exposures(1, 3, now, report(exposure.Likely))
	confirmed := entest.Exposures(1, 3, now)
	negative := entest.Exposures(1, 3, now, report(exposure.Revoked))

	for _, tc := range []struct {
		why         string
		then        []exposure.Exposure // revises likely
		between     bool                // publish before the revision
		want        []file
		wantPadding bool
	}{
		{"unchanged", nil, true, []file{{"us", published(likely), nil}}, false},
		{"revised before anyone saw it", confirmed, false, []file{{"us", published(confirmed), nil}}, false},
		{"withdrawn before anyone saw it", negative, false, []file{{"us", nil, nil}}, false},
		{"revised afterwards", confirmed, true, []file{{"us", published(likely), nil}, {"us", nil, published(confirmed)}}, false},
		{"withdrawn afterwards", negative, true, []file{{"us", published(likely), nil}, {"us", nil, published(negative)}}, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			l.addExport("us", "US")
			var got []file
			l.add(l.upload(likely))
			if tc.between {
				l.seal()
				got = append(got, l.publish()...)
			}
			if tc.then != nil {
				l.add(l.upload(tc.then, withToken(likely)))
			}
			l.seal()
			got = append(got, l.publish()...)
			if tc.why == "withdrawn before anyone saw it" {
				tc.want = nil // no key, no batch
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEmbargo(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	today := entest.Exposures(1, 2, l.now, func(e *exposure.Exposure) { e.Start += 144 }, report(exposure.Likely))
	release := today[0].Release()
	l.add(l.upload(today))
	l.add(l.upload(entest.Exposures(1, 2, l.now, func(e *exposure.Exposure) { e.Start += 144 }), withToken(today)))

	l.now = release.Add(-time.Second)
	if got := l.seal(); got.Keys+got.Revisions != 0 {
		t.Errorf("a second before the end of the embargo %+v was sealed, want nothing", got)
	}
	l.now = release
	if got := l.seal(); got.Keys != 2 || got.Revisions != 2 {
		t.Errorf("at the end of the embargo %+v was sealed, want 2 keys and 2 revisions", got)
	}
}

func TestSealDiscards(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.add(l.upload(entest.Exposures(1, 1, l.now)))
	l.seal()
	l.add(l.upload(entest.Exposures(1, 1, l.now, func(e *exposure.Exposure) { e.Start -= 144 })))
	l.add(l.upload(entest.Exposures(2, 1, l.now, func(e *exposure.Exposure) { e.Start -= 144 * 40 })))
	l.add(l.upload(entest.Exposures(3, 1, l.now)))
	got := l.seal()
	if got.Discarded != 2 || got.Keys != 1 {
		t.Errorf("got %+v, want 2 discarded (known under another start; no partition) and 1 key", got)
	}
	if n := l.count(`SELECT count(*) FROM arrival`); n != 0 {
		t.Errorf("%d arrivals are left, want none", n)
	}
}

// Batches of an export tile the epochs, whatever is sealed and cut when, by
// how many sealers at once.
func TestBatchesTileTheLog(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.addExport("all", "US", "CA")
	ups := make([]store.Upload, 60)
	for i := range ups {
		ups[i] = l.upload(entest.Exposures(10*i, 10, l.now, regions([]string{"US", "CA"}[i%2])))
	}
	var g errgroup.Group
	for worker := range 3 {
		g.Go(func() error {
			for i := worker; i < len(ups); i += 3 {
				if _, err := l.try(ups[i]); err != nil {
					return err
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 15 {
				if _, err := l.Seal(t.Context(), l.now, l.options); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	l.seal()
	seen := map[string]map[exposure.Key]int{"us": {}, "all": {}}
	for _, f := range l.publish() {
		for _, k := range f.Keys {
			seen[f.Export][k.Key]++
		}
	}
	if got := len(seen["us"]); got != 300 {
		t.Errorf("us publishes %d keys, want 300", got)
	}
	if got := len(seen["all"]); got != 600 {
		t.Errorf("all publishes %d keys, want 600", got)
	}
	for export, keys := range seen {
		for _, n := range keys {
			if n != 1 {
				t.Fatalf("%s publishes a key %d times", export, n)
			}
		}
	}
	if gaps := l.count(`
		SELECT count(*)
		FROM   export_batch a
		JOIN   export_batch b ON b.export_id = a.export_id AND b.first_epoch > a.first_epoch AND b.first_epoch <= a.last_epoch`); gaps != 0 {
		t.Errorf("%d batches overlap", gaps)
	}
	if n := l.count(`SELECT count(*) FROM export_batch a JOIN export_batch b ON b.export_id = a.export_id AND b.batch_id <> a.batch_id AND b.end_at = a.end_at`); n != 0 {
		t.Errorf("%d batches end with another one", n)
	}
}

func TestPadding(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.options.MinRecords, l.options.PaddingRange, l.options.MinRevised = 50, 10, 20
	l.addExport("us", "US")
	l.addExport("both", "US", "CA")
	likelyUS := entest.Exposures(1, 6, l.now, report(exposure.Likely))
	likelyCA := entest.Exposures(100, 3, l.now, report(exposure.Likely), regions("CA"))
	l.add(l.upload(likelyUS))
	l.add(l.upload(likelyCA))
	if got := l.seal(); got.Cells != 2 || got.Batches != 2 {
		t.Errorf("got %+v, want 2 cells (both; both without us) in 2 batches", got)
	}
	files := l.publish()
	us, both := keySet(files[0].Keys), keySet(files[1].Keys)
	if n := len(us); n < 50 || n > 60 {
		t.Errorf("us has %d keys, want 50 to 60", n)
	}
	if n := len(both) - len(us); n < 50 || n > 60 {
		t.Errorf("both has %d keys more than us, want 50 to 60", n)
	}
	for k := range us {
		if !both[k] {
			t.Fatal("a key of us is not in both: whoever compares them knows padding")
		}
	}
	for _, k := range files[0].Keys {
		if k.Report != exposure.Likely || k.Start != likelyUS[0].Start {
			t.Fatalf("a padding key says %+v, which no real key says", k)
		}
	}

	l.add(l.upload(entest.Exposures(1, 6, l.now, report(exposure.Revoked)), withToken(likelyUS)))
	l.seal()
	files = l.publish()
	if n := len(files[0].Revised); n < 20 || n > 30 || len(files[0].Keys) != 0 {
		t.Errorf("us revises %d keys and has %d new ones, want 20 to 30 and none", n, len(files[0].Keys))
	}
	for _, k := range files[0].Revised {
		if !us[k.Key] {
			t.Fatal("a key is revised that was not published")
		}
	}
	if n := l.seal(); n.Epochs+n.Batches+n.Padding != 0 {
		t.Errorf("without arrivals %+v was made, want nothing", n)
	}
}

func keySet(keys []exposure.Exposure) map[exposure.Key]bool {
	set := map[exposure.Key]bool{}
	for _, k := range keys {
		set[k.Key] = true
	}
	return set
}

func TestSplitFiles(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.options.MaxRecords = 100
	l.addExport("us", "US")
	for day := range 5 {
		l.add(l.upload(entest.Exposures(1000*day, 90, l.now, func(e *exposure.Exposure) { e.Start -= exposure.Interval(144 * day) })))
	}
	l.seal()
	files := l.publish()
	seen := map[exposure.Key]bool{}
	for _, f := range files {
		if len(f.Keys) > 100 {
			t.Errorf("a file has %d keys, want 100 at most", len(f.Keys))
		}
		for _, k := range f.Keys {
			seen[k.Key] = true
		}
	}
	if len(files) != 5 || len(seen) != 450 {
		t.Errorf("%d files hold %d keys, want 5 and 450", len(files), len(seen))
	}
}

func TestCrowd(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.options.Always, l.options.MinUploads = false, 3
	l.add(l.upload(entest.Exposures(1, 5, l.now)))
	l.add(l.upload(entest.Exposures(10, 5, l.now)))
	if got := l.seal(); got.Epochs != 0 || got.Waiting != 2 {
		t.Errorf("two uploads of three: got %+v, want 2 waiting", got)
	}
	l.now = l.now.Add(time.Hour)
	l.add(l.upload(entest.Exposures(20, 5, l.now)))
	if got := l.seal(); got.Keys != 15 {
		t.Errorf("three uploads: got %+v, want 15 keys", got)
	}
	l.add(l.upload(entest.Exposures(30, 5, l.now)))
	l.now = l.now.Add(25 * time.Hour)
	if got := l.seal(); got.Keys != 5 {
		t.Errorf("one upload after the longest wait: got %+v, want 5 keys", got)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why      string
		filter   store.Filter
		regions  []string
		traveler bool
		want     bool
	}{
		{"its region", store.Filter{InputRegions: []string{"US"}, Travelers: "own-region"}, []string{"US"}, false, true},
		{"one of many", store.Filter{InputRegions: []string{"CA", "US"}, Travelers: "own-region"}, []string{"MX", "US"}, false, true},
		{"another region", store.Filter{InputRegions: []string{"US"}, Travelers: "own-region"}, []string{"CA"}, false, false},
		{"excluded wins", store.Filter{InputRegions: []string{"US"}, ExcludeRegions: []string{"CA"}, Travelers: "own-region"}, []string{"CA", "US"}, false, false},
		{"a traveller of another region", store.Filter{InputRegions: []string{"US"}, Travelers: "own-region"}, []string{"CA"}, true, false},
		{"travellers of any region", store.Filter{InputRegions: []string{"US"}, Travelers: "include"}, []string{"CA"}, true, true},
		{"but not of an excluded one", store.Filter{InputRegions: []string{"US"}, ExcludeRegions: []string{"CA"}, Travelers: "include"}, []string{"CA"}, true, false},
		{"no travellers", store.Filter{InputRegions: []string{"US"}, Travelers: "exclude"}, []string{"US"}, true, false},
		{"others than travellers", store.Filter{InputRegions: []string{"US"}, Travelers: "exclude"}, []string{"US"}, false, true},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if got := tc.filter.Covers(tc.regions, tc.traveler, 0); got != tc.want {
				t.Errorf("the rule in Go says %t, want %t", got, tc.want)
			}
			l := newLedger(t)
			l.addExport("x", "US")
			l.exec(`UPDATE export SET input_regions = $1, exclude_regions = $2, travelers = $3`,
				tc.filter.InputRegions, append([]string{}, tc.filter.ExcludeRegions...), string(tc.filter.Travelers))
			l.add(l.upload(entest.Exposures(1, 1, l.now, regions(tc.regions...), func(e *exposure.Exposure) { e.Traveler = tc.traveler })))
			l.seal()
			if got := len(l.publish()) == 1; got != tc.want {
				t.Errorf("the rule in SQL says %t, want %t", got, tc.want)
			}
		})
	}
}

func TestExportsBeginAndEnd(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.add(l.upload(entest.Exposures(1, 1, l.now)))
	l.seal()
	l.addExport("late", "US")
	l.addExport("back", "US")
	l.exec(`UPDATE export SET last_epoch = NULL, backfill = true WHERE name = 'back'`)
	l.add(l.upload(entest.Exposures(2, 1, l.now)))
	l.seal()
	for _, f := range l.publish() {
		if want := map[string]int{"late": 1, "back": 2}[f.Export]; len(f.Keys) != want {
			t.Errorf("%s begins with %d keys, want %d", f.Export, len(f.Keys), want)
		}
	}
	l.options.Always = false
	l.add(l.upload(entest.Exposures(3, 1, l.now)))
	l.now = l.now.Add(time.Minute)
	l.exec(`UPDATE export SET valid_thru = $1 WHERE name = 'late'`, l.now)
	l.seal()
	if files := l.publish(); len(files) != 1 || files[0].Export != "late" || len(files[0].Keys) != 1 {
		t.Errorf("at its end late publishes %v, want what is left", files)
	}
	l.now = l.now.Add(time.Hour)
	l.add(l.upload(entest.Exposures(4, 1, l.now)))
	l.seal()
	for _, f := range l.publish() {
		if f.Export == "late" {
			t.Error("late publishes after its end")
		}
	}
}
