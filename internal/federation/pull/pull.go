// Package pull takes over the keys that neighbouring authorities' servers let
// out.
//
// Each neighbour is asked for page after page. A page is stored together with
// the place from which to go on, so that a run may end anywhere. Nothing that a
// neighbour sends or fails to send hurts us or another neighbour.
package pull

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/job"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

// Settings say how much is asked for, and what of it may be kept.
type Settings struct {
	Timeout    time.Duration `envconfig:"FEDERATION_TIMEOUT" default:"5m" min:"1s" desc:"time after which one run stops; what was stored stays, and the next run goes on"`
	PageKeys   int           `envconfig:"FEDERATION_PAGE_KEYS" default:"4000" min:"1" max:"50000" desc:"keys that a neighbour is asked for at once; it may send fewer"`
	MaxMessage int           `envconfig:"FEDERATION_MAX_MESSAGE_BYTES" default:"4194304" min:"65536" max:"67108864" desc:"bytes of one answer of a neighbour at most; about twelve times as much memory for each neighbour that is asked at once"`
	Parallel   int           `envconfig:"FEDERATION_PARALLEL" default:"4" min:"1" max:"64" desc:"neighbours that are asked at once"`

	TokenCAFile string `envconfig:"FEDERATION_TOKEN_CA_FILE" desc:"PEM file of certificates that are trusted, besides the system's, to vouch for servers that give out tokens"`

	MaxAge           time.Duration `envconfig:"MAX_INTERVAL_AGE_ON_PUBLISH" default:"360h" min:"24h" desc:"how long ago a key may have ended; the same value as in the exposure service"`
	MaxOnsetDistance int           `envconfig:"MAX_SYMPTOM_ONSET_DAYS" default:"14" min:"0" max:"14" desc:"days between a key and the onset; keys further away are left out; the same value as in the exposure service"`

	Plaintext      bool `envconfig:"DEBUG_FEDERATION_PLAINTEXT" default:"false" desc:"development only: speak to neighbours on this machine without TLS, and fetch tokens from it over http"`
	ReleaseSameDay bool `envconfig:"DEBUG_RELEASE_SAME_DAY_KEYS" default:"false" desc:"development only: publish keys that phones still accept, so that anybody can replay them"`
}

func (s Settings) rules() exposure.Rules {
	return exposure.Rules{MaxAge: s.MaxAge, MaxOnsetDistance: s.MaxOnsetDistance, ReleaseSameDay: s.ReleaseSameDay}
}

// Deps is what the service needs.
type Deps struct {
	Store *store.DB
	Now   func() time.Time

	// Resolve gives the value of a secret:// reference.
	Resolve         func(ctx context.Context, reference string) (string, error)
	DevelopmentOnly func(name string, set bool) error
}

// Service pulls. Besides tokens it keeps nothing from run to run.
type Service struct {
	settings Settings
	rules    exposure.Rules
	store    *store.DB
	now      func() time.Time
	tokens   *tokens
}

// New checks the settings. It reaches nobody.
func New(s Settings, d Deps) (*Service, error) {
	if err := errors.Join(
		d.DevelopmentOnly("DEBUG_FEDERATION_PLAINTEXT", s.Plaintext),
		d.DevelopmentOnly("DEBUG_RELEASE_SAME_DAY_KEYS", s.ReleaseSameDay),
	); err != nil {
		return nil, err
	}
	tokens, err := newTokens(s, d)
	if err != nil {
		return nil, err
	}
	return &Service{settings: s, rules: s.rules(), store: d.Store, now: d.Now, tokens: tokens}, nil
}

// jobName stands in metrics and in the record of progress; with a slash and the
// name of a neighbour, it is the name of that neighbour's lease.
const jobName = "federation-in"

// Handler serves the job: of the neighbour that query-id names, or of all.
func (s *Service) Handler(runner job.Runner) http.Handler {
	return web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
		name := r.URL.Query().Get("query-id")
		if name != "" {
			if _, err := s.pulls(r.Context(), name); err != nil {
				return err
			}
		}
		run := func(ctx context.Context) (any, error) { return s.Run(ctx, name) }
		runner.Shared(jobName, s.settings.Timeout, run).ServeHTTP(w, r)
		return nil
	})
}

// Pulled is the answer of one run.
type Pulled struct {
	Neighbours []Outcome `json:"neighbours"`
}

// Outcome tells what came of one neighbour.
type Outcome struct {
	Name     string `json:"name"`
	Busy     bool   `json:"busy,omitempty"` // another instance is asking it
	Pages    int    `json:"pages"`
	Received int    `json:"received"` // keys and revisions
	store.ForeignAdded
	Complete bool   `json:"complete"`          // we have all that it had
	Failure  string `json:"failure,omitempty"` // or what it should be told

	err error // the run did not get to the end
}

// Run asks the neighbour of that name, or all of them. What goes wrong with one
// does not stop the others; the error says what to call again for.
func (s *Service) Run(ctx context.Context, name string) (_ Pulled, err error) {
	defer errs.Wrap(&err, "pull.Run(%s)", name)
	pulls, err := s.pulls(ctx, name)
	if err != nil {
		return Pulled{}, err
	}
	all := make([]Outcome, len(pulls))
	var g errgroup.Group
	g.SetLimit(s.settings.Parallel)
	for i, p := range pulls {
		g.Go(func() error {
			all[i] = s.pull(ctx, p, s.share(len(pulls)))
			return nil
		})
	}
	_ = g.Wait() // each outcome has its own error
	s.showLag(ctx, pulls)
	for _, o := range all {
		if o.err != nil {
			err = errors.Join(err, fmt.Errorf("neighbour %s: %w", o.Name, o.err))
		}
	}
	return Pulled{Neighbours: all}, err
}

// pulls are all neighbours, or the one of that name.
func (s *Service) pulls(ctx context.Context, name string) ([]store.Pull, error) {
	all, err := s.store.Pulls(ctx)
	if err != nil || name == "" {
		return all, err
	}
	i := slices.IndexFunc(all, func(p store.Pull) bool { return p.Name == name })
	if i < 0 {
		return nil, errs.NotFound("no_neighbour", "the configuration has no neighbour of that name to pull from")
	}
	return all[i : i+1], nil
}

// reserve is the part of a run's time that is left for storing the last page.
const reserve = 10

// share is the time that one neighbour may take, so that those that never end
// leave some to the others.
func (s *Service) share(neighbours int) time.Duration {
	rounds := (neighbours + s.settings.Parallel - 1) / s.settings.Parallel
	return (s.settings.Timeout - s.settings.Timeout/reserve) / time.Duration(max(rounds, 1))
}

// showLag shows in metrics how it stands. A number is never worth a run.
func (s *Service) showLag(ctx context.Context, pulls []store.Pull) {
	tidy, cancel := tidying(ctx)
	defer cancel()
	all, err := s.store.Neighbours(tidy)
	if err != nil {
		return
	}
	now := s.now()
	for _, n := range all {
		asked := slices.ContainsFunc(pulls, func(p store.Pull) bool { return p.Name == n.Name })
		if had := n.HadAllAt(now); n.Kind == store.KindFederation && asked && !had.IsZero() {
			telemetry.RecordNeighbour(tidy, n.Name, n.Succeeded, now.Sub(had))
		}
	}
}

// tidyTimeout bounds what is written after the work, out of its time.
const tidyTimeout = 5 * time.Second

func tidying(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
}
