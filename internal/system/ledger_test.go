package system_test

import (
	"sync"
	"time"

	"enkeyserver/internal/exposure"
)

// fate is what a phone knows about an upload of its own.
type fate int

const (
	unknown  fate = iota // every answer was lost
	accepted             // it got a 200 with a token
)

// entry is one key that a phone has sent.
type entry struct {
	exposure.Exposure
	upload  int // number of the upload that it came with
	fate    fate
	revised exposure.Report // that a phone tried to revise it to; Unknown: none
	revFate fate
}

// ledger is what the phones know: the truth that the server's is held against.
type ledger struct {
	mu      sync.Mutex
	entries map[exposure.Key]*entry
	uploads int
	revised int
}

func newLedger() *ledger { return &ledger{entries: map[exposure.Key]*entry{}} }

// sent notes keys before they are sent, so that whatever is published is known.
func (l *ledger) sent(keys []exposure.Exposure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploads++
	for _, e := range keys {
		l.entries[e.Key] = &entry{Exposure: e, upload: l.uploads}
	}
}

func (l *ledger) accepted(keys []exposure.Exposure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range keys {
		l.entries[e.Key].fate = accepted
	}
}

func (l *ledger) revising(keys []exposure.Exposure, to exposure.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revised++
	for _, e := range keys {
		l.entries[e.Key].revised = to
	}
}

func (l *ledger) revisionAccepted(keys []exposure.Exposure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range keys {
		l.entries[e.Key].revFate = accepted
	}
}

// embargoed tells whether a key must not have been given to anybody yet.
func (e *entry) embargoed(now time.Time) bool { return e.Release().After(now) }
