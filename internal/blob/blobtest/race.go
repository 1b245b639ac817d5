package blobtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
)

// IndexNeverGoesBack has two writers, each with a connection of its own, write
// one index a thousand times, with numbers that are often stale.
func IndexNeverGoesBack(t *testing.T, open func(t *testing.T) blob.Bucket) {
	t.Helper()
	const writers, writes = 2, 500
	reader := open(t)
	must(t, reader.Replace(t.Context(), "us/index", 0, Numbered(0)))
	var buckets []blob.Bucket
	for range writers {
		buckets = append(buckets, open(t))
	}
	WatchWriters(t, reader, "us/index", func(ctx context.Context) error {
		all, ctx := errgroup.WithContext(ctx)
		for i, b := range buckets {
			all.Go(func() error { return WriteStale(ctx, b, "us/index", writes, uint64(i)) })
		}
		return all.Wait()
	})
}

// WatchWriters reads an object that Numbered made while it is written, and fails
// the test when it goes back or mixes two states.
func WatchWriters(t *testing.T, b blob.Bucket, name string, write func(ctx context.Context) error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- write(t.Context()) }()
	reads, last := 0, int64(-1)
	for {
		select {
		case err := <-done:
			must(t, err)
			t.Logf("%d reads, the last of sequence %d", reads, last)
			return
		default:
		}
		n, err := ReadNumbered(t.Context(), b, name)
		must(t, err)
		if n < last {
			t.Fatalf("the index went back from %d to %d", last, n)
		}
		reads, last = reads+1, n
	}
}

// WriteStale takes its numbers from around the stored one, on both sides.
func WriteStale(ctx context.Context, b blob.Bucket, name string, writes int, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 1))
	for range writes {
		before, err := ReadNumbered(ctx, b, name)
		if err != nil {
			return err
		}
		n := max(before-2+random.Int64N(6), 0)
		err = b.Replace(ctx, name, n, Numbered(n))
		if err == nil && n <= before {
			return fmt.Errorf("%d replaced %d", n, before)
		}
		if err != nil && errs.KindOf(err) != errs.KindConflict {
			return err
		}
		after, err := ReadNumbered(ctx, b, name)
		if err != nil {
			return err
		}
		if after < max(n, before) {
			return fmt.Errorf("%d is stored after %d and %d", after, before, n)
		}
	}
	return nil
}
