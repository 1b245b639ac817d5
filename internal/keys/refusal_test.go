package keys_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/keys/keystest"
)

func TestManagedURLs(t *testing.T) {
	t.Parallel()
	const (
		google = "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k"
		id     = "12345678-1234-1234-1234-123456789abc"
		arn    = "arn:aws:kms:eu-central-1:111122223333:key/" + id
		azure  = "azurekms://v.vault.azure.net/k"
		hex    = "0123456789abcdef0123456789abcdef"
	)
	const (
		neither = 0
		signing = 1 << iota
		wrapping
	)
	for _, tc := range []struct {
		why, url string
		want     int
	}{
		{"a key", google, wrapping},
		{"a version", google + "/versions/1", signing},
		{"a version as Google's tools print it", google + "/cryptoKeyVersions/12", signing},
		{"a project of a domain", strings.Replace(google, "projects/p", "projects/example.org:p", 1), wrapping},
		{"no number", google + "/versions/latest", neither},
		{"version 0", google + "/versions/0", neither},
		{"a key ring", "gcpkms://projects/p/locations/l/keyRings/r", neither},
		{"an option that is none", google + "?version=1", neither},
		{"three slashes", strings.Replace(google, "//", "///", 1), neither},

		{"an ARN", "awskms:///" + arn, signing | wrapping},
		{"an ARN of China", "awskms:///" + strings.Replace(arn, "arn:aws:", "arn:aws-cn:", 1), signing | wrapping},
		{"an id, whose region comes from the environment", "awskms:///" + id, signing | wrapping},
		{"an id and its region", "awskms:///" + id + "?region=eu-west-1", signing | wrapping},
		{"a key of many regions", "awskms:///mrk-" + hex, signing | wrapping},
		{"an ARN and its region", "awskms:///" + arn + "?region=eu-central-1", signing | wrapping},
		{"an ARN and another region", "awskms:///" + arn + "?region=eu-west-1", neither},
		{"an alias can be moved", "awskms:///alias/en", neither},
		{"the ARN of an alias", "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/en", neither},
		{"two slashes", "awskms://" + id, neither},
		{"no key", "awskms:///", neither},

		{"a key", azure, wrapping},
		{"a version", azure + "/" + hex, signing},
		{"a managed HSM", strings.Replace(azure, ".vault.", ".managedhsm.", 1), wrapping},
		{"a vault of a sovereign cloud", "azurekms://v.vault.usgovcloudapi.net/k", wrapping},
		{"a vault that is not Azure's", "azurekms://v.example.org/k", neither},
		{"a vault whose name ends like one of Azure's", "azurekms://evil.example/.vault.azure.net/k", neither},
		{"a name before the name", "azurekms://a.b.vault.azure.net/k", neither},
		{"a port", "azurekms://v.vault.azure.net:444/k", neither},
		{"a short version", azure + "/1", neither},
		{"a key with a dot", azure + ".k", neither},

		{"a key", "hashivault://k", wrapping},
		{"a version", "hashivault://k?version=3", signing},
		{"an engine elsewhere", "hashivault://k?engine=team/transit", wrapping},
		{"version 0 is the newest, for Vault", "hashivault://k?version=0", neither},
		{"an engine that climbs", "hashivault://k?engine=../sys", neither},
		{"a path behind the key", "hashivault://k/rotate", neither},
		{"an empty option", "hashivault://k?version=", neither},
		{"an option twice", "hashivault://k?version=1&version=2", neither},

		{"a password", "hashivault://user:secret@k", neither},
		{"a fragment", google + "#k", neither},
		{"another manager", "pkcs11://k", neither},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // whoever asks a manager has failed
		if err := keys.CheckURL(tc.url); (err == nil) != (tc.want&signing != 0) || (err != nil && errs.KindOf(err) != errs.KindInvalid) {
			t.Errorf("%s: CheckURL(%s) gives error %v", tc.why, tc.url, err)
		}
		_, err := keys.OpenWrapper(ctx, tc.url)
		if (err == nil) != (tc.want&wrapping != 0) || (err != nil && errs.KindOf(err) != errs.KindInvalid) {
			t.Errorf("%s: OpenWrapper(%s) gives error %v", tc.why, tc.url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", tc.why, err)
		}
		if _, err := keys.OpenSigner(ctx, tc.url); err == nil {
			t.Errorf("%s: OpenSigner(%s) gave up on nothing", tc.why, tc.url)
		}
	}
}

// Whoever writes into the database can make envelopes; none of them is opened,
// and none does more than fail.
func TestHostileEnvelopes(t *testing.T) {
	t.Parallel()
	const hex = "0123456789abcdef0123456789abcdef"
	for name, m := range running.all() {
		keyURL := m.NewWrapping()
		w, err := keys.OpenWrapperPatiently(keyURL)
		if err != nil {
			t.Fatal(err)
		}
		key := m.Key(keyURL)
		for _, tc := range []struct {
			why, body string
			final     bool // errs.Invalid, not "ask again"
		}{
			{"nothing", "", true},
			{"half a length", "\x00", true},
			{"an empty key", "\x00\x00sealed", true},
			{"a length beyond the end", "\x00\x09sealed", true},
			{"noise", "\x00\x05noisesealed", true},
			{"bytes that are no text", "\x00\x05\xff\xfe\xfd\xfc\xfbsealed", true},
			{"Vault's form", "\x00\x0fvault:v1:bm9pc2Vsealed", true},
			{"Vault's form, a version to come", "\x00\x10vault:v99:bm9pc2Vsealed", true},
			{"Azure's form, a version that climbs", azureLabel(key, "..", "RSA-OAEP-256"), true},
			{"Azure's form, another algorithm", azureLabel(key, hex, "RSA1_5"), true},
			{"Azure's form, a version that may be missing today", azureLabel(key, hex, "A256KW"), name != "Azure"},
		} {
			got, err := w.Unwrap(t.Context(), keys.Envelope(tc.body), nil)
			if err == nil || (errs.KindOf(err) == errs.KindInvalid) != tc.final || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %q and error %v", name, tc.why, got, err)
			}
		}
	}
}

func azureLabel(key, version, algorithm string) string {
	label := key + "/" + version + "/" + algorithm + "\x00sealed"
	return "\x00" + string(rune(len(label))) + label + "secret"
}

// What a manager binds by itself it refuses by itself, whatever is inside.
func TestNativeBinding(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]interface {
		keystest.Manager
		Bound(key string) [][]byte
	}{"Google": running.google, "AWS": running.aws} {
		keyURL := m.NewWrapping()
		w, err := keys.OpenWrapper(t.Context(), keyURL)
		if err != nil {
			t.Fatal(err)
		}
		for _, context := range []string{"one", "other", "one"} {
			if _, err := w.Wrap(t.Context(), []byte("a secret"), []byte(context)); err != nil {
				t.Fatal(err)
			}
		}
		bound := m.Bound(m.Key(keyURL))
		if len(bound) != 3 || len(bound[0]) < 32 || !bytes.Equal(bound[0], bound[2]) || bytes.Equal(bound[0], bound[1]) {
			t.Errorf("%s was told to bind to %x", name, bound)
		}
	}
}

// Google's answers are believed when their sums are right.
func TestGoogleSums(t *testing.T) {
	t.Parallel()
	g := running.google
	signing, wrapping := g.NewSigning(keystest.P256), g.NewWrapping()
	g.Fail(g.Key(signing), keystest.Garbled)
	if _, err := keys.OpenSignerPatiently(t.Context(), signing); err != nil || g.Asked(g.Key(signing)) != 2 {
		t.Errorf("a public key with a wrong sum was asked for %d times (error %v)", g.Asked(g.Key(signing)), err)
	}
	w, err := keys.OpenWrapperPatiently(wrapping)
	if err != nil {
		t.Fatal(err)
	}
	g.Fail(g.Key(wrapping), keystest.Garbled, 0, keystest.Garbled)
	wrapped, err := w.Wrap(t.Context(), []byte("a secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Unwrap(t.Context(), wrapped, nil); err != nil || g.Asked(g.Key(wrapping)) != 4 {
		t.Errorf("answers with wrong sums: %d questions (error %v)", g.Asked(g.Key(wrapping)), err)
	}
}

// A wrapping key is turned over; what older versions wrapped stays readable.
func TestTurnedOver(t *testing.T) {
	t.Parallel()
	for name, m := range running.all() {
		keyURL := m.NewWrapping()
		w, err := keys.OpenWrapper(t.Context(), keyURL)
		if err != nil {
			t.Fatal(err)
		}
		old, err := w.Wrap(t.Context(), []byte("a secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if name != "AWS" { // which does it unseen
			m.(interface{ TurnOver(key string) }).TurnOver(m.Key(keyURL))
		}
		fresh, err := w.Wrap(t.Context(), []byte("a secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrapped := range [][]byte{old, fresh} {
			if got, err := w.Unwrap(t.Context(), wrapped, nil); err != nil || string(got) != "a secret" {
				t.Errorf("%s: %q comes back (error %v)", name, got, err)
			}
		}
	}
}

// The rest needs an environment of its own, so it is not parallel.

func TestNothingStandsInInProduction(t *testing.T) {
	t.Setenv("ENVIRONMENT", "Production")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://192.0.2.1")
	t.Setenv("VAULT_ADDR", "http://192.0.2.1")
	for name, m := range running.all() {
		_, err := keys.OpenSigner(t.Context(), m.NewSigning(keystest.P256))
		if err == nil || !strings.Contains(err.Error(), "when ENVIRONMENT=production") {
			t.Errorf("%s: error %v, want one that names the variable", name, err)
		}
		_, err = keys.CreateWrapping(t.Context(), places("x")[name])
		if err == nil || !strings.Contains(err.Error(), "when ENVIRONMENT=production") {
			t.Errorf("%s, a new key: error %v, want one that names the variable", name, err)
		}
	}
}

func TestNobodyToAsk(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("VAULT_ADDR", "")
	for url, word := range map[string]string{
		"awskms:///12345678-1234-1234-1234-123456789abc": "AWS_REGION",
		"hashivault://k?version=1":                       "VAULT_ADDR",
	} {
		if _, err := keys.OpenSigner(t.Context(), url); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error %v, want one that names %s", url, err, word)
		}
	}
}

// Whoever is not let in is told at once, by a line without a secret in it.
func TestWrongAccounts(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")
	t.Setenv("AZURE_CLIENT_SECRET", "a wrong secret")
	t.Setenv("VAULT_TOKEN", "hvs.a-wrong-secret")
	for name, m := range running.all() {
		if name == "Google" {
			continue // asked without an account here
		}
		started := time.Now()
		_, err := keys.OpenSigner(t.Context(), m.NewSigning(keystest.P256))
		if err == nil || strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "\n") || time.Since(started) > 5*time.Second {
			t.Errorf("%s: error %v after %s", name, err, time.Since(started))
		}
	}
}

func TestVaultByFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("VAULT_TOKEN_FILE", file)
	w, err := keys.OpenWrapper(t.Context(), running.vault.NewWrapping())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ token, word string }{
		{"", "VAULT_TOKEN_FILE cannot be read"},
		{"hvs.stale", "must allow"},
		{keystest.VaultToken + "\n", ""},
	} {
		if tc.token != "" {
			write(t, file, tc.token)
		}
		_, err := w.Wrap(t.Context(), []byte("a secret"), nil)
		if (err == nil) != (tc.word == "") || (err != nil && !strings.Contains(err.Error(), tc.word)) {
			t.Errorf("with the token %q: error %v, want %q", tc.token, err, tc.word)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVaultAsPod(t *testing.T) {
	v := running.vault
	file := filepath.Join(t.TempDir(), "account")
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("VAULT_KUBERNETES_ROLE", keystest.VaultRole)
	t.Setenv("VAULT_KUBERNETES_TOKEN_FILE", file)
	now := time.Now()
	w, err := keys.OpenVaultWrapperAt(v.NewWrapping(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	before := v.Logins()
	works := func(why string, logins int) {
		t.Helper()
		if _, err := w.Wrap(t.Context(), []byte("a secret"), nil); err != nil || v.Logins()-before != logins {
			t.Errorf("%s: %d logins so far (error %v), want %d", why, v.Logins()-before, err, logins)
		}
	}
	fails := func(why, word string) {
		t.Helper()
		if _, err := w.Wrap(t.Context(), []byte("a secret"), nil); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error %v, want %q", why, err, word)
		}
	}
	fails("no account", "the token of the service account cannot be read")
	write(t, file, "the token of somebody else")
	fails("somebody else", "must allow")
	write(t, file, keystest.VaultAccount+"\n")
	works("the first time", 1)
	works("again", 1)
	now = now.Add(39 * time.Minute)
	works("for two thirds of its life", 1)
	now = now.Add(2 * time.Minute)
	works("after that", 2)
	v.Revoke()
	works("when Vault took the token back", 3)
	write(t, file, "the token of somebody else")
	v.Revoke()
	fails("when the pod may not enter any more", "must allow")
}
