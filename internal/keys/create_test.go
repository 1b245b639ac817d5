package keys_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/keys/keystest"
)

// places where a key can be made, and was not yet.
func places(name string) map[string]string {
	name += "-" + rand.Text()
	return map[string]string{
		"Google":    "gcpkms://" + keystest.GoogleRing + "/cryptoKeys/" + name,
		"AWS":       "awskms:///alias/" + name,
		"Azure":     "azurekms://en-keys.vault.azure.net/" + name,
		"Azure HSM": "azurekms://en-keys.managedhsm.azure.net/hsm-" + name,
		"Vault":     "hashivault://" + name,
	}
}

func TestCreateSigning(t *testing.T) {
	t.Parallel()
	for manager, place := range places("made-to-sign") {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			first, err := keys.CreateSigning(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			signs(t, first)
			second, err := keys.CreateSigning(t.Context(), place)
			if manager == "AWS" {
				if errs.KindOf(err) != errs.KindConflict {
					t.Errorf("an alias that is in use gives error %v, want a conflict", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			signs(t, second)
			if second.URL == first.URL || first.Public.(interface{ Equal(crypto.PublicKey) bool }).Equal(second.Public) {
				t.Errorf("the second time made %s again", first.URL)
			}
			signs(t, first) // its version lives on, and is not mistaken for the newest
			if _, err := keys.CreateWrapping(t.Context(), place); errs.KindOf(err) != errs.KindConflict {
				t.Errorf("a wrapping key of the same name gives error %v, want a conflict", err)
			}
		})
	}
}

// signs opens what was made, as the configuration will.
func signs(t *testing.T, made keys.Created) {
	t.Helper()
	if err := keys.CheckURL(made.URL); err != nil {
		t.Error(err)
	}
	signer, err := keys.OpenSigner(t.Context(), made.URL)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
	if !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(made.Public) {
		t.Errorf("%s has another public key than the one that was said", made.URL)
	}
}

func TestCreateWrapping(t *testing.T) {
	t.Parallel()
	for manager, place := range places("made-to-wrap") {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			made, err := keys.CreateWrapping(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			w, err := keys.OpenWrapper(t.Context(), made.URL)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Wrap(t.Context(), []byte("a secret"), nil); err != nil {
				t.Error(err)
			}
			if _, err := keys.CreateWrapping(t.Context(), place); errs.KindOf(err) != errs.KindConflict {
				t.Errorf("the second time gives error %v, want a conflict", err)
			}
			if manager == "AWS" {
				return
			}
			if _, err := keys.CreateSigning(t.Context(), place); errs.KindOf(err) != errs.KindConflict {
				t.Errorf("a signing key of the same name gives error %v, want a conflict", err)
			}
		})
	}
}

func TestCreateInFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made, err := keys.CreateSigning(t.Context(), "file://"+filepath.Join(dir, "signing.pem"))
	if err != nil {
		t.Fatal(err)
	}
	signs(t, made)
	if made, err = keys.CreateWrapping(t.Context(), "file://"+filepath.Join(dir, "wrapping.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenWrapper(t.Context(), made.URL); err != nil {
		t.Error(err)
	}
}

func TestCreateOptions(t *testing.T) {
	t.Parallel()
	google := "gcpkms://" + keystest.GoogleRing + "/cryptoKeys/"
	software := strings.TrimSuffix(running.google.NewSigning(keystest.P256), "/versions/1")
	for _, tc := range []struct {
		why, url string
		kind     errs.Kind // 0: it is made
		fails    bool
	}{
		{"AWS without an alias", "awskms:///", 0, false},
		{"hardware of Google", google + "in-hardware?protection=hsm", 0, false},
		{"hardware, where the key is software", software + "?protection=hsm", errs.KindConflict, true},
		{"hardware of Azure", "azurekms://en-keys.vault.azure.net/in-hardware?protection=hsm", errs.Internal, false},
		{"an engine of Vault that is not there", "hashivault://k?engine=nowhere", errs.Internal, true},
		{"a ring that is not there", "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k", errs.Internal, true},
		{"a version of Google", google + "k/versions/1", errs.KindInvalid, true},
		{"a version of Azure", "azurekms://en-keys.vault.azure.net/k/0123456789abcdef0123456789abcdef", errs.KindInvalid, true},
		{"a version of Vault", "hashivault://k?version=1", errs.KindInvalid, true},
		{"an id of AWS", "awskms:///12345678-1234-1234-1234-123456789abc", errs.KindInvalid, true},
		{"an alias that belongs to AWS", "awskms:///alias/aws/s3", errs.KindInvalid, true},
		{"another protection", google + "k?protection=strong", errs.KindInvalid, true},
		{"no protection to choose", "hashivault://k?protection=hsm", errs.KindInvalid, true},
		{"no manager", "ftp://k", errs.KindInvalid, true},
		{"no URL", "k", errs.KindInvalid, true},
	} {
		made, err := keys.CreateSigning(t.Context(), tc.url)
		if (err != nil) != tc.fails || errs.KindOf(err) != tc.kind {
			t.Errorf("%s: %q and error %v", tc.why, made.URL, err)
		}
		if _, err := keys.CreateWrapping(t.Context(), tc.url); tc.fails && errs.KindOf(err) != tc.kind {
			t.Errorf("%s, for wrapping: error %v", tc.why, err)
		}
	}
}

// Making is not repeated: a lost answer would make two keys.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	v := running.vault
	place := strings.TrimSuffix(v.NewSigning(keystest.P256), "?version=1")
	before := v.Asked(v.Key(place))
	v.Fail(v.Key(place), 0, keystest.Lost)
	if _, err := keys.CreateSigning(t.Context(), place); err == nil {
		t.Error("an answer that was lost is taken for a success")
	}
	if asked := v.Asked(v.Key(place)) - before; asked != 2 {
		t.Errorf("Vault was asked %d times, want a look and an order", asked)
	}
}

// An HSM makes a version while nobody waits for it.
func TestCreateInHSM(t *testing.T) {
	t.Parallel()
	g := running.google
	place := strings.TrimSuffix(g.NewSigning(keystest.P256), "/versions/1")
	g.Fail(g.Key(place), 0, 0, keystest.Pending, keystest.Pending)
	made, err := keys.CreateSigning(t.Context(), place)
	if err != nil || made.URL != place+"/versions/2" {
		t.Errorf("made %q (error %v), want version 2", made.URL, err)
	}
}

// A key that was made but cannot be used is told, or nobody would find it.
func TestCreatedButUseless(t *testing.T) {
	t.Parallel()
	v := running.vault
	place := strings.TrimSuffix(v.NewSigning(keystest.P256), "?version=1")
	v.Disable(v.Key(place))
	if _, err := keys.CreateSigning(t.Context(), place); err == nil || !strings.Contains(err.Error(), place+"?version=2 was made, but") {
		t.Errorf("the error is %v, want one that says what was made", err)
	}
}
