// Package imports takes the keys of authorities that do not speak federation out
// of the files that they publish for their phones.
package imports

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// Settings say which keys may be kept, and for how long a run may take.
type Settings struct {
	MaxAge           time.Duration `envconfig:"MAX_INTERVAL_AGE_ON_PUBLISH" default:"360h" min:"24h" desc:"how long ago a key may have ended; files that ended before are not read; the same value as in exposure"`
	MaxOnsetDistance int           `envconfig:"MAX_SYMPTOM_ONSET_DAYS" default:"14" min:"0" max:"14" desc:"days between a key and the onset; keys further away are left out; the same value as in exposure"`
	Timeout          time.Duration `envconfig:"IMPORT_TIMEOUT" default:"5m" min:"1s" desc:"time after which one run gives up; the next goes on; must suffice for the largest file"`
	AtOnce           int           `envconfig:"IMPORTS_AT_ONCE" default:"4" min:"1" max:"32" desc:"imports that are worked on at the same time; each holds a file in TMPDIR, of at most 64 MiB, and a database connection, so less than DB_POOL_MAX_CONNS"`

	ReleaseSameDay bool `envconfig:"DEBUG_RELEASE_SAME_DAY_KEYS" default:"false" desc:"development only: publish keys that phones still accept, so that anybody can replay them"`
}

func (s Settings) rules() exposure.Rules {
	return exposure.Rules{MaxAge: s.MaxAge, MaxOnsetDistance: s.MaxOnsetDistance, ReleaseSameDay: s.ReleaseSameDay}
}

// Deps is what the service needs.
type Deps struct {
	Store  *store.DB
	Remote *remote.Client
	Now    func() time.Time
}

// Service imports. It keeps no state: any number may run, and whatever one was
// doing when it was killed, the next run finishes.
type Service struct {
	settings Settings
	rules    exposure.Rules
	store    *store.DB
	remote   *remote.Client
	now      func() time.Time
	pageSize int
}

// New makes a service.
func New(s Settings, d Deps) *Service {
	return &Service{settings: s, rules: s.rules(), store: d.Store, remote: d.Remote, now: d.Now, pageSize: pageSize}
}

// each calls f for every import, a few at once, and gives what it returned in
// the same order. No import waits for another that fails.
func each[T any](ctx context.Context, s *Service, f func(context.Context, store.Import) (T, error)) (results []T, failures []error, err error) {
	all, err := s.store.Imports(ctx)
	if err != nil {
		return nil, nil, err
	}
	results, failures = make([]T, len(all)), make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(max(s.settings.AtOnce, 1))
	for i, im := range all {
		group.Go(func() error {
			results[i], failures[i] = f(ctx, im)
			return nil
		})
	}
	return results, failures, group.Wait()
}

// tooOld tells whether all keys of a file that ended then are too old: none of
// them ended after it.
func (s *Service) tooOld(end time.Time) bool { return end.Before(s.now().Add(-s.settings.MaxAge)) }

// tidyTimeout bounds what is noted after the time of a run is over.
const tidyTimeout = 5 * time.Second

// tidy is a context for such notes.
func tidy(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
}
