// Package cleanup forgets what no phone needs any more: the keys of old days,
// and the files in which they were published.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

// Settings say for how long things are kept.
type Settings struct {
	TTL      time.Duration `envconfig:"CLEANUP_TTL" default:"336h" min:"0s" desc:"age at which files go, and, 48h later, the keys of a day; the same value as in the export batcher; less than 240h is refused"`
	Grace    time.Duration `envconfig:"INDEX_CACHE_GRACE" default:"1h" min:"0s" desc:"how long a file outlives its entry in the index; longer than any cache keeps an index (5m) and a phone takes to download"`
	ShortTTL bool          `envconfig:"DEBUG_OVERRIDE_CLEANUP_MIN_DURATION" default:"false" desc:"development only: CLEANUP_TTL and INDEX_CACHE_GRACE may be as short as you like"`
	Timeout  time.Duration `envconfig:"CLEANUP_TIMEOUT" default:"10m" min:"1s" desc:"time after which one run gives up; the next goes on"`
}

const (
	// leastTTL leaves phones that were switched off for a week something to
	// catch up with.
	leastTTL = 240 * time.Hour

	// leastGrace is twice the life of an index in caches: of the CDN, then of
	// the phone.
	leastGrace = 10 * time.Minute
)

// Deps is what the service needs.
type Deps struct {
	Store   *store.DB
	Buckets listing.Buckets
	Listing *listing.Publisher
	Now     func() time.Time
}

// Service forgets. It keeps no state, and whatever it was doing when it was
// killed, the next run finishes.
type Service struct {
	settings Settings
	store    *store.DB
	buckets  listing.Buckets
	listing  *listing.Publisher
	now      func() time.Time
}

// New checks the settings.
func New(s Settings, d Deps) (*Service, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return &Service{settings: s, store: d.Store, buckets: d.Buckets, listing: d.Listing, now: d.Now}, nil
}

func (s Settings) check() error {
	if s.TTL < leastTTL && !s.ShortTTL {
		return fmt.Errorf("CLEANUP_TTL is %s and must be at least %s, or phones miss keys", s.TTL, leastTTL)
	}
	if s.Grace < leastGrace && !s.ShortTTL {
		return fmt.Errorf("INDEX_CACHE_GRACE is %s and must be at least %s, or a cached index lists files that are gone", s.Grace, leastGrace)
	}
	return nil
}

// Forgotten is the answer of Exposures.
type Forgotten struct {
	Days     int   `json:"days"`     // of keys
	Receipts int64 `json:"receipts"` // of certificates
	Counts   int64 `json:"counts"`   // of upload statistics
	Batches  int64 `json:"batches"`  // that have no file any more
	Epochs   int64 `json:"epochs"`   // their records; the keys went with their days
	Held     int64 `json:"held"`     // neighbours' revisions of keys that never came
}

// Exposures drops the days of keys that no phone can match any more, receipts
// that have expired, and what was noted about the same days. What fails does
// not stop the rest.
func (s *Service) Exposures(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "cleanup.Exposures")
	now := s.now()
	before := now.Add(-s.settings.TTL - exposure.RetentionMargin)
	var f Forgotten
	var daysErr, uploadsErr, batchesErr, heldErr error
	f.Days, daysErr = s.store.DropPartitions(ctx, before)
	f.Receipts, f.Counts, uploadsErr = s.store.ForgetUploads(ctx, now, before)
	f.Batches, f.Epochs, batchesErr = s.store.ForgetBatches(ctx, before)
	f.Held, heldErr = s.store.ForgetHeldRevisions(ctx, before)
	return f, errors.Join(daysErr, uploadsErr, batchesErr, heldErr)
}
