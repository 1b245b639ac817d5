package attestation

import (
	"crypto/sha256"
	"sync"
	"time"
)

// name is the hash under which something is remembered.
type name = [sha256.Size]byte

// memory remembers a bounded number of values for a while, by the hash of what
// they answer. It holds no proof.
type memory[V any] struct {
	mu     sync.Mutex
	max    int
	keep   time.Duration
	values map[name]V
	order  []noted // oldest first
}

type noted struct {
	name name
	at   time.Time
}

func newMemory[V any](limit int, keep time.Duration) *memory[V] {
	return &memory[V]{max: limit, keep: keep, values: map[name]V{}}
}

func (m *memory[V]) get(n name, now time.Time) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now, m.max)
	value, ok = m.values[n]
	return value, ok
}

func (m *memory[V]) put(n name, value V, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.values[n]; known {
		return
	}
	m.forget(now, m.max-1)
	m.values[n] = value
	m.order = append(m.order, noted{n, now})
}

// forget drops what is too old, and the oldest until no more than limit are
// left.
func (m *memory[V]) forget(now time.Time, limit int) {
	for len(m.order) > 0 && (len(m.order) > limit || now.Sub(m.order[0].at) > m.keep) {
		delete(m.values, m.order[0].name)
		m.order = m.order[1:]
	}
}
