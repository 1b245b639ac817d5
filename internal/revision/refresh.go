package revision

import (
	"bytes"
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// ring is the keys as they were at one time. It never changes.
type ring struct {
	keys    map[uint32]key
	current key // seals
	loaded  time.Time
}

type key struct {
	id      uint32
	made    time.Time
	wrapped []byte
	cipher  cipher.AEAD // nil: the key manager did not unwrap it
}

func (r *ring) key(id uint32) (key, bool) {
	if r == nil {
		return key{}, false
	}
	found, ok := r.keys[id]
	return found, ok
}

// fresh tells whether the ring needs no refresh.
func (r *ring) fresh(now time.Time) bool { return r.loadedWithin(refreshEvery, now) }

// loadedWithin tells whether the ring was loaded less than d ago. A ring from
// the future is the work of a clock that was set back.
func (r *ring) loadedWithin(d time.Duration, now time.Time) bool {
	if r == nil {
		return false
	}
	age := now.Sub(r.loaded)
	return age >= 0 && age < d
}

// refreshSoon starts a refresh if one is due, and does not wait for it.
func (k *Keyring) refreshSoon(ctx context.Context, r *ring) {
	if !r.fresh(k.now()) && k.lastFailure() == nil {
		k.start(ctx)
	}
}

// refresh loads the keys once for all who wait for it.
func (k *Keyring) refresh(ctx context.Context) error {
	if err := k.lastFailure(); err != nil {
		return err
	}
	select {
	case done := <-k.start(ctx):
		return done.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start joins the refresh that runs or starts one. It outlives the request
// that happened to start it, since others wait for it too.
func (k *Keyring) start(ctx context.Context) <-chan singleflight.Result {
	return k.flight.DoChan("", func() (any, error) {
		if k.ring.Load().fresh(k.now()) {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
		defer cancel()
		err := k.load(ctx)
		if err != nil {
			err = tryAgain(err)
		}
		k.note(ctx, err)
		return nil, err
	})
}

// lastFailure is why the keys could not be loaded a moment ago.
func (k *Keyring) lastFailure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pause := k.now().Sub(k.failed); pause < 0 || pause >= pauseFor {
		return nil
	}
	return k.why
}

func (k *Keyring) note(ctx context.Context, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed, k.why = k.now(), err
	if err != nil {
		slog.WarnContext(ctx, "the keys of revision tokens could not be loaded: those known before stay in use", "error", err)
	}
}

// tryAgain makes a failure ours whatever kind it had: to the key manager a
// wrong secret is invalid, to a phone it must not look like its own mistake.
func tryAgain(cause error) error {
	return errs.From(cause, errs.Internal, "internal_error", "revision tokens cannot be used now: try again later")
}

// load reads the keys and unwraps the ones that are new.
func (k *Keyring) load(ctx context.Context) error {
	rows, err := k.store.RevisionKeys(ctx)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		if rows, err = k.addFirst(ctx); err != nil {
			return err
		}
	}
	now := k.now()
	r, err := k.unwrapAll(ctx, inUse(rows, now.Add(-k.retention-overlap)))
	if err != nil {
		return err
	}
	sealing, replaced := r.sealing(rows, now.Add(-settleFor))
	if replaced && now.Sub(sealing.KeptAt) >= keepEvery {
		if err := k.keep(ctx, sealing, now); err != nil {
			return err
		}
	}
	r.current, r.loaded = r.keys[uint32(sealing.RevisionKeyID)], now
	k.ring.Store(r)
	return nil
}

// keep lets everybody know that a key goes on sealing after it was replaced,
// for want of a newer one that this instance can unwrap: uploads must go on,
// and what is sealed with it must open for as long as any token.
func (k *Keyring) keep(ctx context.Context, row store.RevisionKey, now time.Time) error {
	slog.WarnContext(ctx, "revision tokens are sealed with a key that was replaced, because the newer ones cannot be unwrapped: see to the key manager", "key", row.RevisionKeyID)
	return k.store.KeepRevisionKey(ctx, row.RevisionKeyID, now)
}

// addFirst makes the first key of an installation. Of many instances that
// start together one wins, and all read what it stored.
func (k *Keyring) addFirst(ctx context.Context) ([]store.RevisionKey, error) {
	wrapped, err := k.wrapping.Make(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := k.store.AddRevisionKey(ctx, wrapped, 0, k.now()); err != nil {
		return nil, err
	}
	return k.store.RevisionKeys(ctx)
}

// unwrapAtOnce is how many keys the key manager is asked for at a time: a new
// instance needs them all before its first answer.
const unwrapAtOnce = 8

// unwrapAll makes the ciphers. A key that cannot be unwrapped leaves the others
// useful; that none can is an error.
func (k *Keyring) unwrapAll(ctx context.Context, rows []store.RevisionKey) (*ring, error) {
	made, failures := make([]key, len(rows)), make([]error, len(rows))
	var group errgroup.Group
	group.SetLimit(unwrapAtOnce)
	for i, row := range rows {
		group.Go(func() error {
			made[i], failures[i] = k.unwrap(ctx, row)
			errs.Wrap(&failures[i], "unwrap revision key %d", row.RevisionKeyID)
			return nil
		})
	}
	_ = group.Wait() // the failures tell
	r := &ring{keys: map[uint32]key{}}
	usable := 0
	for i, m := range made {
		// A key that the manager will never unwrap is no key: its tokens
		// count as absent. One that it cannot unwrap now is kept in mind.
		if m.cipher != nil || errs.KindOf(failures[i]) != errs.KindInvalid {
			r.keys[m.id] = m
		}
		if m.cipher != nil {
			usable++
		}
	}
	failed := errors.Join(failures...)
	if usable == 0 {
		return nil, fmt.Errorf("no revision key can be unwrapped; if REVISION_TOKEN_KEY or REVISION_TOKEN_AAD was changed, put it back, or the old key into REVISION_TOKEN_KEY_OLD: %w", failed)
	}
	if failed != nil {
		slog.WarnContext(ctx, "some keys of revision tokens cannot be unwrapped", "error", failed)
	}
	return r, nil
}

// unwrap asks the key manager, unless it did so before. The result always has
// its id. A known key stays known when its wrapped form changes into one that
// cannot be unwrapped here: it was wrapped anew by a wrapping key that this
// instance has not been told of yet.
func (k *Keyring) unwrap(ctx context.Context, row store.RevisionKey) (key, error) {
	made := key{id: uint32(row.RevisionKeyID), made: row.CreatedAt, wrapped: row.Wrapped}
	known, ok := k.ring.Load().key(made.id)
	ok = ok && known.cipher != nil && known.made.Equal(made.made) // else a restored database gave the id to another key
	if ok && bytes.Equal(known.wrapped, row.Wrapped) {
		return known, nil
	}
	plain, _, err := k.wrapping.Unwrap(ctx, row.Wrapped)
	if err != nil && ok {
		return known, err
	}
	if err != nil {
		return made, err
	}
	defer clear(plain)
	made.cipher, err = newCipher(plain)
	return made, err
}

// sealing chooses the newest key that has settled, of rows newest first. As
// long as none has, it is the oldest: that is the one which others know. It
// reports whether a newer key that cannot be used here should have been it.
func (r *ring) sealing(rows []store.RevisionKey, settled time.Time) (chosen store.RevisionKey, replaced bool) {
	for _, row := range rows {
		usable, there := r.keys[uint32(row.RevisionKeyID)]
		hasSettled := !row.CreatedAt.After(settled)
		if there && usable.cipher != nil {
			chosen = row
			if hasSettled {
				return chosen, replaced
			}
		} else {
			replaced = replaced || hasSettled
		}
	}
	return chosen, replaced
}
