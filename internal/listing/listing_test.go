package listing_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/database"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/listing/listingtest"
	"enkeyserver/internal/store"
)

// finishBatch makes the one file of the batch that is cut next, as a worker
// would, without its index.
func finishBatch(t *testing.T, o *listingtest.Office, first int) {
	t.Helper()
	o.Wait(time.Hour)
	o.Upload(entest.Exposures(first, 3, o.Now())...)
	o.Seal()
	b, ok, err := o.LeaseBatch(t.Context(), o.Now(), time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	signers, err := listing.Signers(t.Context(), &o.Ring, b.SigningKeys)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	summary, err := exportfile.Write(t.Context(), &file, exportfile.Meta{Start: b.Start, End: b.End, Region: b.Region}, signers,
		o.BatchKeys(t.Context(), b, 1), o.BatchRevisions(t.Context(), b, 1))
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := o.Bucket(t.Context(), b.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file.Bytes())
	f := store.File{
		Number: 1, Object: exportfile.ObjectName(b.Root, b.Start, b.End, 1),
		Size: int64(file.Len()), SHA256: sum[:], Keys: summary.Keys,
	}
	err = bucket.Create(t.Context(), f.Object, blob.Object{
		ContentType: exportfile.ContentTypeZip, CacheControl: exportfile.CacheFile, Size: f.Size, Body: bytes.NewReader(file.Bytes()),
	})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := o.CompleteBatch(t.Context(), b, []store.File{f}, o.Now()); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

func publish(t *testing.T, o *listingtest.Office) int {
	t.Helper()
	written, err := o.Publisher().Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func mainBucket(t *testing.T, o *listingtest.Office) blob.Bucket {
	t.Helper()
	bucket, err := o.Bucket(t.Context(), listingtest.MainBucket)
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func TestPublish(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	if got := publish(t, o); got != 0 {
		t.Errorf("%d indexes were written before there is a file, want 0", got)
	}
	for i := range 3 {
		finishBatch(t, o, 10*i)
		if got := publish(t, o); got != 1 {
			t.Errorf("%d indexes were written, want 1", got)
		}
		if p := o.Look("us"); len(p.Files) != i+1 {
			t.Errorf("%d files are listed, want %d", len(p.Files), i+1)
		}
	}
	if got := publish(t, o); got != 0 {
		t.Errorf("a repeat wrote %d indexes, want 0", got)
	}
	for _, name := range []string{"us/index.txt", "us/index.json", "us/index.sig.json"} {
		body, info, err := mainBucket(t, o).Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		if info.CacheControl != exportfile.CacheIndex {
			t.Errorf("%s may be cached: %s, want %s", name, info.CacheControl, exportfile.CacheIndex)
		}
	}
}

var errKilled = errors.New("killed")

// Killed before or after any object, a publisher leaves an index that phones can
// use, and the next one finishes it: at another time, so with other bytes if it
// began anew.
func TestPublishKilled(t *testing.T) {
	t.Parallel()
	for at := int64(1); at <= 8; at++ {
		o := listingtest.New(t)
		o.AddExport("us")
		finishBatch(t, o, 0)
		publish(t, o)
		finishBatch(t, o, 10)

		bucket := mainBucket(t, o)
		ctx, stop := context.WithCancel(t.Context())
		var touches atomic.Int64
		touch := func(context.Context, string) error {
			if touches.Add(1) < at {
				return nil
			}
			stop()
			return errKilled
		}
		o.SetBucket(listingtest.MainBucket, listingtest.Tap{Bucket: bucket, Before: touch, After: touch})
		_, err := o.Publisher().Publish(ctx)
		stop()
		if killed := touches.Load() >= at; killed != (err != nil) || killed != (at < 8) {
			t.Errorf("at %d: killed %t, error %v", at, killed, err)
		}
		o.SetBucket(listingtest.MainBucket, bucket)
		o.Look("us")

		o.Wait(time.Minute)
		publish(t, o)
		if p, newest := o.Look("us"), newestNumber(t, o); len(p.Files) != 2 || p.Sequence != newest {
			t.Errorf("at %d: index %d lists %d files, want index %d with 2", at, p.Sequence, len(p.Files), newest)
		}
		if got := publish(t, o); got != 0 {
			t.Errorf("at %d: the index was not recorded", at)
		}
	}
}

// A publisher that was slow loses against one that read a newer state, at
// whichever object it is; that is no error.
func TestStalePublisherLoses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"us/index.json", "us/index.sig.json", "us/index.txt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := listingtest.New(t)
			o.AddExport("us")
			finishBatch(t, o, 0)
			bucket := mainBucket(t, o)
			var overtaken atomic.Bool
			o.SetBucket(listingtest.MainBucket, listingtest.Tap{Bucket: bucket, Before: func(_ context.Context, object string) error {
				if object == name && !overtaken.Swap(true) {
					finishBatch(t, o, 10)
					publish(t, o)
				}
				return nil
			}})
			if written, err := o.Publisher().Publish(t.Context()); err != nil || written != 0 {
				t.Errorf("the stale publisher wrote %d indexes, want 0 (error %v)", written, err)
			}
			if p, newest := o.Look("us"), newestNumber(t, o); len(p.Files) != 2 || p.Sequence != newest {
				t.Errorf("index %d lists %d files, want index %d with 2", p.Sequence, len(p.Files), newest)
			}
			if got := publish(t, o); got != 0 {
				t.Errorf("%d indexes were left unwritten, want 0", got)
			}
		})
	}
}

// newestNumber is that of the newest index of us, written or not.
func newestNumber(t *testing.T, o *listingtest.Office) int64 {
	t.Helper()
	n, _, err := database.One[int64](t.Context(), o.DB, `SELECT index_sequence FROM export WHERE name = 'us'`)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is wrong with one index is told, and does not stop the others.
func TestPublishFailures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		spoil func(t *testing.T, o *listingtest.Office)
		want  string // in the error
		mend  func(t *testing.T, o *listingtest.Office)
	}{
		{
			"the signing keys are no longer valid",
			func(_ *testing.T, o *listingtest.Office) {
				o.Must(`DELETE FROM export_signing_key USING export x WHERE x.export_id = export_signing_key.export_id AND x.name = 'us'`)
			},
			"signingKeys",
			func(_ *testing.T, o *listingtest.Office) {
				o.Must(`INSERT INTO export_signing_key SELECT export_id, 'us-1' FROM export WHERE name = 'us'`)
			},
		},
		{
			"the database was restored to a time before the last index",
			func(_ *testing.T, o *listingtest.Office) {
				o.Must(`UPDATE export SET index_sequence = 1, written_sequence = 0 WHERE name = 'us'`)
			},
			"restored",
			func(t *testing.T, o *listingtest.Office) {
				// Once is enough where indexes change less often than every
				// second; this test has changed its own more often.
				for range 5 {
					if err := o.RenumberIndex(t.Context(), "us"); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
		{
			"somebody wrote an index of this number by hand",
			func(t *testing.T, o *listingtest.Office) {
				next := newestNumber(t, o)
				forged, err := exportfile.Index{Sequence: next, Time: o.Now()}.JSON()
				if err != nil {
					t.Fatal(err)
				}
				err = mainBucket(t, o).Replace(t.Context(), "us/index.json", next, blob.Object{Size: int64(len(forged)), Body: bytes.NewReader(forged)})
				if err != nil {
					t.Fatal(err)
				}
			},
			"too",
			func(t *testing.T, o *listingtest.Office) {
				if err := o.RenumberIndex(t.Context(), "us"); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := listingtest.New(t)
			o.AddExport("us")
			finishBatch(t, o, 0)
			finishBatch(t, o, 10)
			publish(t, o)
			o.Look("us")
			o.AddExport("other", func(x *listingtest.Export) { x.Regions = []string{"CA"} })
			if err := o.RenumberIndex(t.Context(), "other"); err != nil {
				t.Fatal(err)
			}
			if err := o.RenumberIndex(t.Context(), "us"); err != nil {
				t.Fatal(err)
			}
			if tc.spoil(t, o); t.Failed() {
				return
			}
			written, err := o.Publisher().Publish(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
			if written != 1 {
				t.Errorf("%d indexes were written, want the other export's", written)
			}
			if p := o.Look("us"); len(p.Files) != 2 {
				t.Errorf("phones find %d files, want 2", len(p.Files))
			}
			tc.mend(t, o)
			publish(t, o)
			if p := o.Look("us"); len(p.Files) != 2 {
				t.Errorf("mended, phones find %d files, want 2", len(p.Files))
			}
		})
	}
}

// A file that somebody deleted is not listed, which the operator is told: a
// failed download would keep phones from all the others.
func TestMissingFileIsLeftOut(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	finishBatch(t, o, 0)
	finishBatch(t, o, 10)
	publish(t, o)
	files := o.Look("us").Files
	if err := mainBucket(t, o).Delete(t.Context(), files[0]); err != nil {
		t.Fatal(err)
	}
	finishBatch(t, o, 20)
	if _, err := o.Publisher().Publish(t.Context()); err == nil || !strings.Contains(err.Error(), "1 of 3 files") {
		t.Errorf("error %v, want one about 1 of 3 files", err)
	}
	if p := o.Look("us"); len(p.Files) != 2 || p.Files[0] != files[1] {
		t.Errorf("%v is listed, want the two that are there", p.Files)
	}
}

// Phones read ten signatures; older keys than those do not sign.
func TestSigners(t *testing.T) {
	t.Parallel()
	url := "file://" + filepath.Join(t.TempDir(), "key.pem")
	if _, err := keys.CreateSigningKey(strings.TrimPrefix(url, "file://")); err != nil {
		t.Fatal(err)
	}
	var signing []store.SigningKey
	var want []string
	for i := range exportfile.MaxSigners + 2 {
		version := fmt.Sprintf("v%d", i)
		signing = append(signing, store.SigningKey{URL: url, ID: "310", Version: version})
		want = append(want, version)
	}
	var ring keys.Ring
	signers, err := listing.Signers(t.Context(), &ring, signing)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range signers {
		got = append(got, s.Version)
	}
	if diff := cmp.Diff(want[:exportfile.MaxSigners], got); diff != "" {
		t.Errorf("signers (-want +got):\n%s", diff)
	}
}
