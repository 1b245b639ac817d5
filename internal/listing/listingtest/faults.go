package listingtest

import (
	"context"
	"iter"

	"enkeyserver/internal/blob"
)

// Tap is a bucket that asks before and after each change, and before each
// listing. An error of Before keeps the change from happening; one of After
// lets it happen unheard.
type Tap struct {
	blob.Bucket
	Before, After func(ctx context.Context, name string) error // nil: no objection
}

// Create implements blob.Bucket.
func (b Tap) Create(ctx context.Context, name string, o blob.Object) error {
	return b.around(ctx, name, func() error { return b.Bucket.Create(ctx, name, o) })
}

// Replace implements blob.Bucket.
func (b Tap) Replace(ctx context.Context, name string, sequence int64, o blob.Object) error {
	return b.around(ctx, name, func() error { return b.Bucket.Replace(ctx, name, sequence, o) })
}

// Delete implements blob.Bucket.
func (b Tap) Delete(ctx context.Context, name string) error {
	return b.around(ctx, name, func() error { return b.Bucket.Delete(ctx, name) })
}

// List implements blob.Bucket.
func (b Tap) List(ctx context.Context, prefix string) iter.Seq2[blob.Entry, error] {
	return func(yield func(blob.Entry, error) bool) {
		if err := ask(ctx, b.Before, prefix); err != nil {
			yield(blob.Entry{}, err)
			return
		}
		b.Bucket.List(ctx, prefix)(yield)
	}
}

func (b Tap) around(ctx context.Context, name string, change func() error) error {
	if err := ask(ctx, b.Before, name); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return ask(ctx, b.After, name)
}

func ask(ctx context.Context, f func(context.Context, string) error, name string) error {
	if f == nil {
		return nil
	}
	return f(ctx, name)
}
