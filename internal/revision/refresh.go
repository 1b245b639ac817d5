package revision

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

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
	r.current, r.loaded = r.sealing(rows, now.Add(-settleFor)), now
	k.ring.Store(r)
	return nil
}

// addFirst makes the first key of an installation. Of many instances that
// start together one wins, and all read what it stored.
func (k *Keyring) addFirst(ctx context.Context) ([]store.RevisionKey, error) {
	plain := make([]byte, 32)
	_, _ = rand.Read(plain) // never fails
	wrapped, err := k.wrapper.Wrap(ctx, plain, k.wrapContext())
	clear(plain)
	if err != nil {
		return nil, fmt.Errorf("wrap a revision key: %w", err)
	}
	if _, err := k.store.AddRevisionKey(ctx, wrapped, time.Time{}, k.now()); err != nil {
		return nil, err
	}
	return k.store.RevisionKeys(ctx)
}

// wrapContext ties a wrapped key to its purpose and to this installation.
func (k *Keyring) wrapContext() []byte { return append([]byte("revision token key\n"), k.aad...) }

// inUse leaves out the keys, of rows newest first, that were replaced so long
// ago that no token of theirs names a key that is still retained.
func inUse(rows []store.RevisionKey, since time.Time) []store.RevisionKey {
	for i, row := range rows {
		if row.CreatedAt.Before(since) {
			return rows[:i+1]
		}
	}
	return rows
}

// unwrapAll makes the ciphers. A key that cannot be unwrapped leaves the others
// useful; that none can is an error.
func (k *Keyring) unwrapAll(ctx context.Context, rows []store.RevisionKey) (*ring, error) {
	r := &ring{keys: map[uint32]key{}}
	var failures []error
	for _, row := range rows {
		made, err := k.unwrap(ctx, row)
		if err != nil {
			failures = append(failures, fmt.Errorf("unwrap revision key %d: %w", row.RevisionKeyID, err))
		}
		// A key that the manager will never unwrap is no key: its tokens
		// count as absent. One that it cannot unwrap now is kept in mind.
		if errs.KindOf(err) != errs.KindInvalid {
			r.keys[made.id] = made
		}
	}
	if len(failures) == len(rows) {
		return nil, fmt.Errorf("no revision key can be unwrapped; if REVISION_TOKEN_KEY or REVISION_TOKEN_AAD was changed, put it back: %w", errors.Join(failures...))
	}
	if len(failures) > 0 {
		slog.WarnContext(ctx, "some keys of revision tokens cannot be unwrapped", "error", errors.Join(failures...))
	}
	return r, nil
}

// unwrap asks the key manager, unless it did so before. The result always has
// its id.
func (k *Keyring) unwrap(ctx context.Context, row store.RevisionKey) (key, error) {
	made := key{id: uint32(row.RevisionKeyID), wrapped: row.Wrapped}
	if known, ok := k.ring.Load().key(made.id); ok && known.cipher != nil && bytes.Equal(known.wrapped, row.Wrapped) {
		return known, nil
	}
	plain, err := k.wrapper.Unwrap(ctx, row.Wrapped, k.wrapContext())
	if err != nil {
		return made, err
	}
	defer clear(plain)
	made.cipher, err = newCipher(plain)
	return made, err
}

// sealing chooses the newest key that has settled, of rows newest first. As
// long as none has, it is the oldest: that is the one which others know.
func (r *ring) sealing(rows []store.RevisionKey, settled time.Time) (chosen key) {
	for _, row := range rows {
		usable, ok := r.keys[uint32(row.RevisionKeyID)]
		if !ok || usable.cipher == nil {
			continue
		}
		chosen = usable
		if !row.CreatedAt.After(settled) {
			return chosen
		}
	}
	return chosen
}
