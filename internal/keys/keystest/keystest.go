// Package keystest holds every keeper of keys to the same contract.
package keystest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
)

// RunSigner checks one kind of signing key. Each call of open opens the same
// key once more.
func RunSigner(t *testing.T, open func(t *testing.T) crypto.Signer) {
	signer := open(t)
	pub, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		t.Fatalf("the public key is a %T, want ECDSA P-256", signer.Public())
	}
	if !pub.Equal(open(t).Public()) {
		t.Error("opened twice, the key has two public keys")
	}
	pem, err := keys.PublicPEM(pub)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := keys.ParsePublicPEM(pem); err != nil || !pub.Equal(back) {
		t.Errorf("the public key does not come back from PEM (error %v)", err)
	}
	var all errgroup.Group
	for i := range 8 {
		all.Go(func() error {
			digest := sha256.Sum256([]byte{byte(i)})
			signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				return err
			}
			if !ecdsa.VerifyASN1(pub, digest[:], signature) {
				t.Error("a signature is not ECDSA in ASN.1 DER over the digest")
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

// RunWrapper checks one kind of wrapping key. Each call of open opens the same
// key once more; other opens another key of its kind.
func RunWrapper(t *testing.T, open, other func(t *testing.T) keys.Wrapper) {
	w := open(t)
	secret, bound := []byte("thirty-two bytes of a secret key"), []byte("revision")
	wrapped := wrap(t, w, secret, bound)
	if bytes.Contains(wrapped, secret[:8]) {
		t.Error("what is wrapped shows the secret")
	}
	if bytes.Equal(wrapped, wrap(t, w, secret, bound)) {
		t.Error("a secret is wrapped to the same bytes twice")
	}
	for _, tc := range []struct {
		why             string
		w               keys.Wrapper
		wrapped, secret []byte // a nil secret: refused
		context         []byte
	}{
		{"as it was wrapped", w, wrapped, secret, bound},
		{"by the same key, opened again", open(t), wrapped, secret, bound},
		{"an empty secret", w, wrap(t, w, nil, bound), []byte{}, bound},
		{"no context", w, wrap(t, w, secret, nil), secret, nil},
		{"no context is an empty one", w, wrap(t, w, secret, nil), secret, []byte{}},
		{"a long context", w, wrap(t, w, secret, long()), secret, long()},
		{"a large secret", w, wrap(t, w, long(), bound), long(), bound},
		{"another key", other(t), wrapped, nil, bound},
		{"another context", w, wrapped, nil, []byte("revisioN")},
		{"a longer context", w, wrapped, nil, []byte("revision2")},
		{"a context left out", w, wrapped, nil, nil},
		{"a context put in", w, wrap(t, w, secret, nil), nil, bound},
		{"nothing", w, nil, nil, bound},
		{"cut short", w, wrapped[:len(wrapped)-1], nil, bound},
		{"cut to its head", w, wrapped[:1], nil, bound},
		{"more behind it", w, append(bytes.Clone(wrapped), 0), nil, bound},
	} {
		unwrap(t, tc.why, tc.w, tc.wrapped, tc.context, tc.secret)
	}
	for i := range wrapped {
		changed := bytes.Clone(wrapped)
		changed[i] ^= 1
		unwrap(t, "one bit changed", w, changed, bound, nil)
	}
}

func long() []byte { return []byte(strings.Repeat("long ", 1000)) }

func wrap(t *testing.T, w keys.Wrapper, secret, context []byte) []byte {
	t.Helper()
	wrapped, err := w.Wrap(t.Context(), secret, context)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

// unwrap expects the secret, or, if that is nil, a refusal.
func unwrap(t *testing.T, why string, w keys.Wrapper, wrapped, context, want []byte) {
	t.Helper()
	got, err := w.Unwrap(t.Context(), wrapped, context)
	if want == nil {
		if errs.KindOf(err) != errs.KindInvalid {
			t.Errorf("%s: error %v, want an invalid one", why, err)
		}
		return
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes come back (error %v), want the %d that were wrapped", why, len(got), err, len(want))
	}
}
