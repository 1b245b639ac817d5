package jwks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// Settings of the service.
type Settings struct {
	Timeout time.Duration `envconfig:"JWKS_TIMEOUT" default:"5m" min:"1s" desc:"time after which one run gives up; the next goes on with the authorities that were not looked at"`
}

// atOnce is how many sets are read at the same time: one slow server does not
// hold the others up.
const atOnce = 4

// Deps are what the service works with.
type Deps struct {
	Store  *store.DB
	Remote *remote.Client
	Now    func() time.Time
}

// Updater keeps the keys of health authorities as these publish them. It
// remembers nothing.
type Updater struct{ deps Deps }

// New gives an updater.
func New(d Deps) *Updater { return &Updater{d} }

// Done is the answer of Run.
type Done struct {
	Authorities []Look `json:"authorities"`
}

// Look says what came of reading one authority's set.
type Look struct {
	Issuer  string         `json:"issuer"`
	Keys    int            `json:"keys"`              // in the set, that can be accepted
	Ignored map[string]int `json:"ignored,omitempty"` // others, by the reason
	Exposed int            `json:"exposed,omitempty"` // that came with their private half, and are not accepted
	store.KeySetChange
	Outdated bool   `json:"outdated,omitempty"` // the authority has changed meanwhile, and nothing was done
	Failure  string `json:"failure,omitempty"`
}

// Run reads the sets of all authorities and takes over what they say. What
// fails does not stop the others, and is told when they are done.
//
// The order is: read the set, then change the keys in one transaction, which
// does nothing when the authority was changed in between. Killed anywhere, it
// leaves each authority with its old keys or its new ones.
func (u *Updater) Run(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "jwks.Run")
	sets, err := u.deps.Store.KeySets(ctx)
	if err != nil {
		return nil, err
	}
	looks, failures := make([]Look, len(sets)), make([]error, len(sets))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, s := range sets {
		group.Go(func() error {
			looks[i], failures[i] = u.look(ctx, s)
			return nil // the others go on
		})
	}
	_ = group.Wait()
	return Done{Authorities: looks}, errors.Join(failures...)
}

func (u *Updater) look(ctx context.Context, s store.KeySet) (l Look, err error) {
	defer errs.Wrap(&err, "health authority %s", s.Issuer)
	l = Look{Issuer: s.Issuer}
	found, problem := u.read(ctx, s)
	if ctx.Err() != nil {
		// Our time is up, which is no failure of theirs.
		return l, context.Cause(ctx)
	}
	l.Keys, l.Ignored, l.Exposed = len(found.Keys), found.Ignored, len(found.Exposed)
	d := store.Discovery{At: u.deps.Now(), Keys: found.Keys, Exposed: found.Exposed}
	if problem != nil {
		d.Failure = problem.Error()
	}
	l.Failure = d.Failure
	change, saved, err := u.deps.Store.SaveDiscovery(ctx, s, d)
	if err != nil {
		return l, errors.Join(problem, err)
	}
	l.KeySetChange, l.Outdated = change, !saved
	l.tell(ctx)
	return l, problem
}

// read gives what the set says, and what is wrong with it: both, if one of its
// keys is exposed.
func (u *Updater) read(ctx context.Context, s store.KeySet) (Set, error) {
	text, err := u.deps.Remote.Get(ctx, s.URI, maxSet)
	if err != nil {
		return Set{}, err
	}
	found, err := Parse(text)
	if len(found.Exposed) == 0 {
		return found, err
	}
	exposed := errs.Invalid("jwks_exposed", "the set shows everybody the private half of a key: the authority must make another; if the key stands in the configuration, remove it there")
	if err != nil {
		exposed = fmt.Errorf("%w; and %w", exposed, err)
	}
	return found, exposed
}

// tell logs what somebody should know soon.
func (l Look) tell(ctx context.Context) {
	log := slog.With("authority", l.Issuer)
	if l.Exposed > 0 {
		log.ErrorContext(ctx, "a health authority publishes private keys: those that were discovered are not accepted any more", "keys", l.Exposed)
	}
	if len(l.Added) > 0 {
		log.InfoContext(ctx, "new keys of a health authority are accepted", "keys", l.Added)
	}
	if len(l.Replaced) > 0 {
		log.WarnContext(ctx, "a health authority has put other keys under known names: the old ones are revoked", "keys", l.Replaced)
	}
	if len(l.Revoked) > 0 {
		log.WarnContext(ctx, "keys of a health authority are revoked", "keys", l.Revoked)
	}
	if len(l.Overruled) > 0 {
		log.WarnContext(ctx, "a health authority publishes other keys than its configuration has under the same names: those of the configuration count", "keys", l.Overruled)
	}
}
