package publish

import (
	"context"
	"time"

	"enkeyserver/internal/store"
)

// Refresh reads who may upload now.
func (s *Service) Refresh(ctx context.Context) error { return s.door.refresh(ctx) }

// Remember lets chaff look like an answer that took so long.
func (s *Service) Remember(latency time.Duration, token, inserted, extra int) {
	s.recent.add(sample{latency: latency, token: token, inserted: inserted, extra: extra})
}

// Know makes the service know who may upload, without a database.
func (s *Service) Know(a store.Admission) { s.door.last.Store(s.door.prepare(a, s.now())) }
