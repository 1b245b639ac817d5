package publish

import (
	"context"
	"time"
)

// hold is how long a real answer that is ready is held back. However exactly a
// process sleeps, it wakes a little late, and chaff, which only sleeps, would be
// later than real answers by that. So both sleep last, and in the same way.
const hold = 300 * time.Microsecond

// pause waits with the runtime's timer. It reports whether the time passed
// before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
