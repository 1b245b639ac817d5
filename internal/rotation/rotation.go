// Package rotation turns the keys of revision tokens over: new ones by age, old
// ones destroyed when no token made with them can be of use.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

// Settings say how long keys live.
type Settings struct {
	// Period: a key that leaks from an instance opens the tokens of this long.
	// Three days keep that small and the keys few: tokens live for 16 days, so
	// that a new instance unwraps seven or eight keys before its first answer.
	// A key may seal 2^32 tokens, which takes 50 uploads a second for the
	// longest period.
	Period  time.Duration `envconfig:"REVISION_KEY_ROTATION_PERIOD" default:"72h" min:"2h" max:"2160h" desc:"age of the newest key of revision tokens at which the next one is made"`
	MaxAge  time.Duration `envconfig:"MAX_INTERVAL_AGE_ON_PUBLISH" default:"360h" min:"24h" desc:"how long ago a key of a phone may have ended; the same value as for exposure: keys of revision tokens are destroyed when no token of theirs can be of use by it"`
	Timeout time.Duration `envconfig:"KEY_ROTATION_TIMEOUT" default:"1m" min:"1s" desc:"time after which one run gives up; the next goes on"`
}

// clockTolerance is how far clocks may differ. The lives of keys leave room for
// it; see internal/revision.
const clockTolerance = 10 * time.Minute

// Store keeps the wrapped keys; *store.DB does.
type Store interface {
	RevisionKeys(ctx context.Context) ([]store.RevisionKey, error)
	AddRevisionKey(ctx context.Context, wrapped []byte, newest int, now time.Time) (bool, error)
	RewrapRevisionKey(ctx context.Context, id int, old, rewrapped []byte) (bool, error)
	DestroyRevisionKeys(ctx context.Context, ids []int, since time.Time) (int, error)
	// Clock is a second opinion on the time.
	Clock(ctx context.Context) (time.Time, error)
}

// Deps is what the service needs.
type Deps struct {
	Store    Store
	Wrapping revision.Wrapping
	Now      func() time.Time
	Offset   time.Duration // by which Now is ahead of the true time on purpose: DEBUG_CLOCK_OFFSET
}

// Service turns keys over. It keeps no state.
type Service struct {
	settings Settings
	store    Store
	wrapping revision.Wrapping
	now      func() time.Time
	offset   time.Duration
}

// New makes the service.
func New(s Settings, d Deps) *Service {
	return &Service{settings: s, store: d.Store, wrapping: d.Wrapping, now: d.Now, offset: d.Offset}
}

// Rotated is the answer of RevisionKeys.
type Rotated struct {
	Made      int       `json:"made"`      // new keys: 1 when the newest was old enough
	Rewrapped int       `json:"rewrapped"` // keys that the wrapping key of before had wrapped
	Destroyed int       `json:"destroyed"`
	Void      int       `json:"void"`          // keys found that no wrapping key opens; they are destroyed like others
	Keys      int       `json:"keys"`          // that are left
	Next      time.Time `json:"next,omitzero"` // when the next one is due
}

// RevisionKeys makes a new key when the newest is old enough, and destroys
// those that are spent.
//
// The order is: unwrap all that there is, wrap anew what is due, add, destroy.
// Each write is one statement, and right by itself: a run that is killed
// between two of them has done a part, and the next does the rest. While the
// key manager is down nothing is written. A second run at the same time
// decides the same, and adds nothing after the first.
func (s *Service) RevisionKeys(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "rotation.RevisionKeys")
	if err := s.checkClock(ctx); err != nil {
		return nil, err
	}
	rows, err := s.store.RevisionKeys(ctx)
	if err != nil {
		return nil, err
	}
	run := turn{Service: s, now: s.now(), rows: rows}
	for _, step := range []func(context.Context) error{run.look, run.rewrap, run.add, run.destroy} {
		if err := step(ctx); err != nil {
			return run.did, err
		}
	}
	return run.did, nil
}

// checkClock refuses to work by a clock that the database does not confirm: one
// that is weeks ahead would destroy keys whose tokens are in use, and nothing
// brings them back.
func (s *Service) checkClock(ctx context.Context) error {
	theirs, err := s.store.Clock(ctx)
	if err != nil {
		return err
	}
	ahead := s.now().Add(-s.offset).Sub(theirs)
	if ahead.Abs() > clockTolerance {
		return fmt.Errorf("this clock and that of the database differ by %s: nothing was changed, set the wrong one right", ahead.Round(time.Second))
	}
	return nil
}

// turn is one run.
type turn struct {
	*Service
	now    time.Time
	rows   []store.RevisionKey // newest first
	usable []store.RevisionKey // those that can be unwrapped
	stale  []rewrapped
	did    Rotated
}

// rewrapped is a key in the form that the wrapping key of today gives it.
type rewrapped struct {
	store.RevisionKey
	anew []byte
}

// look asks the key manager for every key. One that will never be unwrapped is
// void; one that cannot be now ends the run.
func (t *turn) look(ctx context.Context) error {
	var void error
	for _, row := range t.rows {
		anew, due, err := t.wrapping.Rewrap(ctx, row.Wrapped)
		switch {
		case errs.KindOf(err) == errs.KindInvalid:
			void = errors.Join(void, fmt.Errorf("revision key %d: %w", row.RevisionKeyID, err))
			t.did.Void++
			continue
		case err != nil:
			return err
		case due:
			t.stale = append(t.stale, rewrapped{row, anew})
		}
		t.usable = append(t.usable, row)
	}
	t.did.Keys = len(t.rows)
	if len(t.rows) > 0 && len(t.usable) == 0 {
		// A key of ours would be none to instances that have the right settings.
		return fmt.Errorf("no revision key can be unwrapped: REVISION_TOKEN_KEY and REVISION_TOKEN_AAD must be those of exposure, and a wrapping key that was replaced must stand in REVISION_TOKEN_KEY_OLD: %w", void)
	}
	if void != nil {
		slog.WarnContext(ctx, "some revision keys cannot be unwrapped, and their tokens count for nothing", "error", void)
	}
	return nil
}

// rewrap stores what was wrapped anew, unless another run did so meanwhile.
func (t *turn) rewrap(ctx context.Context) error {
	for _, row := range t.stale {
		done, err := t.store.RewrapRevisionKey(ctx, row.RevisionKeyID, row.Wrapped, row.anew)
		if err != nil {
			return err
		}
		if done {
			t.did.Rewrapped++
		}
	}
	return nil
}

// add makes a key if the newest is old enough and nobody else was faster.
func (t *turn) add(ctx context.Context) error {
	made := t.newest()
	if age := t.now.Sub(made); !made.IsZero() && age < t.settings.Period {
		t.did.Next = made.Add(t.settings.Period)
		return nil
	}
	wrapped, err := t.wrapping.Make(ctx)
	if err != nil {
		return err
	}
	added, err := t.store.AddRevisionKey(ctx, wrapped, lastID(t.rows), t.now)
	if err != nil || !added {
		return err
	}
	t.did.Made++
	t.did.Keys++
	t.did.Next = t.now.Add(t.settings.Period)
	return nil
}

// newest is when the newest usable key was made; zero: there is none. A key of
// the future is the work of a clock that was wrong: until its time comes, it
// does not seal, and must not stop the others from turning over.
func (t *turn) newest() time.Time {
	for _, row := range t.usable {
		if !row.CreatedAt.After(t.now.Add(clockTolerance)) {
			return row.CreatedAt
		}
	}
	return time.Time{}
}

// lastID is that of the key that was added last.
func lastID(rows []store.RevisionKey) (last int) {
	for _, row := range rows {
		last = max(last, row.RevisionKeyID)
	}
	return last
}

// destroy removes the keys that are spent.
func (t *turn) destroy(ctx context.Context) (err error) {
	ids, since := revision.Spent(t.rows, revision.TokenLife(t.settings.MaxAge), t.now)
	if len(ids) == 0 {
		return nil
	}
	t.did.Destroyed, err = t.store.DestroyRevisionKeys(ctx, ids, since)
	t.did.Keys -= t.did.Destroyed
	return err
}
