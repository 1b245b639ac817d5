// Package revision seals and opens the token that lets a phone revise its keys.
//
// A token names the keys that a phone has uploaded. Only the phone stores it,
// so that the server need not remember which keys belong together.
package revision

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
)

// Store keeps the wrapped keys; *store.DB does.
type Store interface {
	// RevisionKeys gives all keys, newest first.
	RevisionKeys(ctx context.Context) ([]store.RevisionKey, error)
	// AddRevisionKey stores a key unless one was added after that with the id
	// newest, and reports whether it did.
	AddRevisionKey(ctx context.Context, wrapped []byte, newest int, now time.Time) (bool, error)
	// KeepRevisionKey notes that a key seals though it was replaced.
	KeepRevisionKey(ctx context.Context, id int, now time.Time) error
}

// KeyringDeps is what a Keyring needs.
type KeyringDeps struct {
	Store    Store
	Wrapping Wrapping
	Now      func() time.Time

	// Retention is for how long a token can be of use; see TokenLife. Keys that
	// cannot have sealed one within it are not asked of the key manager any more.
	Retention time.Duration
}

// Keyring seals tokens with the newest key and opens those of every key that
// may still be in use. It unwraps each key once and holds it in memory, so
// that it goes on working while the database or the key manager is down.
type Keyring struct {
	store     Store
	wrapping  Wrapping
	now       func() time.Time
	retention time.Duration

	ring   atomic.Pointer[ring] // nil until the first success
	flight singleflight.Group

	mu     sync.Mutex // guards the two below
	failed time.Time  // when the last refresh failed
	why    error      // nil when it did not
}

const (
	// refreshEvery is how old the ring may become while it is used.
	refreshEvery = 30 * time.Second

	// idleFor is how old the ring of an instance that nobody used may be to be
	// used without a look into the database.
	idleFor = time.Hour

	// pauseFor keeps requests from asking a dead database one by one.
	pauseFor = 5 * time.Second

	// refreshTimeout bounds one refresh, database and key manager together.
	refreshTimeout = 5 * time.Second
)

// NewKeyring makes a ring that loads its keys when it is first used.
func NewKeyring(d KeyringDeps) *Keyring {
	return &Keyring{store: d.Store, wrapping: d.Wrapping, now: d.Now, retention: d.Retention}
}

// Ready brings the ring up to date, and makes the very first key if there is
// none. A ring that cannot be refreshed works on with the keys it has, for the
// better part of a day.
func (k *Keyring) Ready(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "revision.Ready")
	_, err = k.loaded(ctx)
	return err
}

// Seal makes a token that names the covered keys, at most MaxKeys of them; see
// Extend.
func (k *Keyring) Seal(ctx context.Context, covered []exposure.Covered) (_ string, err error) {
	defer errs.Wrap(&err, "revision.Seal(%d keys)", len(covered))
	if len(covered) > MaxKeys {
		return "", fmt.Errorf("a token names at most %d keys", MaxKeys)
	}
	r, err := k.sealer(ctx)
	if err != nil {
		return "", err
	}
	head := header(r.current.id)
	sealed := r.current.cipher.Seal(nil, nil, pack(covered), k.bound(head))
	return base64.StdEncoding.EncodeToString(append(head, sealed...)), nil
}

// Open gives the keys that a token names. Noise, an empty token and one of
// another installation are not ok. An error means only "try again": the key
// that the token asks for cannot be looked up now.
func (k *Keyring) Open(ctx context.Context, token string) (covered []exposure.Covered, ok bool, err error) {
	defer errs.Wrap(&err, "revision.Open")
	keyID, raw, ok := decode(token)
	if !ok {
		return nil, false, nil
	}
	key, err := k.find(ctx, keyID)
	if key == nil || err != nil {
		return nil, false, err
	}
	slots, err := key.Open(nil, nil, raw[headerSize:], k.bound(raw[:headerSize]))
	if err != nil {
		return nil, false, nil
	}
	covered, ok = unpack(slots)
	return covered, ok, nil
}

// Noise looks like a token of up to thirty keys and is none: for answers that
// must look like real ones and may not cost anything.
func Noise() string {
	raw := make([]byte, headerSize+sealing+slotsSize(0))
	_, _ = rand.Read(raw) // never fails
	raw[0] = version
	return base64.StdEncoding.EncodeToString(raw)
}

// bound is what a token's tag covers beside its contents. The header has a
// fixed length, so that no AAD and header read like another pair.
func (k *Keyring) bound(header []byte) []byte { return slices.Concat(k.wrapping.aad, header) }

// sealer gives the ring to seal with, and waits only when there is none or a
// very old one: the key that it seals with may have been replaced since.
func (k *Keyring) sealer(ctx context.Context) (*ring, error) {
	r := k.ring.Load()
	if !r.loadedWithin(idleFor, k.now()) {
		return k.loaded(ctx)
	}
	k.refreshSoon(ctx, r)
	return r, nil
}

// find gives the cipher of a key; nil when there is no such key. It waits when it
// does not know the key, and when its ring is so old that the key may be gone.
func (k *Keyring) find(ctx context.Context, id uint32) (_ cipher.AEAD, err error) {
	r := k.ring.Load()
	if key, ok := r.key(id); ok && key.cipher != nil && r.loadedWithin(idleFor, k.now()) {
		k.refreshSoon(ctx, r)
		return key.cipher, nil
	}
	if !r.fresh(k.now()) {
		err = k.refresh(ctx)
		r = k.ring.Load()
	}
	key, ok := r.key(id)
	if key.cipher != nil {
		return key.cipher, nil
	}
	if ok {
		return nil, tryAgain(errors.New("the key of this token cannot be unwrapped now"))
	}
	return nil, err
}

// loaded gives a ring that is fresh, or else the last known one, unless that is
// so old that its key may have been forgotten elsewhere before the token is.
func (k *Keyring) loaded(ctx context.Context) (*ring, error) {
	if r := k.ring.Load(); r.fresh(k.now()) {
		return r, nil
	}
	// A refresh that began long ago, before this machine slept, may end well and
	// bring what is too old by now: then a second one is asked for.
	var err error
	for range 2 {
		err = k.refresh(ctx)
		if r := k.ring.Load(); r != nil && k.now().Sub(r.loaded).Abs() < goOnFor {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, tryAgain(errors.New("what was loaded is too old already"))
}
