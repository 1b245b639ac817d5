package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/rotation"
	"enkeyserver/internal/store"
)

const (
	day    = 24 * time.Hour
	period = 3 * day
	maxAge = 15 * day
)

// tokenLife is for how long a token must open, and keyLife how long a key
// stays after the next one was made.
var (
	tokenLife = revision.TokenLife(maxAge)
	keyLife   = tokenLife + 2*day
)

// house is one installation: a database, wrapping keys and the true time.
type house struct {
	t        testing.TB
	db       *store.DB
	wrapper  *shaky
	wrapping revision.Wrapping

	mu  sync.Mutex
	now time.Time
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, db: &store.DB{DB: dbtest.New(t)}, wrapper: &shaky{Wrapper: newWrapper(t)}, now: entest.Noon()}
	h.wrapping = revision.NewWrapping(h.wrapper, nil, []byte("house"))
	return h
}

func newWrapper(t testing.TB) keys.Wrapper {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wrapping.key")
	if err := keys.CreateWrappingKey(path); err != nil {
		t.Fatal(err)
	}
	w, err := keys.OpenWrapper(t.Context(), "file://"+path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// shaky is a key manager that can be out of reach.
type shaky struct {
	keys.Wrapper
	down atomic.Bool
	lies atomic.Bool // gives back another key than it wrapped
}

func (w *shaky) Wrap(ctx context.Context, plain, context []byte) ([]byte, error) {
	if w.down.Load() {
		return nil, errDown
	}
	return w.Wrapper.Wrap(ctx, plain, context)
}

func (w *shaky) Unwrap(ctx context.Context, wrapped, context []byte) ([]byte, error) {
	if w.down.Load() {
		return nil, errDown
	}
	plain, err := w.Wrapper.Unwrap(ctx, wrapped, context)
	if w.lies.Load() && err == nil {
		plain[0] ^= 1
	}
	return plain, err
}

var errDown = errors.New("down for the test")

// timed answers the question for the database's clock with the house's.
type timed struct {
	*store.DB
	clock func() time.Time
}

func (s timed) Clock(context.Context) (time.Time, error) { return s.clock(), nil }

// rotator is a service of the house; edits change what it works with.
func (h *house) rotator(edits ...func(*rotation.Deps)) *rotation.Service {
	d := rotation.Deps{Store: timed{h.db, h.clock}, Wrapping: h.wrapping, Now: h.clock}
	for _, edit := range edits {
		edit(&d)
	}
	return rotation.New(rotation.Settings{Period: period, MaxAge: maxAge, Timeout: time.Minute}, d)
}

// rotate runs the job and expects what it says, its next time aside.
func (h *house) rotate(want rotation.Rotated, edits ...func(*rotation.Deps)) {
	h.t.Helper()
	got := h.rotates(edits...)
	got.Next = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Errorf("rotated (-want +got):\n%s", diff)
	}
}

func (h *house) rotates(edits ...func(*rotation.Deps)) rotation.Rotated {
	h.t.Helper()
	got, err := h.rotator(edits...).RevisionKeys(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return got.(rotation.Rotated)
}

// refuses runs the job and expects that it fails and changes nothing.
func (h *house) refuses(want string, edits ...func(*rotation.Deps)) {
	h.t.Helper()
	before := h.rows()
	_, err := h.rotator(edits...).RevisionKeys(h.t.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		h.t.Errorf("error %v, want one about %q", err, want)
	}
	if diff := cmp.Diff(before, h.rows()); diff != "" {
		h.t.Errorf("keys after a run that failed (-want +got):\n%s", diff)
	}
}

func (h *house) rows() []store.RevisionKey {
	h.t.Helper()
	rows, err := h.db.RevisionKeys(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return rows
}

// keyring is an instance of exposure that was started now.
func (h *house) keyring() *revision.Keyring {
	return revision.NewKeyring(revision.KeyringDeps{Store: h.db, Wrapping: h.wrapping, Now: h.clock, Retention: tokenLife})
}

func (h *house) seal(k *revision.Keyring) string {
	h.t.Helper()
	token, err := k.Seal(h.t.Context(), covered())
	if err != nil {
		h.t.Fatal(err)
	}
	return token
}

func covered() []exposure.Covered {
	return entest.Covered(entest.Exposures(1, 3, entest.Noon())...)
}

func (h *house) opens(k *revision.Keyring, token string, want bool) {
	h.t.Helper()
	got, ok, err := k.Open(h.t.Context(), token)
	if err != nil || ok != want {
		h.t.Errorf("a token opens: %t, %v; want %t", ok, err, want)
	}
	if ok && !cmp.Equal(covered(), got) {
		h.t.Error("a token names other keys than it was sealed for")
	}
}

// The life of a key: made, replaced after three days, and destroyed when no
// token of it can be of use.
func TestTheStoryOfAKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	exposureA := h.keyring()
	token := h.seal(exposureA) // made the first key
	h.rotate(rotation.Rotated{Keys: 1})
	h.wait(period - time.Second)
	h.rotate(rotation.Rotated{Keys: 1})
	h.wait(time.Second)
	h.rotate(rotation.Rotated{Made: 1, Keys: 2})
	h.rotate(rotation.Rotated{Keys: 2})
	h.opens(h.keyring(), token, true)

	for range 6 {
		h.wait(period)
		h.rotate(rotation.Rotated{Made: 1, Keys: len(h.rows()) + 1})
		h.opens(h.keyring(), token, h.clock().Sub(entest.Noon()) <= period+tokenLife+day)
	}
	h.wait(keyLife - 6*period) // the first key was replaced that long ago
	h.rotate(rotation.Rotated{Keys: 8})
	h.wait(time.Second)
	h.rotate(rotation.Rotated{Destroyed: 1, Keys: 7})
	h.opens(exposureA, token, false)
	if next := h.rotates().Next; next.IsZero() || !next.After(h.clock()) {
		t.Errorf("the next key is due at %s, want a time to come", next)
	}
}

// A service that was never called, and then is, makes one key and keeps all
// that may be in use.
func TestRotationAfterALongPause(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.rotate(rotation.Rotated{Made: 1, Keys: 1}) // before any exposure
	k := h.keyring()
	h.wait(60 * day)
	token := h.seal(k)
	h.rotate(rotation.Rotated{Made: 1, Keys: 2})
	h.wait(tokenLife)
	h.rotate(rotation.Rotated{Made: 1, Keys: 3})
	h.opens(h.keyring(), token, true)
}

// While the key manager is down nothing is made and nothing destroyed, and
// what it cannot give back is never stored.
func TestKeyManagerFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.seal(h.keyring())
	h.wait(period)
	h.rotate(rotation.Rotated{Made: 1, Keys: 2})
	h.wait(keyLife + time.Second) // a key to make, and one to destroy

	h.wrapper.down.Store(true)
	h.refuses("down for the test")
	h.wrapper.down.Store(false)

	stranger := newWrapper(t)
	h.refuses("no revision key can be unwrapped", func(d *rotation.Deps) {
		d.Wrapping = revision.NewWrapping(stranger, nil, []byte("house"))
	})
	h.refuses("no revision key can be unwrapped", func(d *rotation.Deps) {
		d.Wrapping = revision.NewWrapping(h.wrapper, nil, []byte("another house"))
	})
	h.refuses("does not unwrap what it has just wrapped", func(d *rotation.Deps) {
		d.Wrapping = revision.NewWrapping(&forgetful{Wrapper: h.wrapper}, nil, []byte("house"))
	})
	h.wrapper.lies.Store(true)
	h.refuses("unwraps another key than it wrapped")
	h.wrapper.lies.Store(false)
	h.rotate(rotation.Rotated{Made: 1, Destroyed: 1, Keys: 2})
}

// forgetful unwraps everything but what it has wrapped itself: it has the right
// to use one version of its key for wrapping, and another for unwrapping.
type forgetful struct {
	keys.Wrapper
	made string
}

func (w *forgetful) Wrap(ctx context.Context, plain, context []byte) ([]byte, error) {
	wrapped, err := w.Wrapper.Wrap(ctx, plain, context)
	w.made = string(wrapped)
	return wrapped, err
}

func (w *forgetful) Unwrap(ctx context.Context, wrapped, context []byte) ([]byte, error) {
	if string(wrapped) == w.made {
		wrapped = wrapped[1:]
	}
	return w.Wrapper.Unwrap(ctx, wrapped, context)
}

// A key that nobody can unwrap neither hides that the others have aged, nor
// does it make them superfluous.
func TestVoidKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	k := h.keyring()
	token := h.seal(k)
	h.wait(period)
	if added, err := h.db.AddRevisionKey(t.Context(), []byte("what nobody wrapped"), 1, h.clock()); err != nil || !added {
		t.Fatal(added, err)
	}
	h.rotate(rotation.Rotated{Made: 1, Keys: 3, Void: 1})
	h.wait(2 * time.Hour)
	h.opens(h.keyring(), h.seal(h.keyring()), true)
	h.opens(h.keyring(), token, true)
	h.wait(keyLife + period)
	h.rotate(rotation.Rotated{Made: 1, Destroyed: 2, Keys: 2, Void: 1})
}

// A clock that is wrong must not destroy keys; one that is shifted on purpose
// is not wrong.
func TestClocks(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.seal(h.keyring())
	h.wait(period)
	h.rotate(rotation.Rotated{Made: 1, Keys: 2})
	ahead := func(d time.Duration) func(*rotation.Deps) {
		return func(deps *rotation.Deps) { deps.Now = func() time.Time { return h.clock().Add(d) } }
	}
	h.refuses("differ by 720h0m0s", ahead(30*day))
	h.refuses("differ by -1h0m0s", ahead(-time.Hour))
	h.rotate(rotation.Rotated{Keys: 2}, ahead(5*time.Minute))
	h.rotate(rotation.Rotated{Made: 1, Destroyed: 1, Keys: 2}, ahead(30*day), func(d *rotation.Deps) { d.Offset = 30 * day })

	// The key of a future that has not come stops nobody.
	h.wait(period)
	h.rotate(rotation.Rotated{Made: 1, Keys: 3})
	h.rotate(rotation.Rotated{Keys: 3})
	token := h.seal(h.keyring())
	h.wait(30 * day)
	h.rotate(rotation.Rotated{Made: 1, Destroyed: 1, Keys: 3})
	h.opens(h.keyring(), token, false) // 30 days old
}

// The true database has a clock, and runs with the true time pass.
func TestTrueClock(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, offset := range []time.Duration{0, -1000 * day, 1000 * day} {
		h.rotates(func(d *rotation.Deps) {
			d.Store, d.Offset = h.db, offset
			d.Now = func() time.Time { return time.Now().Add(offset) }
		})
	}
	h.refuses("differ by", func(d *rotation.Deps) { d.Store = h.db })
}

// Of many runs at once one makes a key.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.seal(h.keyring())
	for want := 2; want < 5; want++ {
		h.wait(period)
		var all errgroup.Group
		for range 6 {
			all.Go(func() error {
				_, err := h.rotator().RevisionKeys(t.Context())
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := len(h.rows()); got != want {
			t.Fatalf("%d keys, want %d", got, want)
		}
	}
}

// The operator changes the wrapping key: first for exposure, then for
// key-rotation, then the old one goes. No token is refused on the way, not even
// by an instance that still has the old settings.
func TestWrappingKeyTurnsOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	behind := h.keyring() // never restarted
	tokens := []string{h.seal(behind)}
	h.wait(period)
	h.rotate(rotation.Rotated{Made: 1, Keys: 2})
	h.wait(2 * time.Hour)
	tokens = append(tokens, h.seal(behind))

	old := h.wrapping
	next := &shaky{Wrapper: newWrapper(t)}
	h.wrapping = revision.NewWrapping(next, h.wrapper, []byte("house"))
	both := h.keyring()
	for _, token := range tokens {
		h.opens(both, token, true)
	}
	h.rotate(rotation.Rotated{Keys: 2}, func(d *rotation.Deps) { d.Wrapping = old })

	h.wrapper.down.Store(true)
	h.refuses("down for the test") // one of the two is not enough
	h.wrapper.down.Store(false)
	next.down.Store(true)
	h.refuses("down for the test")
	next.down.Store(false)

	h.rotate(rotation.Rotated{Rewrapped: 2, Keys: 2})
	h.rotate(rotation.Rotated{Keys: 2})
	h.wait(time.Hour)
	h.wrapping = revision.NewWrapping(next, nil, []byte("house"))
	for _, k := range []*revision.Keyring{behind, both, h.keyring()} {
		for _, token := range append(tokens, h.seal(k)) {
			h.opens(h.keyring(), token, true)
			h.opens(k, token, true)
		}
	}
	h.refuses("no revision key can be unwrapped", func(d *rotation.Deps) { d.Wrapping = old })
	h.rotate(rotation.Rotated{Keys: 2})
}

// dying is a database connection that breaks at one call, before it or after.
type dying struct {
	timed
	calls  *int
	at     int
	before bool
}

var errKilled = errors.New("killed here")

func die[T any](s dying, f func() (T, error)) (T, error) {
	*s.calls++
	if *s.calls != s.at {
		return f()
	}
	var none T
	if s.before {
		return none, errKilled
	}
	if _, err := f(); err != nil {
		return none, err
	}
	return none, errKilled
}

func (s dying) AddRevisionKey(ctx context.Context, wrapped []byte, newest int, now time.Time) (bool, error) {
	return die(s, func() (bool, error) { return s.timed.AddRevisionKey(ctx, wrapped, newest, now) })
}

func (s dying) RewrapRevisionKey(ctx context.Context, id int, old, anew []byte) (bool, error) {
	return die(s, func() (bool, error) { return s.timed.RewrapRevisionKey(ctx, id, old, anew) })
}

func (s dying) DestroyRevisionKeys(ctx context.Context, ids []int, since time.Time) (int, error) {
	return die(s, func() (int, error) { return s.timed.DestroyRevisionKeys(ctx, ids, since) })
}

// Killed before or after any of its writes, a run leaves what opens every
// token, and the next one does the rest.
func TestRotationKilled(t *testing.T) {
	t.Parallel()
	const writes = 5 // of a run that rewraps three, adds one, destroys one
	for at := 1; at <= writes; at++ {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("write %d before %t", at, before), func(t *testing.T) {
				t.Parallel()
				h := newHouse(t)
				h.seal(h.keyring())
				h.wait(period)
				h.rotates()
				h.wait(keyLife - period)
				h.rotates()
				h.wait(2 * time.Hour)
				token := h.seal(h.keyring())
				h.wait(period + time.Hour)
				next := newWrapper(t)
				h.wrapping = revision.NewWrapping(next, h.wrapper, []byte("house"))

				calls := 0
				_, err := h.rotator(func(d *rotation.Deps) { d.Store = dying{timed{h.db, h.clock}, &calls, at, before} }).RevisionKeys(t.Context())
				if !errors.Is(err, errKilled) {
					t.Fatalf("error %v after %d writes, want to be killed at %d", err, calls, at)
				}
				h.opens(h.keyring(), token, true)
				h.rotates()
				h.opens(h.keyring(), token, true)
				h.wrapping = revision.NewWrapping(next, nil, []byte("house"))
				h.rotate(rotation.Rotated{Keys: 3})
				h.opens(h.keyring(), token, true)
			})
		}
	}
}
