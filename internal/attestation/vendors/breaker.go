package vendors

import (
	"sync"
	"time"
)

// A breaker stops asking a vendor that fails, so that uploads are answered at
// once and the vendor can recover.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // nothing is asked before
}

const (
	enoughFailures = 5
	pause          = 10 * time.Second
)

// allows tells whether to ask. After a pause one question goes through; the
// others wait for how it ends.
func (b *breaker) allows() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < enoughFailures {
		return true
	}
	now := b.now()
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(pause)
	return true
}

func (b *breaker) note(worked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if worked {
		b.failures = 0
		return
	}
	if b.failures++; b.failures >= enoughFailures {
		b.until = b.now().Add(pause)
	}
}
