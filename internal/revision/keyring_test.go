package revision_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
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
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

// installation is one database and one wrapping key, which both can fail, and
// a clock. Several keyrings of it are several instances of the server.
type installation struct {
	db      *flakyStore
	wrapper *flakyWrapper
	aad     []byte

	mu  sync.Mutex
	now time.Time
}

func install(t testing.TB) *installation {
	t.Helper()
	return &installation{
		db:      &flakyStore{DB: &store.DB{DB: dbtest.New(t)}},
		wrapper: &flakyWrapper{Wrapper: newWrapper(t)},
		aad:     []byte("test installation"),
		now:     entest.Noon(),
	}
}

func newWrapper(t testing.TB) keys.Wrapper {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wrapping.key")
	if err := keys.CreateWrappingKey(path); err != nil {
		t.Fatal(err)
	}
	wrapper, err := keys.OpenWrapper(t.Context(), "file://"+path)
	if err != nil {
		t.Fatal(err)
	}
	return wrapper
}

func (in *installation) keyring() *revision.Keyring {
	return revision.NewKeyring(revision.KeyringDeps{
		Store: in.db, Wrapping: in.wrapping(), Now: in.clock, Retention: 14 * 24 * time.Hour,
	})
}

func (in *installation) wrapping() revision.Wrapping {
	return revision.NewWrapping(in.wrapper, nil, in.aad)
}

func (in *installation) clock() time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.now
}

func (in *installation) wait(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now = in.now.Add(d)
}

// addKey is what rotation does.
func (in *installation) addKey(t testing.TB) {
	t.Helper()
	wrapped, err := in.wrapper.Wrap(t.Context(), bytes.Repeat([]byte{7}, 32), revision.WrapContext(in.wrapping()))
	if err != nil {
		t.Fatal(err)
	}
	in.addWrapped(t, wrapped)
}

func (in *installation) addWrapped(t testing.TB, wrapped []byte) {
	t.Helper()
	rows, err := in.db.RevisionKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	added, err := in.db.AddRevisionKey(t.Context(), wrapped, rows[0].RevisionKeyID, in.clock())
	if err != nil || !added {
		t.Fatalf("AddRevisionKey gave %t, %v", added, err)
	}
}

// flakyStore is the real store behind a line that can break.
type flakyStore struct {
	*store.DB
	down  atomic.Bool
	reads atomic.Int32
}

var errDown = errors.New("down for the test")

func (s *flakyStore) RevisionKeys(ctx context.Context) ([]store.RevisionKey, error) {
	s.reads.Add(1)
	if s.down.Load() {
		return nil, errDown
	}
	return s.DB.RevisionKeys(ctx)
}

// flakyWrapper is the real wrapper behind a line that can break.
type flakyWrapper struct {
	keys.Wrapper
	fail    atomic.Pointer[error]
	unwraps atomic.Int32
	gate    chan struct{} // when set, Unwrap announces itself and waits
}

func (w *flakyWrapper) Unwrap(ctx context.Context, ciphertext, context []byte) ([]byte, error) {
	w.unwraps.Add(1)
	if w.gate != nil {
		w.gate <- struct{}{}
		<-w.gate
	}
	if err := ctx.Err(); err != nil { // as a key manager on the network would
		return nil, err
	}
	if fail := w.fail.Load(); fail != nil {
		return nil, *fail
	}
	return w.Wrapper.Unwrap(ctx, ciphertext, context)
}

func (w *flakyWrapper) breaks(err error) { w.fail.Store(&err) }
func (w *flakyWrapper) mend()            { w.fail.Store(nil) }

func covered(count int) []exposure.Covered {
	return entest.Covered(entest.Exposures(1, count, entest.Noon())...)
}

func seal(t testing.TB, k *revision.Keyring, count int) string {
	t.Helper()
	token, err := k.Seal(t.Context(), covered(count))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// keyIDOf reads the clear part of a token.
func keyIDOf(t testing.TB, token string) uint32 {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(raw[1:5])
}

func wantOpen(t testing.TB, k *revision.Keyring, token string, count int) {
	t.Helper()
	got, ok, err := k.Open(t.Context(), token)
	if err != nil || !ok {
		t.Fatalf("Open gave %t, %v", ok, err)
	}
	if diff := cmp.Diff(covered(count), got, cmp.Transformer("", func(all []exposure.Covered) []exposure.Covered { return append([]exposure.Covered{}, all...) })); diff != "" {
		t.Errorf("covered (-want +got):\n%s", diff)
	}
}

func wantAbsent(t testing.TB, k *revision.Keyring, token string) {
	t.Helper()
	got, ok, err := k.Open(t.Context(), token)
	if err != nil || ok || got != nil {
		t.Errorf("Open gave %d keys, %t, %v, want nothing", len(got), ok, err)
	}
}

// wantTryAgain: a failure of ours is a 500, whatever kind it has elsewhere.
func wantTryAgain(t testing.TB, err error) {
	t.Helper()
	if err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("got %v of kind %d, want an internal error", err, errs.KindOf(err))
	}
}

func TestSealOpen(t *testing.T) {
	t.Parallel()
	k := install(t).keyring()
	lengths := map[int]int{}
	for _, count := range []int{0, 1, 14, 29, 30, 31, 60, 61, revision.MaxKeys} {
		token := seal(t, k, count)
		wantOpen(t, k, token, count)
		lengths[count] = len(token)
	}
	for _, same := range [][2]int{{0, 1}, {1, 14}, {14, 29}, {29, 30}, {31, 60}} {
		if lengths[same[0]] != lengths[same[1]] {
			t.Errorf("tokens of %d and %d keys have lengths %d and %d", same[0], same[1], lengths[same[0]], lengths[same[1]])
		}
	}
	if lengths[30] >= lengths[31] || lengths[60] >= lengths[61] {
		t.Errorf("lengths do not grow with each group of 30: %v", lengths)
	}
	if got := len(revision.Noise()); got != lengths[30] {
		t.Errorf("noise has length %d, a token %d", got, lengths[30])
	}
	if _, err := k.Seal(t.Context(), covered(revision.MaxKeys+1)); err == nil {
		t.Error("a token names more keys than it may")
	}
}

// The extremes of what a key can be survive.
func TestSealOpenExtremes(t *testing.T) {
	t.Parallel()
	k := install(t).keyring()
	want := []exposure.Covered{
		{Key: exposure.Key{}, Start: 0, Period: 1},
		{Key: entest.Key(1), Start: 1<<31 - 1, Period: 144},
		{Key: entest.Key(2), Start: -1 << 31, Period: 255},
	}
	token, err := k.Seal(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := k.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("covered (-want +got):\n%s", diff)
	}
}

// The same keys never make the same token: it must not say that a phone came
// again.
func TestSealIsRandom(t *testing.T) {
	t.Parallel()
	k := install(t).keyring()
	if seal(t, k, 3) == seal(t, k, 3) {
		t.Error("two tokens are equal")
	}
}

// Apps may keep the token in another alphabet.
func TestOpenReadsEveryBase64(t *testing.T) {
	t.Parallel()
	k := install(t).keyring()
	token := seal(t, k, 5)
	wantOpen(t, k, strings.TrimRight(token, "="), 5)
	wantOpen(t, k, strings.NewReplacer("+", "-", "/", "_").Replace(token), 5)
}

// Phones send noise on purpose. It costs no query once the keys are loaded.
func TestOpenNoise(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	token := seal(t, k, 3)
	raw, _ := base64.StdEncoding.DecodeString(token)
	text := func(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
	with := func(at int, b byte) string {
		changed := bytes.Clone(raw)
		changed[at] = b
		return text(changed)
	}
	reads := in.db.reads.Load()

	for why, noise := range map[string]string{
		"nothing":                       "",
		"a word":                        "token",
		"not base64":                    "!" + token[1:],
		"only a header":                 text(raw[:5]),
		"no slots":                      text(raw[:5+12+16]),
		"only a count":                  text(raw[:5+12+16+2]),
		"half a group":                  text(raw[:5+12+16+2+15*21]),
		"a byte less":                   text(raw[:len(raw)-1]),
		"a byte more":                   text(append(bytes.Clone(raw), 0)),
		"another group":                 text(append(bytes.Clone(raw), make([]byte, 30*21)...)),
		"longer than any token":         strings.Repeat("A", 1<<20),
		"another version":               with(0, 2),
		"an unknown key":                with(4, raw[4]+1),
		"a key of the far future":       with(1, 0xff),
		"another nonce":                 with(5, raw[5]^1),
		"another ciphertext":            with(40, raw[40]^1),
		"another tag":                   with(len(raw)-1, raw[len(raw)-1]^1),
		"noise of ours":                 revision.Noise(),
		"noise that names a known key":  text(append(bytes.Clone(raw[:5]), make([]byte, len(raw)-5)...)),
		"noise that names no known key": text(append([]byte{1}, make([]byte, len(raw)-1)...)),
	} {
		t.Run(why, func(t *testing.T) {
			for range 10 {
				wantAbsent(t, k, noise)
			}
		})
	}
	if got := in.db.reads.Load(); got != reads {
		t.Errorf("noise caused %d queries", got-reads)
	}
}

// A token of another installation is noise, even under the same key id.
func TestOpenForeign(t *testing.T) {
	t.Parallel()
	ours, theirs := install(t), install(t)
	wantAbsent(t, ours.keyring(), seal(t, theirs.keyring(), 3))
}

// The settings' AAD is part of token and wrapped key. Who changes it is told
// what to do, and phones are not blamed.
func TestChangedAAD(t *testing.T) {
	t.Parallel()
	in := install(t)
	token := seal(t, in.keyring(), 3)
	in.aad = []byte("renamed")
	k := in.keyring()
	err := k.Ready(t.Context())
	wantTryAgain(t, err)
	if !strings.Contains(err.Error(), "REVISION_TOKEN_AAD") {
		t.Errorf("the error does not say what to put back: %v", err)
	}
	_, _, err = k.Open(t.Context(), token)
	wantTryAgain(t, err)
}

// Many instances that start at once agree on one key.
func TestReadyMakesOneKey(t *testing.T) {
	t.Parallel()
	in := install(t)
	rings := make([]*revision.Keyring, 8)
	var starts errgroup.Group
	for i := range rings {
		rings[i] = in.keyring()
		starts.Go(func() error { return rings[i].Ready(t.Context()) })
	}
	if err := starts.Wait(); err != nil {
		t.Fatal(err)
	}
	rows, err := in.db.RevisionKeys(t.Context())
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d keys were made, %v, want 1", len(rows), err)
	}
	for _, k := range rings {
		wantOpen(t, k, seal(t, rings[0], 3), 3)
	}
}

// What lies in the database is of no use without the key manager.
func TestKeysAreStoredWrapped(t *testing.T) {
	t.Parallel()
	in := install(t)
	seal(t, in.keyring(), 1)
	rows, err := in.db.RevisionKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := in.wrapper.Unwrap(t.Context(), rows[0].Wrapped, revision.WrapContext(in.wrapping()))
	if err != nil || len(plain) != 32 || bytes.Contains(rows[0].Wrapped, plain) {
		t.Errorf("a stored key of %d bytes unwraps to %d, %v", len(rows[0].Wrapped), len(plain), err)
	}
	if _, err := in.wrapper.Unwrap(t.Context(), rows[0].Wrapped, in.aad); err == nil {
		t.Error("a stored key unwraps for another purpose")
	}
}

// A new key seals when every instance has had the time to learn it, and the
// old one opens for as long as its tokens matter.
func TestRotation(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	old := seal(t, k, 3)
	in.wait(time.Hour)
	in.addKey(t)

	in.wait(59 * time.Minute)
	ready(t, k)
	if got := keyIDOf(t, seal(t, k, 3)); got != keyIDOf(t, old) {
		t.Errorf("a key that others may not know yet seals: %d", got)
	}
	in.wait(time.Minute)
	ready(t, k)
	young := seal(t, k, 4)
	if keyIDOf(t, young) == keyIDOf(t, old) {
		t.Error("the new key does not seal")
	}
	wantOpen(t, k, old, 3)
	wantOpen(t, k, young, 4)

	in.wait(14 * 24 * time.Hour)
	ready(t, k)
	wantOpen(t, k, old, 3)
	in.wait(24 * time.Hour)
	ready(t, k)
	wantAbsent(t, k, old)
	wantOpen(t, k, young, 4)

	unwraps := in.wrapper.unwraps.Load()
	ready(t, in.keyring())
	if got := in.wrapper.unwraps.Load() - unwraps; got != 1 {
		t.Errorf("a new instance unwrapped %d keys, want only the one in use", got)
	}
}

// An instance that nobody used for long meets a token made with a key that it
// never saw.
func TestOpenLooksForAnUnknownKey(t *testing.T) {
	t.Parallel()
	in := install(t)
	idle, busy := in.keyring(), in.keyring()
	ready(t, idle)
	in.wait(time.Hour)
	in.addKey(t)
	in.wait(2 * time.Hour)
	token := seal(t, busy, 3)
	if got := keyIDOf(t, token); got != 2 {
		t.Fatalf("key %d seals, want the one that the idle instance never saw", got)
	}
	wantOpen(t, idle, token, 3)
}

func ready(t testing.TB, k *revision.Keyring) {
	t.Helper()
	if err := k.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// It does not seal with what may have been replaced either.
func TestSealAfterIdling(t *testing.T) {
	t.Parallel()
	in := install(t)
	idle := in.keyring()
	old := seal(t, idle, 3)
	in.wait(time.Second)
	in.addKey(t)
	in.wait(time.Hour)
	if keyIDOf(t, seal(t, idle, 3)) == keyIDOf(t, old) {
		t.Error("an idle instance sealed with a replaced key")
	}
}

// With the database down, nothing that was known is lost, what is unknown is
// "try again", and the database is not asked for every request.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	in := install(t)
	token := seal(t, in.keyring(), 3)
	loaded, late := in.keyring(), in.keyring()
	ready(t, loaded)
	foreign := unknownKey(t, token)

	in.db.down.Store(true)
	in.wait(time.Hour)
	ready(t, loaded)
	wantOpen(t, loaded, token, 3)
	wantOpen(t, loaded, seal(t, loaded, 5), 5)
	wantTryAgain(t, late.Ready(t.Context()))
	reads := in.db.reads.Load()
	for range 100 {
		_, err := late.Seal(t.Context(), nil)
		wantTryAgain(t, err)
		for _, k := range []*revision.Keyring{loaded, late} {
			_, _, err = k.Open(t.Context(), foreign)
			wantTryAgain(t, err)
		}
		wantAbsent(t, late, "noise that cannot be ours")
	}
	if got := in.db.reads.Load() - reads; got != 0 {
		t.Errorf("requests asked a dead database %d times at one instant", got)
	}

	in.db.down.Store(false)
	in.wait(5 * time.Second)
	wantOpen(t, late, token, 3)
	wantAbsent(t, loaded, foreign)
}

// unknownKey is a well-formed token under a key id that does not exist.
func unknownKey(t testing.TB, token string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	raw[2] ^= 1
	return base64.StdEncoding.EncodeToString(raw)
}

func TestKeyManagerDown(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.wrapper.breaks(errDown)
	k := in.keyring()
	wantTryAgain(t, k.Ready(t.Context()))
	in.wrapper.mend()
	in.wait(time.Minute)
	old := seal(t, k, 3)

	// A key that cannot be unwrapped now must not look like a missing token,
	// and the keys that are known go on.
	in.wait(time.Hour)
	in.addKey(t)
	in.wait(time.Hour)
	young := seal(t, in.keyring(), 4)
	in.wrapper.breaks(errDown)
	ready(t, k)
	wantOpen(t, k, old, 3)
	wantOpen(t, k, seal(t, k, 5), 5)
	_, _, err := k.Open(t.Context(), young)
	wantTryAgain(t, err)
	wantTryAgain(t, in.keyring().Ready(t.Context()))

	in.wrapper.mend()
	in.wait(time.Minute)
	ready(t, k)
	wantOpen(t, k, young, 4)
}

// A key that can never be unwrapped is no key: its tokens count as absent, and
// the others work.
func TestVoidKey(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	token := seal(t, k, 3)
	in.wait(time.Hour)
	in.addWrapped(t, []byte("what no key manager ever wrapped"))
	in.wait(time.Hour)
	ready(t, k)
	if got := keyIDOf(t, seal(t, k, 3)); got != keyIDOf(t, token) {
		t.Errorf("key %d seals, want the one that can be unwrapped", got)
	}
	raw, _ := base64.StdEncoding.DecodeString(token)
	binary.BigEndian.PutUint32(raw[1:], keyIDOf(t, token)+1)
	wantAbsent(t, k, base64.StdEncoding.EncodeToString(raw))
}

// Under load keys are read once each half minute and unwrapped once ever.
func TestRefreshIsRare(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	token := seal(t, k, 3)
	reads, unwraps := in.db.reads.Load(), in.wrapper.unwraps.Load()
	for range 10 {
		in.wait(30 * time.Second)
		var users errgroup.Group
		for range 8 {
			users.Go(func() error {
				for range 20 {
					if _, ok, err := k.Open(t.Context(), token); !ok || err != nil {
						return fmt.Errorf("Open gave %t, %w", ok, err)
					}
					if _, err := k.Seal(t.Context(), nil); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := users.Wait(); err != nil {
			t.Fatal(err)
		}
		ready(t, k) // whatever refresh was started has ended then
	}
	if got := in.db.reads.Load() - reads; got != 10 {
		t.Errorf("the keys were read %d times in 10 half minutes", got)
	}
	if got := in.wrapper.unwraps.Load() - unwraps; got != 0 {
		t.Errorf("a known key was unwrapped %d times more", got)
	}
}

// A clock that was set back does not stop refreshes until it caught up.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	ready(t, k)
	in.wait(-time.Hour)
	reads := in.db.reads.Load()
	ready(t, k)
	if got := in.db.reads.Load() - reads; got != 1 {
		t.Errorf("the keys were read %d times, want 1", got)
	}
}

// The request that started a refresh may go away; the others that wait for it
// get their keys.
func TestRefreshOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	in := install(t)
	ready(t, in.keyring())
	unwraps := in.wrapper.unwraps.Load()
	in.wrapper.gate = make(chan struct{})
	k := in.keyring()

	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- k.Ready(ctx) }()
	<-in.wrapper.gate
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the request that left got %v", err)
	}
	in.wrapper.gate <- struct{}{}
	wantOpen(t, k, seal(t, k, 3), 3)
	if got := in.wrapper.unwraps.Load() - unwraps; got != 1 {
		t.Errorf("%d unwraps, want that of the first request", got)
	}
}

// FuzzOpen: nothing makes it panic, and only what was sealed opens.
func FuzzOpen(f *testing.F) {
	in := install(f)
	k := in.keyring()
	token := seal(f, k, 3)
	f.Add(token)
	f.Add(revision.Noise())
	f.Add("")
	f.Add("AQAAAAE=")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok, err := k.Open(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := exposure.DecodeBase64(text)
		genuine, _ := exposure.DecodeBase64(token)
		if ok != bytes.Equal(raw, genuine) {
			t.Errorf("a token that nobody sealed names %d keys", len(got))
		}
	})
}

// FuzzSealOpen: what goes in comes out, and slots of any content are read
// without panic.
func FuzzSealOpen(f *testing.F) {
	in := install(f)
	k := in.keyring()
	f.Add([]byte("0123456789abcdefSSSSP"))
	f.Add(bytes.Repeat([]byte{0xff}, 31*21))
	f.Fuzz(func(t *testing.T, content []byte) {
		want := []exposure.Covered{}
		for ; len(content) >= 21 && len(want) < revision.MaxKeys; content = content[21:] {
			want = append(want, exposure.Covered{
				Key:    exposure.Key(content[:16]),
				Start:  exposure.Interval(binary.BigEndian.Uint32(content[16:])),
				Period: int32(content[20]),
			})
		}
		token, err := k.Seal(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := k.Open(t.Context(), token)
		if err != nil || !ok {
			t.Fatalf("Open gave %t, %v", ok, err)
		}
		if diff := cmp.Diff(want, append([]exposure.Covered{}, got...)); diff != "" {
			t.Errorf("covered (-want +got):\n%s", diff)
		}
		if len(content) >= 2 {
			revision.Unpack(content)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := install(b).keyring()
	keys := covered(30)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Seal(b.Context(), keys); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := install(b).keyring()
	for _, bc := range []struct{ name, token string }{
		{"token", seal(b, k, 30)},
		{"noise", revision.Noise()},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := k.Open(b.Context(), bc.token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
