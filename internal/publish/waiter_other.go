//go:build !linux

package publish

import (
	"context"
	"time"
)

// waiter waits, and up to a millisecond longer than it is told.
type waiter struct{}

// until waits for a moment. It reports whether the moment came before ctx ended.
func (w *waiter) until(ctx context.Context, moment time.Time) bool {
	return pause(ctx, time.Until(moment))
}
