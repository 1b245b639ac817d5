package keys_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/keys/keystest"
)

func TestSignerFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	pub, err := keys.CreateSigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	keystest.RunSigner(t, func(t *testing.T) crypto.Signer {
		signer, err := keys.OpenSigner(t.Context(), "file://"+path)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	})
	signer, err := keys.OpenSigner(t.Context(), "file://"+path)
	if err != nil || !pub.(*ecdsa.PublicKey).Equal(signer.Public()) {
		t.Errorf("the key that was made is not the one that was said to be (error %v)", err)
	}
	private(t, path)
}

func TestWrapperFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(name string) func(t *testing.T) keys.Wrapper {
		path := filepath.Join(dir, name)
		if err := keys.CreateWrappingKey(path); err != nil {
			t.Fatal(err)
		}
		private(t, path)
		return func(t *testing.T) keys.Wrapper {
			w, err := keys.OpenWrapper(t.Context(), "file://"+path)
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
	}
	keystest.RunWrapper(t, open("one"), open("other"))
}

func private(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file's mode is %v (error %v), want 0600", info.Mode(), err)
	}
}

// Keys are never overwritten, and a failed attempt leaves nothing beside them.
func TestCreateRefusesToOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.CreateSigningKey(path); errs.KindOf(err) != errs.KindConflict {
		t.Errorf("CreateSigningKey over a file gives error %v, want a conflict", err)
	}
	if err := keys.CreateWrappingKey(path); errs.KindOf(err) != errs.KindConflict {
		t.Errorf("CreateWrappingKey over a file gives error %v, want a conflict", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %d files (error %v), want the one", len(entries), err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q now (error %v)", text, err)
	}
}

func TestOpenSigner(t *testing.T) {
	t.Parallel()
	p256 := generate(t, elliptic.P256())
	p384 := generate(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	param := block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7})
	for _, tc := range []struct {
		why, text string
		ok        bool
	}{
		{"PKCS 8", pkcs8(t, p256), true},
		{"SEC 1", block("EC PRIVATE KEY", sec1), true},
		{"SEC 1 as openssl ecparam writes it", param + block("EC PRIVATE KEY", sec1), true},
		{"another curve", pkcs8(t, p384), false},
		{"RSA", pkcs8(t, rsaKey), false},
		{"Ed25519", pkcs8(t, ed25519.NewKeyFromSeed(make([]byte, 32))), false},
		{"a public key", public(t, &p256.PublicKey), false},
		{"parameters alone", param, false},
		{"rubbish in the block", block("PRIVATE KEY", []byte("secret rubbish")), false},
		{"no PEM", "secret rubbish", false},
		{"empty", "", false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			signer, err := keys.OpenSigner(t.Context(), "file://"+path)
			if (err == nil) != tc.ok || (signer != nil) != tc.ok {
				t.Fatalf("OpenSigner gives %v and error %v", signer, err)
			}
			if tc.ok && !p256.PublicKey.Equal(signer.Public()) {
				t.Error("it is another key")
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error %q tells what is in the file", err)
			}
		})
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ why, url string }{
		{"not there", "file://" + filepath.Join(t.TempDir(), "none")},
		{"a folder", "file://" + t.TempDir()},
		{"two slashes make the first folder a host", "file://etc/key.pem"},
		{"relative", "file:key.pem"},
		{"a sharp that was not escaped", "file:///etc/key#1.pem"},
		{"a path alone", "/etc/key.pem"},
		{"empty", ""},
		{"a project of Google", "gcpkms://projects/p"},
		{"the key itself, put where its URL belongs", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="},
	} {
		_, signerErr := keys.OpenSigner(t.Context(), tc.url)
		_, wrapperErr := keys.OpenWrapper(t.Context(), tc.url)
		for _, err := range []error{signerErr, wrapperErr} {
			if err == nil {
				t.Errorf("%s: %q was opened", tc.why, tc.url)
			} else if strings.Contains(err.Error(), "c2Vjc") {
				t.Errorf("%s: the error tells the key: %v", tc.why, err)
			}
		}
	}
	for url, ok := range map[string]bool{"file:///a": true, "file://a": false, "gcpkms://x": false, "x": false} {
		if err := keys.CheckURL(url); (err == nil) != ok {
			t.Errorf("CheckURL(%q) gives error %v", url, err)
		}
	}
}

func TestOpenWrapperFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why, text string
		ok        bool
	}{
		{"32 bytes", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", true},
		{"with white space around", " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n", true},
		{"16 bytes make a weaker cipher", "AAAAAAAAAAAAAAAAAAAAAA==", false},
		{"33 bytes", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", false},
		{"raw bytes", strings.Repeat("\x01", 32), false},
		{"empty", "", false},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := keys.OpenWrapper(t.Context(), "file://"+path)
		if (err == nil) != tc.ok || (w != nil) != tc.ok {
			t.Errorf("%s: OpenWrapper gives %v and error %v", tc.why, w != nil, err)
		}
	}
}

func TestParsePublicPEM(t *testing.T) {
	t.Parallel()
	p256 := generate(t, elliptic.P256())
	for _, tc := range []struct {
		why, text string
		ok        bool
	}{
		{"P-256", public(t, &p256.PublicKey), true},
		{"text before the block", "subject=x\n" + public(t, &p256.PublicKey), true},
		{"another curve", public(t, &generate(t, elliptic.P384()).PublicKey), false},
		{"a private key", pkcs8(t, p256), false},
		{"rubbish in the block", block("PUBLIC KEY", []byte("rubbish")), false},
		{"no PEM", "rubbish", false},
	} {
		key, err := keys.ParsePublicPEM([]byte(tc.text))
		if (err == nil) != tc.ok || (key != nil) != tc.ok {
			t.Errorf("%s: ParsePublicPEM gives error %v", tc.why, err)
		}
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	var ring keys.Ring
	if _, err := ring.Signer(t.Context(), "file://"+path); err == nil {
		t.Fatal("a key that is not there was opened")
	}
	if _, err := keys.CreateSigningKey(path); err != nil {
		t.Fatal(err)
	}
	first, err := ring.Signer(t.Context(), "file://"+path)
	if err != nil {
		t.Fatalf("the failure was remembered: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again, err := ring.Signer(t.Context(), "file://"+path)
	if err != nil || again != first {
		t.Errorf("the key was opened twice (error %v)", err)
	}
}

// A manager that does not answer keeps nobody who wants another key, and nobody
// longer than he waits.
func TestRingWaitsForNobody(t *testing.T) {
	t.Parallel()
	m := running.google
	slow, quick := m.NewSigning(keystest.P256), m.NewSigning(keystest.P256)
	m.Fail(m.Key(slow), keystest.Slow)
	var ring keys.Ring
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := ring.Signer(ctx, slow)
		ended <- err
	}()
	if _, err := ring.Signer(t.Context(), quick); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("who stopped waiting got error %v", err)
	}
	if _, err := ring.Signer(t.Context(), slow); err != nil {
		t.Errorf("who came later got error %v", err)
	}
}

func generate(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func public(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	text, err := keys.PublicPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
