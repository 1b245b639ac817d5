package listing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/blob/emulators"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/listing/listingtest"
)

// Two publishers, each with a view that the other one makes stale, publish an
// index over and over, into each kind of bucket: a thousand writes. No object of
// it ever goes back, phones find it whole, and it ends as the database says.
func TestIndexNeverGoesBack(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(t *testing.T) string{
		"folder": func(t *testing.T) string { return "file://" + t.TempDir() },
		"memory": func(*testing.T) string { return "mem://" },
	}
	for _, k := range emulators.Kinds() {
		kinds[string(k)] = func(t *testing.T) string { return blobtest.CloudURL(t, k) }
	}
	for kind, url := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			race(t, url(t))
		})
	}
}

const (
	publishers = 2
	publishing = 170 // times, each of them; an index is three objects
)

func race(t *testing.T, url string) {
	t.Helper()
	bucket, err := blob.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	o := listingtest.New(t)
	o.SetBucket(listingtest.MainBucket, bucket)
	o.AddExport("us")
	finishBatch(t, o, 0)
	publish(t, o)

	done := make(chan error, 1)
	go func() { done <- publishOften(t.Context(), o) }()
	if err := watch(t.Context(), bucket, done); err != nil {
		t.Fatal(err)
	}
	publish(t, o)
	if p, newest := o.Look("us"), newestNumber(t, o); len(p.Files) != 1 || p.Sequence != newest {
		t.Errorf("index %d lists %d files, want index %d with 1", p.Sequence, len(p.Files), newest)
	}
}

func publishOften(ctx context.Context, o *listingtest.Office) error {
	all, ctx := errgroup.WithContext(ctx)
	for range publishers {
		all.Go(func() error {
			for range publishing {
				if err := o.RenumberIndex(ctx, "us"); err != nil {
					return err
				}
				if _, err := o.Publisher().Publish(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// watch reads the index until done says how the publishers ended. What phones
// read is written last.
func watch(ctx context.Context, bucket blob.Bucket, done <-chan error) error {
	last, held := map[string]int64{}, map[string][]byte{}
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		for _, name := range []string{exportfile.IndexText("us"), exportfile.IndexSignature("us"), exportfile.IndexJSON("us")} {
			n, content, err := numberOf(ctx, bucket, name)
			if err != nil {
				return err
			}
			// S3 knows an object by its bytes alone, so the number of the same
			// bytes may go back there; what phones read does not.
			if n < last[name] && !bytes.Equal(content, held[name]) {
				return fmt.Errorf("%s went back from %d to %d", name, last[name], n)
			}
			last[name], held[name] = max(n, last[name]), content
		}
		if text, document := last[exportfile.IndexText("us")], last[exportfile.IndexJSON("us")]; text > document {
			return fmt.Errorf("index.txt is number %d, ahead of index.json, number %d", text, document)
		}
	}
}

// numberOf reads an object to its end, for its number. An index.json tells it
// inside too.
func numberOf(ctx context.Context, bucket blob.Bucket, name string) (n int64, content []byte, err error) {
	body, info, err := bucket.Open(ctx, name)
	if err != nil {
		return 0, nil, err
	}
	content, err = io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		return 0, nil, err
	}
	if name != exportfile.IndexJSON("us") {
		return info.Sequence, content, nil
	}
	index, err := exportfile.ParseIndexJSON(content)
	if err == nil && index.Sequence != info.Sequence {
		err = fmt.Errorf("%s is kept under number %d and says %d", name, info.Sequence, index.Sequence)
	}
	return info.Sequence, content, err
}
