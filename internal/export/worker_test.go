package export_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/export"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/listing/listingtest"
)

func newWorker(o *listingtest.Office) *export.Worker {
	return export.NewWorker(export.WorkerSettings{Timeout: time.Minute, Files: 2}, export.WorkerDeps{
		Store: o.DB, Buckets: o, Keys: &o.Ring, Listing: o.Publisher(), Now: o.Now,
	})
}

// work is one run, with what it did.
func work(ctx context.Context, o *listingtest.Office) (export.Done, error) {
	done, err := newWorker(o).Run(ctx)
	return done.(export.Done), err
}

func mustWork(t *testing.T, o *listingtest.Office) export.Done {
	t.Helper()
	done, err := work(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// keysOf are the keys of exposures, for comparison with what was published.
func keysOf(exposures ...exposure.Exposure) map[exposure.Key]bool {
	all := map[exposure.Key]bool{}
	for _, e := range exposures {
		all[e.Key] = true
	}
	return all
}

func publishedKeys(published map[exposure.Key]exposure.Exposure) map[exposure.Key]bool {
	return keysOf(slices.Collect(maps.Values(published))...)
}

func maxRecords(n int) func(*listingtest.Export) {
	return func(x *listingtest.Export) { x.MaxRecords = n }
}

// A week in the life of an export: new keys, a revision, several files a batch.
func TestRunTellsTheStory(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us", maxRecords(10))

	if diff := cmp.Diff(export.Done{}, mustWork(t, o)); diff != "" {
		t.Errorf("nothing to do (-want +got):\n%s", diff)
	}

	likely := func(e *exposure.Exposure) { e.Report = exposure.Likely }
	first := entest.Exposures(0, 25, o.Now(), likely)
	o.Upload(first...)
	o.Seal()
	want := export.Done{Batches: 1, Files: 3, Keys: 25, Indexes: 1}
	if diff := cmp.Diff(want, mustWork(t, o)); diff != "" {
		t.Errorf("the first batch (-want +got):\n%s", diff)
	}
	o.Look("us")
	if diff := cmp.Diff(export.Done{}, mustWork(t, o)); diff != "" {
		t.Errorf("a repeat (-want +got):\n%s", diff)
	}

	o.Wait(24 * time.Hour)
	revised := first[3]
	revised.Report = exposure.Confirmed
	o.Revise(revised)
	second := entest.Exposures(100, 4, o.Now())
	o.Upload(second...)
	o.Wait(time.Hour)
	o.Seal()
	want = export.Done{Batches: 1, Files: 1, Keys: 4, Revised: 1, Indexes: 1}
	if diff := cmp.Diff(want, mustWork(t, o)); diff != "" {
		t.Errorf("the second batch (-want +got):\n%s", diff)
	}

	p := o.Look("us")
	if len(p.Files) != 4 {
		t.Errorf("%d files are listed, want 4", len(p.Files))
	}
	if diff := cmp.Diff(keysOf(append(first, second...)...), publishedKeys(p.Keys)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if got := p.Revised[revised.Key].Report; got != exposure.Confirmed || len(p.Revised) != 1 {
		t.Errorf("%d keys are revised, the one that was to %v", len(p.Revised), got)
	}
}

var errKilled = errors.New("killed")

// kill stops a run at its n-th touch of a bucket: it changes nothing any more,
// in the bucket or in the database. It tells whether the run came that far.
func kill(t *testing.T, o *listingtest.Office, url string, at int64, run func(context.Context) error) bool {
	t.Helper()
	real, err := o.Bucket(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var touches atomic.Int64
	touch := func(context.Context, string) error {
		if touches.Add(1) >= at {
			stop()
			return errKilled
		}
		return nil
	}
	o.SetBucket(url, listingtest.Tap{Bucket: real, Before: touch, After: touch})
	defer o.SetBucket(url, real)
	err = run(ctx)
	killed := touches.Load() >= at
	if killed != (err != nil) {
		t.Fatalf("killed: %t, but error %v", killed, err)
	}
	return killed
}

// Wherever a run ends, phones see a good index, and the next run finishes with
// the same names and never rewrites a byte that is there.
func TestRunKilled(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at++ {
		o := listingtest.New(t)
		o.AddExport("us", maxRecords(10))
		keys := entest.Exposures(0, 25, o.Now())
		o.Upload(keys...)
		o.Seal()
		killed := kill(t, o, listingtest.MainBucket, at, func(ctx context.Context) error {
			_, err := work(ctx, o)
			return err
		})
		o.Look("us")
		before := o.Objects(listingtest.MainBucket)

		o.Wait(10 * time.Minute) // a lease that was not returned runs out
		mustWork(t, o)
		p := o.Look("us")
		if diff := cmp.Diff(keysOf(keys...), publishedKeys(p.Keys)); diff != "" {
			t.Errorf("killed at %d: published (-want +got):\n%s", at, diff)
		}
		after := o.Objects(listingtest.MainBucket)
		for name, content := range before {
			if strings.HasSuffix(name, ".zip") && !bytes.Equal(content, after[name]) {
				t.Errorf("killed at %d: %s was rewritten", at, name)
			}
		}
		if len(after) != len(p.Files)+3 {
			t.Errorf("killed at %d: %d files are listed, but the bucket holds %v", at, len(p.Files), slices.Sorted(maps.Keys(after)))
		}
		if !killed {
			if at < 10 {
				t.Errorf("a run touches the bucket %d times, want more: was it killed at all?", at-1)
			}
			return
		}
	}
}

// An object that an earlier run of the same batch wrote is adopted as it is; its
// signatures, and so its hash, differ from those that this run made.
func TestRunAdopts(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us", maxRecords(10))
	o.Upload(entest.Exposures(0, 25, o.Now())...)
	o.Seal()
	inner, err := o.Bucket(t.Context(), listingtest.MainBucket)
	if err != nil {
		t.Fatal(err)
	}
	// The files get there, but nobody hears of it.
	o.SetBucket(listingtest.MainBucket, listingtest.Tap{
		Bucket: inner, After: func(context.Context, string) error { return errKilled },
	})
	if _, err := work(t.Context(), o); !errors.Is(err, errKilled) {
		t.Fatalf("error %v, want the bucket's", err)
	}
	before := o.Objects(listingtest.MainBucket)
	o.SetBucket(listingtest.MainBucket, inner)
	if got := mustWork(t, o); got.Adopted != len(before) || got.Files != 3 || len(before) == 0 {
		t.Errorf("%d of %d files were adopted, want the %d that were there", got.Adopted, got.Files, len(before))
	}
	after := o.Objects(listingtest.MainBucket)
	for name, content := range before {
		if !bytes.Equal(content, after[name]) {
			t.Errorf("%s was rewritten", name)
		}
	}
	o.Look("us") // with the sizes and hashes of what is there
}

func put(t *testing.T, b blob.Bucket, name string, content []byte) {
	t.Helper()
	err := b.Create(t.Context(), name, blob.Object{
		ContentType: exportfile.ContentTypeZip, CacheControl: exportfile.CacheFile,
		Size: int64(len(content)), Body: bytes.NewReader(content),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What the batch did not write is never overwritten and never listed; other
// exports go on; and once somebody has moved it away the batch is finished.
func TestRunRefusesForeignObjects(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why     string
		content func(own []byte, other []byte) []byte
	}{
		{"not a file at all", func(_, _ []byte) []byte { return []byte("hello") }},
		{"nothing", func(_, _ []byte) []byte { return nil }},
		{"a good file with other keys", func(_, other []byte) []byte { return other }},
		{"our own, cut short", func(own, _ []byte) []byte { return own[:len(own)-10] }},
		{"our own with a flipped bit", func(own, _ []byte) []byte {
			own = bytes.Clone(own)
			own[len(own)/2] ^= 1
			return own
		}},
		{"larger than any of ours", func(_, _ []byte) []byte { return make([]byte, 4<<20) }},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := listingtest.New(t)
			o.AddExport("us")
			o.AddExport("ca", func(x *listingtest.Export) { x.Regions = []string{"CA"} })
			o.Upload(entest.Exposures(0, 5, o.Now())...)
			o.Upload(entest.Exposures(10, 5, o.Now(), func(e *exposure.Exposure) { e.Regions = []string{"CA"} })...)
			o.Seal()
			own, other := rehearse(t, o)
			foreign := tc.content(own.content, other.content)
			bucket, err := o.Bucket(t.Context(), "mem://us")
			if err != nil {
				t.Fatal(err)
			}
			put(t, bucket, own.name, foreign)

			done, err := work(t.Context(), o)
			if errs.KindOf(err) != errs.KindConflict || !strings.Contains(err.Error(), own.name) {
				t.Errorf("error %v, want a conflict that names %s", err, own.name)
			}
			if done.Batches != 1 {
				t.Errorf("%d batches were finished, want the other export's", done.Batches)
			}
			if got := o.Objects("mem://us")[own.name]; !bytes.Equal(got, foreign) {
				t.Error("the foreign object was overwritten")
			}
			if p := o.Look("us"); len(p.Files) != 0 {
				t.Errorf("%v is listed", p.Files)
			}
			if p := o.Look("ca"); len(p.Keys) != 5 {
				t.Errorf("the other export has %d keys, want 5", len(p.Keys))
			}

			if err := bucket.Delete(t.Context(), own.name); err != nil {
				t.Fatal(err)
			}
			mustWork(t, o)
			if p := o.Look("us"); len(p.Keys) != 5 {
				t.Errorf("after it was moved away there are %d keys, want 5", len(p.Keys))
			}
		})
	}
}

type sample struct {
	name    string
	content []byte
}

// rehearse lets a worker write into buckets that nobody keeps, and gives the
// files of the exports us and ca.
func rehearse(t *testing.T, o *listingtest.Office) (us, ca sample) {
	t.Helper()
	const aside = "mem://aside"
	o.Must(`UPDATE export SET bucket = $1`, aside)
	inner, err := o.Bucket(t.Context(), aside)
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(context.Context, string) error { return errKilled }
	o.SetBucket(aside, listingtest.Tap{Bucket: inner, After: refuse})
	if _, err := work(t.Context(), o); err == nil {
		t.Fatal("the rehearsal had no fault")
	}
	o.Must(`UPDATE export SET bucket = 'mem://' || name`)
	for name, content := range o.Objects(aside) {
		if strings.HasPrefix(name, "us/") {
			us = sample{name, content}
		} else {
			ca = sample{name, content}
		}
	}
	return us, ca
}

// Many workers at once on many batches: each batch is finished by one of them,
// and every index is whole and in order.
func TestManyWorkers(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		o.AddExport(name, maxRecords(7))
	}
	const rounds, perRound = 5, 20
	for round := range rounds {
		o.Wait(time.Hour)
		o.Upload(entest.Exposures(round*perRound, perRound, o.Now())...)
		o.Seal()
	}
	var finished atomic.Int64
	var workers errgroup.Group
	for range 4 {
		workers.Go(func() error {
			done, err := work(t.Context(), o)
			finished.Add(int64(done.Batches))
			return err
		})
	}
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := finished.Load(), int64(rounds*len(names)); got != want {
		t.Errorf("%d batches were finished, want %d", got, want)
	}
	mustWork(t, o)
	for _, name := range names {
		p := o.Look(name)
		if len(p.Files) != rounds*3 || len(p.Keys) != rounds*perRound {
			t.Errorf("export %s lists %d files with %d keys, want %d with %d", name, len(p.Files), len(p.Keys), rounds*3, rounds*perRound)
		}
	}
}

// A worker that is overtaken in the middle of a batch stops, and what it has
// written serves the one that took over.
func TestLeaseLost(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Seal()
	inner, err := o.Bucket(t.Context(), listingtest.MainBucket)
	if err != nil {
		t.Fatal(err)
	}
	var taken atomic.Bool
	o.SetBucket(listingtest.MainBucket, listingtest.Tap{Bucket: inner, After: func(ctx context.Context, _ string) error {
		if taken.Swap(true) {
			return nil
		}
		// While this upload hangs, another worker takes the batch over. It
		// asks again when it meets a beat, which locks the row for a moment.
		for ok := false; !ok; {
			var err error
			if _, ok, err = o.LeaseBatch(t.Context(), o.Now(), time.Minute); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}})
	slow := newWorker(o)
	// A lease that is over when it begins: no extension wins the race for it.
	slow.SetLease(-time.Hour, time.Millisecond)
	got, err := slow.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(export.Done{Lost: 1}, got); diff != "" {
		t.Errorf("the overtaken run (-want +got):\n%s", diff)
	}
	o.Wait(time.Hour)
	want := export.Done{Batches: 1, Files: 1, Adopted: 1, Keys: 5, Indexes: 1}
	if diff := cmp.Diff(want, mustWork(t, o)); diff != "" {
		t.Errorf("the run that took over (-want +got):\n%s", diff)
	}
	o.Look("us")
}

// A worker that was overtaken without noticing cannot end the batch.
func TestFence(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Seal()
	inner, err := o.Bucket(t.Context(), listingtest.MainBucket)
	if err != nil {
		t.Fatal(err)
	}
	var overtaken atomic.Bool
	o.SetBucket(listingtest.MainBucket, listingtest.Tap{Bucket: inner, After: func(context.Context, string) error {
		if overtaken.Swap(true) {
			return nil
		}
		o.Wait(time.Hour)
		done, err := work(t.Context(), o)
		if err != nil || done.Batches != 1 {
			t.Errorf("the other worker finished %d batches, want 1 (error %v)", done.Batches, err)
		}
		return nil
	}})
	if diff := cmp.Diff(export.Done{Lost: 1}, mustWork(t, o)); diff != "" {
		t.Errorf("the overtaken run (-want +got):\n%s", diff)
	}
	if p := o.Look("us"); len(p.Keys) != 5 || len(p.Files) != 1 {
		t.Errorf("%d files with %d keys, want 1 with 5", len(p.Files), len(p.Keys))
	}
}

// The batch of a worker that died is left alone while its lease runs, and done
// by the next one after that.
func TestDeadWorker(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Seal()
	dead, ok, err := o.LeaseBatch(t.Context(), o.Now(), time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff(export.Done{}, mustWork(t, o)); diff != "" {
		t.Errorf("while the lease runs (-want +got):\n%s", diff)
	}
	o.Wait(2 * time.Minute)
	if done := mustWork(t, o); done.Batches != 1 {
		t.Errorf("%d batches were finished after the lease had run out, want 1", done.Batches)
	}
	if ok, err := o.CompleteBatch(t.Context(), dead, nil, o.Now()); ok || err != nil {
		t.Errorf("the dead worker ended the batch too: %t, %v", ok, err)
	}
	o.Look("us")
}

// A batch that fails is tried once a run, is free at once for the next, and
// holds up its own index only.
func TestFailingBatchStopsNobody(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		spoil func(o *listingtest.Office)
		mend  func(o *listingtest.Office)
		want  string
	}{
		{
			"the bucket cannot be opened",
			func(o *listingtest.Office) {
				o.Must(`UPDATE export SET bucket = $1 WHERE name = 'bad'`, listingtest.NoBucket)
			},
			func(o *listingtest.Office) { o.Must(`UPDATE export SET bucket = 'mem://bad' WHERE name = 'bad'`) },
			"no such bucket",
		},
		{
			"the signing key is gone",
			func(o *listingtest.Office) {
				o.Must(`UPDATE export_batch SET signing_keys = jsonb_set(signing_keys, '{0,url}', '"file:///gone.pem"')
				        WHERE export_id = (SELECT export_id FROM export WHERE name = 'bad')`)
			},
			func(o *listingtest.Office) {
				o.Must(`UPDATE export_batch SET signing_keys = jsonb_set(signing_keys, '{0,url}', to_jsonb(k.key_url)) FROM signing_key k`)
			},
			"gone.pem",
		},
		{
			"there is no signing key",
			func(o *listingtest.Office) {
				o.Must(`UPDATE export_batch SET signing_keys = '[]' WHERE export_id = (SELECT export_id FROM export WHERE name = 'bad')`)
			},
			func(o *listingtest.Office) {
				o.Must(`UPDATE export_batch SET signing_keys = (SELECT signing_keys FROM export_batch WHERE signing_keys <> '[]' LIMIT 1)`)
			},
			"signingKeys",
		},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := listingtest.New(t)
			o.AddExport("bad")
			o.AddExport("good")
			for round := range 2 {
				o.Wait(time.Hour)
				o.Upload(entest.Exposures(10*round, 5, o.Now())...)
				o.Seal()
				if round == 0 {
					tc.spoil(o)
				}
			}
			done, err := work(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
			if strings.Count(fmt.Sprint(err), "batch ") > 2 {
				t.Errorf("a batch was tried again in the same run: %v", err)
			}
			if done.Batches < 2 {
				t.Errorf("%d batches were finished, want at least the other export's 2", done.Batches)
			}
			if p := o.Look("good"); len(p.Keys) != 10 {
				t.Errorf("the other export has %d keys, want 10", len(p.Keys))
			}
			tc.mend(o)
			mustWork(t, o)
			if p := o.Look("bad"); len(p.Keys) != 10 || len(p.Files) != 2 {
				t.Errorf("mended, the export has %d files with %d keys, want 2 with 10", len(p.Files), len(p.Keys))
			}
		})
	}
}

// An index never lists what comes after a batch that is not finished: phones
// would miss it when it is inserted before.
func TestIndexWaitsForUnfinishedBatch(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	for round := range 3 {
		o.Wait(time.Hour)
		o.Upload(entest.Exposures(10*round, 5, o.Now())...)
		o.Seal()
		if round == 0 {
			mustWork(t, o)
		}
	}
	held, ok, err := o.LeaseBatch(t.Context(), o.Now(), time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if done := mustWork(t, o); done.Batches != 1 {
		t.Fatalf("%d batches were finished, want the last one", done.Batches)
	}
	if p := o.Look("us"); len(p.Files) != 1 {
		t.Errorf("%v is listed, want the first batch's file only", p.Files)
	}
	if err := o.ReleaseBatch(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	mustWork(t, o)
	if p := o.Look("us"); len(p.Files) != 3 || len(p.Keys) != 15 {
		t.Errorf("%d files with %d keys, want 3 with 15", len(p.Files), len(p.Keys))
	}
}

// Files are signed with the keys that were valid when their batch was cut,
// newest first, whatever happens to the configuration afterwards.
func TestSigningKeysAreThoseOfTheCut(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	noon := o.Now()
	o.AddSigningKey(listingtest.SigningKey{Name: "old", ID: "310", Version: "v1", Thru: noon.Add(26 * time.Hour)})
	o.AddSigningKey(listingtest.SigningKey{Name: "new", ID: "310", Version: "v2", From: noon.Add(12 * time.Hour)})
	o.AddSigningKey(listingtest.SigningKey{Name: "unused", ID: "999", Version: "v1"})
	o.AddExport("us", func(x *listingtest.Export) { x.Keys = []string{"old", "new"} })

	for i, tc := range []struct {
		why  string
		wait time.Duration
		want []exportfile.KeyName
	}{
		{"before the new key", time.Hour, []exportfile.KeyName{{ID: "310", Version: "v1"}}},
		{"both, the newest first", 24 * time.Hour, []exportfile.KeyName{{ID: "310", Version: "v2"}, {ID: "310", Version: "v1"}}},
		{"after the old key", 24 * time.Hour, []exportfile.KeyName{{ID: "310", Version: "v2"}}},
	} {
		o.Wait(tc.wait)
		o.Upload(entest.Exposures(10*i, 3, o.Now())...)
		o.Seal()
		o.Must(`UPDATE export SET region = 'XX', input_regions = '{XX}'`) // frozen: without effect
		mustWork(t, o)
		o.Must(`UPDATE export SET region = 'US', input_regions = '{US}'`)
		p := o.Look("us")
		if len(p.Files) != i+1 {
			t.Fatalf("%s: %d files, want %d", tc.why, len(p.Files), i+1)
		}
		content := o.Objects(listingtest.MainBucket)[p.Files[i]]
		r := bytes.NewReader(content)
		got, err := exportfile.Read(r, r.Size(), func(exposure.Exposure, bool) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got.Signatures); diff != "" || got.Region != "US" {
			t.Errorf("%s: region %s, signatures (-want +got):\n%s", tc.why, got.Region, diff)
		}
	}
}

// A part without keys makes no file, and the others keep their numbers.
func TestEmptyPart(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Wait(time.Hour)
	o.Seal()
	o.Must(`UPDATE export_batch SET parts = parts || parts`) // the first ends where it begins
	if done := mustWork(t, o); done.Files != 1 || done.Keys != 5 {
		t.Errorf("%d files with %d keys, want 1 with 5", done.Files, done.Keys)
	}
	p := o.Look("us")
	if len(p.Files) != 1 || !strings.HasSuffix(p.Files[0], "-00002.zip") {
		t.Errorf("%v is listed, want the file with number 2", p.Files)
	}
}

// An export that is added later begins with what comes then, or with all that
// is retained; one that has ended gets a last batch and keeps its files.
func TestExportsComeAndGo(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	step := func(first int) {
		o.Wait(time.Hour)
		o.Upload(entest.Exposures(first, 5, o.Now())...)
		o.Wait(time.Hour)
		o.Seal()
		mustWork(t, o)
	}
	step(0)
	o.AddExport("later")
	o.AddExport("all", func(x *listingtest.Export) { x.Backfill = true })
	step(10)
	o.Upload(entest.Exposures(20, 5, o.Now())...)
	o.Wait(time.Hour)
	o.Must(`UPDATE export SET valid_thru = $1 WHERE name = 'us'`, o.Now())
	o.Seal()
	mustWork(t, o)
	step(30)

	got := map[string]int{}
	for _, name := range []string{"us", "later", "all"} {
		got[name] = len(o.Look(name).Keys)
	}
	want := map[string]int{"us": 15, "later": 15, "all": 20}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys an export (-want +got):\n%s", diff)
	}
}

// A run that is nearly out of time begins no batch, and says that there is more.
func TestTimeIsNearlyUp(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Seal()
	worker := export.NewWorker(export.WorkerSettings{Timeout: 100 * time.Hour, Files: 2}, export.WorkerDeps{
		Store: o.DB, Buckets: o, Keys: &o.Ring, Listing: o.Publisher(), Now: o.Now,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Hour)
	defer cancel()
	got, err := worker.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(export.Done{More: true}, got); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}

// A key that may still be broadcast stops its file: nobody gets to see it.
func TestEmbargoedKeyIsNeverPublished(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	today := entest.Exposure(0, o.Now(), func(e *exposure.Exposure) { e.Start = entest.DaysAgo(o.Now(), 0) })
	o.Upload(today)
	o.Must(`UPDATE arrival SET due_at = '-infinity'`) // as a fault would
	o.Seal()
	if _, err := work(t.Context(), o); err == nil {
		t.Error("the file was made")
	}
	if got := o.Objects(listingtest.MainBucket); len(got) != 0 {
		t.Errorf("the bucket holds %v", slices.Sorted(maps.Keys(got)))
	}
	o.Wait(26 * time.Hour)
	mustWork(t, o)
	if p := o.Look("us"); len(p.Keys) != 1 {
		t.Errorf("%d keys after the embargo, want 1", len(p.Keys))
	}
}

// In development a file may hold what is still broadcast.
func TestReleaseSameDay(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	o.Upload(entest.Exposure(0, o.Now(), func(e *exposure.Exposure) { e.Start = entest.DaysAgo(o.Now(), 0) }))
	o.Must(`UPDATE arrival SET due_at = '-infinity'`) // as exposure does with the same setting
	o.Seal()
	worker := export.NewWorker(export.WorkerSettings{Timeout: time.Minute, Files: 2, ReleaseSameDay: true}, export.WorkerDeps{
		Store: o.DB, Buckets: o, Keys: &o.Ring, Listing: o.Publisher(), Now: o.Now,
	})
	got, err := worker.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(export.Done{Batches: 1, Files: 1, Keys: 1, Indexes: 1}, got); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}
