package cleanup_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/cleanup"
	"enkeyserver/internal/export"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/listing/listingtest"
)

const day = 24 * time.Hour

func settings(edits ...func(*cleanup.Settings)) cleanup.Settings {
	s := cleanup.Settings{TTL: 14 * day, Grace: time.Hour, Timeout: time.Minute}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func service(t *testing.T, o *listingtest.Office) *cleanup.Service {
	t.Helper()
	s, err := cleanup.New(settings(), cleanup.Deps{Store: o.DB, Buckets: o, Listing: o.Publisher(), Now: o.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publish uploads five keys and makes a file of them.
func publish(t *testing.T, o *listingtest.Office, first int) {
	t.Helper()
	o.Upload(entest.Exposures(first, 5, o.Now())...)
	o.Wait(time.Hour)
	o.Seal()
	worker := export.NewWorker(export.WorkerSettings{Timeout: time.Minute, Files: 2}, export.WorkerDeps{
		Store: o.DB, Buckets: o, Keys: &o.Ring, Listing: o.Publisher(), Now: o.Now,
	})
	if _, err := worker.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func cleanExports(t *testing.T, o *listingtest.Office) cleanup.Removed {
	t.Helper()
	answer, err := service(t, o).Exports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return answer.(cleanup.Removed)
}

func cleanExposures(t *testing.T, o *listingtest.Office) cleanup.Forgotten {
	t.Helper()
	answer, err := service(t, o).Exposures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return answer.(cleanup.Forgotten)
}

// zips are the files in a bucket, listed or not.
func zips(o *listingtest.Office, bucket string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(o.Objects(bucket))) {
		if strings.HasSuffix(name, ".zip") {
			names = append(names, name)
		}
	}
	return names
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*cleanup.Settings)
		want string // in the error; empty: fine
	}{
		{"the defaults", func(*cleanup.Settings) {}, ""},
		{"the least", func(s *cleanup.Settings) { s.TTL = 240 * time.Hour }, ""},
		{"keys that phones still need", func(s *cleanup.Settings) { s.TTL = 239 * time.Hour }, "CLEANUP_TTL is 239h0m0s"},
		{"files that cached indexes list", func(s *cleanup.Settings) { s.Grace = time.Minute }, "INDEX_CACHE_GRACE is 1m0s"},
		{"as short as you like, in development", func(s *cleanup.Settings) {
			s.TTL, s.Grace, s.ShortTTL = 0, 0, true
		}, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := cleanup.New(settings(tc.edit), cleanup.Deps{})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
		})
	}
}

// The life of a file: listed, out of the index, out of the bucket; and of its
// keys, which go two days after it.
func TestTheStoryOfAFile(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	publish(t, o, 0)
	o.Wait(6 * day)
	publish(t, o, 10)

	step := func(why string, wait time.Duration, want cleanup.Removed, listed, stored int) {
		t.Helper()
		o.Wait(wait)
		if diff := cmp.Diff(want, cleanExports(t, o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", why, diff)
		}
		if p := o.Look("us"); len(p.Files) != listed {
			t.Errorf("%s: %d files are listed, want %d", why, len(p.Files), listed)
		}
		if got := zips(o, listingtest.MainBucket); len(got) != stored {
			t.Errorf("%s: the bucket holds %v, want %d files", why, got, stored)
		}
	}
	step("nothing is old", 0, cleanup.Removed{}, 2, 2)
	step("almost", 8*day-2*time.Hour, cleanup.Removed{}, 2, 2)
	step("the first file leaves the index", 2*time.Hour, cleanup.Removed{Delisted: 1, Indexes: 1}, 1, 2)
	step("caches may still list it", 59*time.Minute, cleanup.Removed{}, 1, 2)
	step("no cache lists it", 2*time.Minute, cleanup.Removed{Deleted: 1}, 1, 1)
	step("a repeat", 0, cleanup.Removed{}, 1, 1)
	publish(t, o, 20)
	step("new files come meanwhile", 0, cleanup.Removed{}, 2, 2)
	step("the second leaves", 6*day, cleanup.Removed{Delisted: 1, Indexes: 1}, 1, 2)
	step("the second goes", 2*time.Hour, cleanup.Removed{Deleted: 1}, 1, 1)
}

// Keys go when their day ended 16 days ago, never before, and with them what
// was noted about them.
func TestKeysAreForgotten(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	publish(t, o, 0) // keys of the day before
	keys := func() (n int) {
		t.Helper()
		if err := o.Pool().QueryRow(t.Context(), `SELECT count(*) FROM exposure WHERE NOT padding`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	o.Wait(15*day + 10*time.Hour) // 23:00; the keys' day ended 16 days less an hour ago
	got := cleanExposures(t, o)
	if keys() != 5 {
		t.Errorf("%d keys are left an hour before their time, want 5", keys())
	}
	if got.Receipts != 1 {
		t.Errorf("%d receipts were forgotten, want 1", got.Receipts)
	}
	o.Wait(2 * time.Hour)
	if got := cleanExposures(t, o); got.Days != 1 || keys() != 0 {
		t.Errorf("%d days were forgotten and %d keys are left, want 1 and 0", got.Days, keys())
	}
	if diff := cmp.Diff(cleanup.Forgotten{}, cleanExposures(t, o)); diff != "" {
		t.Errorf("a repeat (-want +got):\n%s", diff)
	}

	cleanExports(t, o)
	o.Wait(2 * day)
	cleanExports(t, o)
	if got := cleanExposures(t, o); got.Batches != 1 || got.Epochs != 1 {
		t.Errorf("%d batches and %d epochs were forgotten, want the record of each", got.Batches, got.Epochs)
	}
}

// The day of a key stays for as long as a batch that is not finished needs it.
func TestUnfinishedBatchKeepsItsKeys(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Wait(time.Hour)
	o.Seal()
	o.Wait(30 * day)
	cleanExposures(t, o)
	publish(t, o, 10)
	if p := o.Look("us"); len(p.Keys) != 10 {
		t.Errorf("%d keys were published, want the late ones too: 10", len(p.Keys))
	}
}

var errKilled = errors.New("killed")

// Killed at any touch of the bucket, phones never meet an entry without its
// file, and the next runs finish.
func TestExportsKilled(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at++ {
		o := listingtest.New(t)
		o.AddExport("us")
		publish(t, o, 0)
		publish(t, o, 10)
		o.Wait(day)
		publish(t, o, 20)
		o.Wait(13*day + time.Hour)

		inner, err := o.Bucket(t.Context(), listingtest.MainBucket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var touches atomic.Int64
		touch := func(context.Context, string) error {
			if touches.Add(1) < at {
				return nil
			}
			stop()
			return errKilled
		}
		o.SetBucket(listingtest.MainBucket, listingtest.Tap{Bucket: inner, Before: touch, After: touch})
		_, err = service(t, o).Exports(ctx) // out of the index
		o.Look("us")
		if err == nil {
			o.Wait(2 * time.Hour)
			_, err = service(t, o).Exports(ctx) // out of the bucket
		}
		stop()
		killed := touches.Load() >= at
		if killed != (err != nil) {
			t.Errorf("at %d: killed %t, error %v", at, killed, err)
		}
		o.SetBucket(listingtest.MainBucket, inner)
		o.Look("us")

		for range 2 {
			cleanExports(t, o)
			o.Look("us")
			o.Wait(2 * time.Hour)
		}
		cleanExports(t, o)
		if p := o.Look("us"); len(p.Files) != 1 || len(zips(o, listingtest.MainBucket)) != 1 {
			t.Errorf("at %d: %v is listed of %v, want one file", at, p.Files, zips(o, listingtest.MainBucket))
		}
		if !killed {
			if at < 10 {
				t.Errorf("both runs touch the bucket %d times, want more", at-1)
			}
			return
		}
	}
}

// What cannot be deleted is told, and does not keep other files: not even when
// there are more such files than one step looks up.
func TestUndeletableFilesStopNobody(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("stuck", func(x *listingtest.Export) { x.Bucket, x.MaxRecords = "mem://stuck", 1 })
	o.Upload(entest.Exposures(1000, 120, o.Now())...)
	publish(t, o, 0)
	o.AddExport("us")
	publish(t, o, 10)
	o.Wait(15 * day)
	cleanExports(t, o)
	o.Wait(2 * time.Hour)

	inner, err := o.Bucket(t.Context(), "mem://stuck")
	if err != nil {
		t.Fatal(err)
	}
	o.SetBucket("mem://stuck", listingtest.Tap{Bucket: inner, Before: func(context.Context, string) error { return errKilled }})
	answer, err := service(t, o).Exports(t.Context())
	if !errors.Is(err, errKilled) || strings.Count(err.Error(), errKilled.Error()) != 1 {
		t.Errorf("error %v, want the bucket's once", err)
	}
	if got, want := answer, (cleanup.Removed{Deleted: 1, Failed: 130}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	o.SetBucket("mem://stuck", inner)
	if got := cleanExports(t, o).Deleted; got != 130 || len(zips(o, "mem://stuck")) != 0 {
		t.Errorf("%d files were deleted afterwards, want 130", got)
	}
}
