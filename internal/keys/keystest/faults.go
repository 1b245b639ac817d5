package keystest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
)

// impatience is how long the suites wait for what will not come.
const impatience = 200 * time.Millisecond

// some faults come twice; slowness once, since each takes its time.
func some(f Fault) []Fault {
	if f == Slow {
		return []Fault{f}
	}
	return []Fault{f, f}
}

// forever is more faults than anybody asks for.
func forever(f Fault) []Fault { return slices.Repeat([]Fault{f}, 10000) }

// broken is a state of a key that asking again does not mend.
type broken struct {
	why   string
	make  func(m Manager, key string)
	words []string // one of which the error must say
}

func brokenKeys() []broken {
	return []broken{
		{"a right was taken away", Manager.Deny, []string{"needs a right", "must allow"}},
		{"it was disabled", Manager.Disable, []string{"disabled", "not allowed any more", "archived"}},
		{"it was removed", Manager.Remove, []string{"knows no"}},
	}
}

// passing faults are got over by asking again.
func passing() map[string]Fault {
	return map[string]Fault{"busy": Busy, "throttled": Throttled, "lost": Lost, "slow": Slow}
}

// Signers are the signing keys of a manager.
type Signers struct {
	Manager Manager

	// Open opens a key. A single question may take half a second.
	Open func(ctx context.Context, keyURL string) (crypto.Signer, error)

	// Hurried gives a signer that asks no longer than this.
	Hurried func(s crypto.Signer, whole time.Duration) crypto.Signer
}

// RunManagedSigner holds the signing keys of a manager to the contract of
// RunSigner, and to what must happen when the manager fails.
func RunManagedSigner(t *testing.T, s Signers) {
	t.Run("contract", func(t *testing.T) {
		t.Parallel()
		keyURL := s.Manager.NewSigning(P256)
		RunSigner(t, func(t *testing.T) crypto.Signer { return s.opened(t, keyURL) })
	})
	for _, kind := range []Kind{P384, RSA} {
		t.Run("a key of the kind "+string(kind)+", which phones cannot verify", func(t *testing.T) {
			t.Parallel()
			keyURL := s.Manager.NewSigning(kind)
			_, err := s.Open(t.Context(), keyURL)
			refused(t, err, "must be ECDSA on the curve P-256")
		})
	}
	for _, b := range brokenKeys() {
		t.Run("a key of which "+b.why, func(t *testing.T) { t.Parallel(); s.broken(t, b) })
	}
	faults := passing()
	faults["garbled"], faults["forged"] = Garbled, Forged
	for why, f := range faults {
		t.Run("a signature that was "+why, func(t *testing.T) { t.Parallel(); s.faulty(t, f) })
	}
	t.Run("a manager that does not recover", func(t *testing.T) { t.Parallel(); s.dead(t) })
	t.Run("a digest of SHA-384", func(t *testing.T) { t.Parallel(); s.otherDigest(t) })
}

func (s Signers) opened(t *testing.T, keyURL string) crypto.Signer {
	t.Helper()
	signer, err := s.Open(t.Context(), keyURL)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// sign signs something and looks at the signature.
func sign(t *testing.T, signer crypto.Signer) error {
	t.Helper()
	digest := sha256.Sum256([]byte("a file"))
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err == nil && !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("a signature that is no signature was handed out")
	}
	return err
}

// refused wants one line that says what is wrong.
func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	says := func(word string) bool { return err != nil && strings.Contains(err.Error(), word) }
	if !slices.ContainsFunc(words, says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line that says one of %q", err, words)
	}
}

// broken keys are told at once: nobody is asked twice.
func (s Signers) broken(t *testing.T, b broken) {
	keyURL := s.Manager.NewSigning(P256)
	key := s.Manager.Key(keyURL)
	signer := s.opened(t, keyURL)
	b.make(s.Manager, key)
	before := s.Manager.Asked(key)
	refused(t, sign(t, signer), b.words...)
	_, err := s.Open(t.Context(), keyURL)
	refused(t, err, b.words...)
	if asked := s.Manager.Asked(key) - before; asked > 2 {
		t.Errorf("the manager was asked %d times for a signature and a public key", asked)
	}
}

// faulty managers are asked again, and never believed.
func (s Signers) faulty(t *testing.T, f Fault) {
	keyURL := s.Manager.NewSigning(P256)
	key := s.Manager.Key(keyURL)
	signer := s.opened(t, keyURL)
	before := s.Manager.Asked(key)
	s.Manager.Fail(key, some(f)...)
	if err := sign(t, signer); err != nil {
		t.Fatalf("it was not got over: %v", err)
	}
	if asked, want := s.Manager.Asked(key)-before, len(some(f))+1; asked != want {
		t.Errorf("the manager was asked %d times, want %d", asked, want)
	}
}

// dead managers are not asked without end.
func (s Signers) dead(t *testing.T) {
	keyURL := s.Manager.NewSigning(P256)
	key := s.Manager.Key(keyURL)
	s.Manager.Fail(key, Busy, Lost)
	signer := s.opened(t, keyURL)
	s.Manager.Fail(key, forever(Forged)...)
	if err := sign(t, s.Hurried(signer, impatience)); err == nil {
		t.Error("a manager that never recovers signed")
	}
	s.Manager.Fail(key, forever(Busy)...)
	ctx, cancel := context.WithTimeout(t.Context(), impatience)
	defer cancel()
	if _, err := s.Open(ctx, keyURL); err == nil {
		t.Error("a manager that never recovers gave a public key")
	}
}

func (s Signers) otherDigest(t *testing.T) {
	keyURL := s.Manager.NewSigning(P256)
	signer := s.opened(t, keyURL)
	before := s.Manager.Asked(s.Manager.Key(keyURL))
	_, err := signer.Sign(rand.Reader, make([]byte, crypto.SHA384.Size()), crypto.SHA384)
	if asked := s.Manager.Asked(s.Manager.Key(keyURL)) - before; err == nil || asked != 0 {
		t.Errorf("it gives error %v after %d questions, want a refusal without any", err, asked)
	}
}

// Wrappers are the wrapping keys of a manager.
type Wrappers struct {
	Manager Manager
	New     func() (keyURL string) // makes a key; as a rule Manager.NewWrapping

	// Open opens a key. A single question may take half a second.
	Open func(keyURL string) (keys.Wrapper, error)
}

// RunManagedWrapper holds the wrapping keys of a manager to the contract of
// RunWrapper, and to what must happen when the manager fails.
func RunManagedWrapper(t *testing.T, s Wrappers) {
	t.Run("contract", func(t *testing.T) {
		t.Parallel()
		one, other := s.New(), s.New()
		opening := func(keyURL string) func(t *testing.T) keys.Wrapper {
			return func(t *testing.T) keys.Wrapper { return s.opened(t, keyURL) }
		}
		RunWrapper(t, opening(one), opening(other))
	})
	for _, b := range brokenKeys() {
		t.Run("a key of which "+b.why, func(t *testing.T) { t.Parallel(); s.broken(t, b) })
	}
	for why, f := range passing() {
		t.Run("an answer that was "+why, func(t *testing.T) { t.Parallel(); s.faulty(t, f) })
	}
	t.Run("a manager that does not recover", func(t *testing.T) { t.Parallel(); s.dead(t) })
	t.Run("a key for signing", func(t *testing.T) { t.Parallel(); s.forSigning(t) })
}

func (s Wrappers) opened(t *testing.T, keyURL string) keys.Wrapper {
	t.Helper()
	w, err := s.Open(keyURL)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// broken keys are told at once, and never called a wrong ciphertext: what they
// wrapped would be given up.
func (s Wrappers) broken(t *testing.T, b broken) {
	keyURL := s.New()
	key := s.Manager.Key(keyURL)
	w := s.opened(t, keyURL)
	wrapped := wrap(t, w, []byte("a secret"), nil)
	b.make(s.Manager, key)
	before := s.Manager.Asked(key)
	_, err := w.Unwrap(t.Context(), wrapped, nil)
	refused(t, err, b.words...)
	if asked := s.Manager.Asked(key) - before; asked > 1 || errs.KindOf(err) == errs.KindInvalid {
		t.Errorf("after %d questions the error is %v, want one that is not the ciphertext's fault", asked, err)
	}
}

func (s Wrappers) faulty(t *testing.T, f Fault) {
	keyURL := s.New()
	key := s.Manager.Key(keyURL)
	w := s.opened(t, keyURL)
	secret := []byte("a secret")
	if f != Slow { // once is enough, for each takes its time
		s.Manager.Fail(key, f, f)
	}
	wrapped := wrap(t, w, secret, nil)
	s.Manager.Fail(key, some(f)...)
	if got, err := w.Unwrap(t.Context(), wrapped, nil); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("it was not got over: %v", err)
	}
}

// dead managers are not asked without end, and it is not the ciphertext's fault.
func (s Wrappers) dead(t *testing.T) {
	keyURL := s.New()
	w := s.opened(t, keyURL)
	wrapped := wrap(t, w, []byte("a secret"), nil)
	s.Manager.Fail(s.Manager.Key(keyURL), forever(Busy)...)
	ctx, cancel := context.WithTimeout(t.Context(), impatience)
	defer cancel()
	if _, err := w.Unwrap(ctx, wrapped, nil); err == nil || errs.KindOf(err) == errs.KindInvalid {
		t.Errorf("the error is %v", err)
	}
}

// forSigning takes the URL of a signing key, without its version.
func (s Wrappers) forSigning(t *testing.T) {
	keyURL := s.New()
	signing := s.Manager.NewSigning(P256)
	w := s.opened(t, strings.Replace(keyURL, s.Manager.Key(keyURL), s.Manager.Key(signing), 1))
	if _, err := w.Wrap(t.Context(), []byte("a secret"), nil); err == nil || errs.KindOf(err) == errs.KindInvalid {
		t.Errorf("it wraps, or fails with %v", err)
	}
}
