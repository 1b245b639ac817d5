package secrets_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"enkeyserver/internal/secrets"
	"enkeyserver/internal/secrets/secretstest"
)

// TestMain makes this process trust the fake servers, before it has read whom
// it trusts.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "secrets-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	roots, err := secretstest.Roots(dir)
	if err == nil {
		err = os.Setenv("SSL_CERT_FILE", roots)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// They wait for slow servers more than they work.
	if err := flag.Set("test.parallel", "32"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// settings are those of a program in this environment.
func settings(t *testing.T) secrets.Settings {
	t.Helper()
	return secrets.Settings{
		Manager:  "gcp",
		CacheTTL: secretstest.TTL,
		Timeout:  9 * time.Second,
		Dir:      os.Getenv("SECRETS_DIR"),
		Vault: secrets.VaultSettings{
			TokenFile:           os.Getenv("VAULT_TOKEN_FILE"),
			KubernetesRole:      os.Getenv("VAULT_KUBERNETES_ROLE"),
			KubernetesMount:     "kubernetes",
			KubernetesTokenFile: os.Getenv("VAULT_KUBERNETES_TOKEN_FILE"),
		},
		GoogleEndpoint: os.Getenv("DEBUG_GCP_SECRET_MANAGER_ENDPOINT"),
		AzureEndpoint:  os.Getenv("DEBUG_AZURE_KEY_VAULT_ENDPOINT"),
	}
}

func allowed(string, bool) error { return nil }

func newResolver(t *testing.T, s secrets.Settings) *secrets.Resolver {
	t.Helper()
	r, err := secrets.New(s, secrets.Deps{Now: time.Now, DevelopmentOnly: allowed})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, timeout time.Duration, now func() time.Time) secretstest.Resolver {
	t.Helper()
	s := settings(t)
	s.Timeout = timeout
	r, err := secrets.New(s, secrets.Deps{Now: now, DevelopmentOnly: allowed})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The tests of managers change the environment, and so are not parallel.

func TestManagers(t *testing.T) {
	for _, m := range []secretstest.Manager{
		secretstest.NewGoogle(t), secretstest.NewAWS(t), secretstest.NewAzure(t), secretstest.NewVault(t), secretstest.NewFolder(t),
	} {
		secretstest.Use(t, m)
		t.Run(fmt.Sprintf("%T", m), func(t *testing.T) {
			t.Parallel()
			secretstest.Run(t, m, open)
		})
	}
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		why     string
		manager secretstest.Manager
		ref     string // of the first of two versions
	}{
		{"a number", secretstest.NewGoogle(t), "secret://gcp/projects/fake/secrets/v/versions/1"},
		{"the stage before", secretstest.NewAWS(t), "secret://aws/v?version=AWSPREVIOUS"},
		{"an id", secretstest.NewAWS(t), "secret://aws/v?version=a1b2c3d4-5678-90ab-cdef-ee11111ee111"},
		{"an id", secretstest.NewAzure(t), "secret://azure/fake/v?version=0123456789abcdef0123456789abcde1"},
		{"a number", secretstest.NewVault(t), "secret://vault/team/kv/data/v?version=1#value"},
	} {
		t.Run(fmt.Sprintf("%T %s", tc.manager, tc.why), func(t *testing.T) {
			tc.manager.Put(t, "v", "first")
			tc.manager.Put(t, "v", "second")
			secretstest.Use(t, tc.manager)
			r := newResolver(t, settings(t))
			for ref, want := range map[string]string{tc.ref: "first", tc.manager.Reference("v"): "second"} {
				if got, err := r.Value(t.Context(), ref); err != nil || got != want {
					t.Errorf("%s is %q (error %v), want %q", ref, got, err, want)
				}
			}
		})
	}
}

func TestKubernetesLogin(t *testing.T) {
	v := secretstest.NewVault(t)
	v.Put(t, "k", "old")
	for name, value := range v.KubernetesEnv() {
		t.Setenv(name, value)
	}
	r := newResolver(t, settings(t))
	for range 2 {
		if got, err := r.Value(t.Context(), v.Reference("k")); err != nil || got != "old" {
			t.Errorf("value %q, %v", got, err)
		}
	}
	if n := v.Logins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	v.Expire()
	v.Put(t, "k", "new")
	if got, err := newer(t, r, v.Reference("k")); err != nil || got != "new" {
		t.Errorf("when the token has expired: %q, %v", got, err)
	}
}

// newer renews until what is known is not too new to be asked for again.
func newer(t *testing.T, r *secrets.Resolver, ref string) (got string, err error) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); got != "new" && time.Now().Before(deadline); {
		if got, err = r.Renewed(t.Context(), ref); err != nil {
			return "", err
		}
	}
	return got, nil
}

// An agent beside the service renews the file.
func TestVaultTokenFile(t *testing.T) {
	v := secretstest.NewVault(t)
	v.Put(t, "k", "s3same")
	secretstest.Use(t, v)
	path := filepath.Join(t.TempDir(), "token")
	t.Setenv("VAULT_TOKEN", "hvs.wrong")
	t.Setenv("VAULT_TOKEN_FILE", path)
	r := newResolver(t, settings(t))
	for _, tc := range []struct{ token, want, say string }{
		{"", "", "VAULT_TOKEN_FILE: "},
		{"hvs.expired\n", "", "does not let this service read secret"},
		{secretstest.VaultToken + "\n", "s3same", ""},
	} {
		if tc.token != "" {
			write(t, path, tc.token)
		}
		got, err := r.Value(t.Context(), v.Reference("k"))
		if got != tc.want || (tc.say == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tc.say)) {
			t.Errorf("with token file %q: %q, %v, want %q, %q", tc.token, got, err, tc.want, tc.say)
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "docker"), "s3same\n")
	write(t, filepath.Join(dir, ".hidden"), "s3same")
	write(t, filepath.Join(outside, "other"), "s3same")
	link(t, filepath.Join(outside, "other"), filepath.Join(dir, "escape"))
	link(t, "../"+filepath.Base(outside)+"/other", filepath.Join(dir, "climb"))
	link(t, "loop", filepath.Join(dir, "loop"))
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "folder", "inner"), "s3same")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newResolver(t, secrets.Settings{Manager: "file", CacheTTL: time.Hour, Timeout: time.Minute, Dir: dir})
	for _, tc := range []struct{ why, ref, say string }{
		{"a Docker secret", "secret://file/docker", ""},
		{"the default manager", "secret://docker", ""},
		{"in a folder", "secret://folder/inner", ""},
		{"hidden", "secret://.hidden", ""},
		{"an absolute path", "secret://file/" + outside + "/other", ""},
		{"an absolute path, by default", "secret://" + outside + "/other", ""},
		{"a link that leads out", "secret://escape", "cannot be opened: it must be a file, inside SECRETS_DIR"},
		{"a link that climbs out", "secret://climb", "cannot be opened: it must be a file, inside SECRETS_DIR"},
		{"a name that climbs out", "secret://file/../" + filepath.Base(outside) + "/other", "is referred to by secret://file/NAME"},
		{"a name that climbs and returns", "secret://folder/../docker", "is referred to by secret://file/NAME"},
		{"a link to itself", "secret://loop", "cannot be opened"},
		{"a folder", "secret://folder", "is no regular file"},
		{"a pipe that nobody writes to", "secret://pipe", "is no regular file"},
		{"a device without end", "secret://file//dev/zero", "is no regular file"},
		{"none", "secret://none", "there is no secret none in the files of secrets"},
		{"below a file", "secret://docker/none", "there is no secret docker/none"},
		{"an empty name", "secret://", "is referred to by secret://file/NAME"},
		{"a version", "secret://docker?version=1", "?version= is not for the files of secrets"},
	} {
		got, err := r.Value(t.Context(), tc.ref)
		if tc.say == "" && (err != nil || got != "s3same") {
			t.Errorf("%s: %q, %v", tc.why, got, err)
		}
		if tc.say != "" && (err == nil || !strings.Contains(err.Error(), tc.say)) {
			t.Errorf("%s: %q, error %v, want one that says %q", tc.why, got, err, tc.say)
		}
	}
}

func TestFieldsOfJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newResolver(t, secrets.Settings{Manager: "file", CacheTTL: time.Hour, Timeout: time.Minute, Dir: dir})
	for i, tc := range []struct{ why, text, want, say string }{
		{"text", `{"f": "v\u00e9"}`, "vé", ""},
		{"a number as it is written", `{"f": 5432.10}`, "5432.10", ""},
		{"truth", `{"f": true}`, "true", ""},
		{"nothing", `{"f": null}`, "", "has no single value in the field"},
		{"a list", `{"f": ["s3same"]}`, "", "has no single value in the field"},
		{"an object", `{"f": {"s3same": 1}}`, "", "has no single value in the field"},
		{"empty text", `{"f": ""}`, "", "is empty"},
		{"another case", `{"F": "s3same"}`, "", "does not have the field"},
		{"no object", `"s3same"`, "", "is no JSON object"},
		{"no JSON", `s3same`, "", "is no JSON object"},
		{"null", `null`, "", "is no JSON object"},
	} {
		name := fmt.Sprint("n", i)
		write(t, filepath.Join(dir, name), tc.text)
		got, err := r.Value(t.Context(), "secret://"+name+"#f")
		if got != tc.want || (err == nil) != (tc.say == "") || (err != nil && !strings.Contains(err.Error(), tc.say)) {
			t.Errorf("%s: %q, %v, want %q, %q", tc.why, got, err, tc.want, tc.say)
		}
		if err != nil && strings.Contains(err.Error(), "s3same") {
			t.Errorf("%s: the error tells the secret: %v", tc.why, err)
		}
	}
}

// What is wrong with a reference is told without repeating it: it may be a
// secret.
func TestReferencesThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ why, manager, ref, say string }{
		{"no reference", "gcp", "s3same", "begins with secret://"},
		{"a secret in place of its name", "gcp", "secret://s3same", "is referred to by secret://gcp/projects/PROJECT/secrets/NAME"},
		{"too short a name", "gcp", "secret://projects/s3same", "secret://gcp/"},
		{"a name that goes on", "gcp", "secret://projects/p/secrets/s/versions/1/s3same", "secret://gcp/"},
		{"a place with a host inside", "gcp", "secret://projects/p/locations/x.evil/secrets/s3same", "secret://gcp/"},
		{"a version that stands elsewhere", "gcp", "secret://projects/p/secrets/s?version=s3same", "?version= is not for Google Secret Manager"},
		{"a word that AWS does not know", "aws", "secret://s3same!", "secret://aws/NAME"},
		{"no name", "gcp", "secret://aws/", "secret://aws/NAME"},
		{"no vault", "azure", "secret://s3same", "secret://azure/VAULT/NAME"},
		{"more than a name", "azure", "secret://v4ult/s3same/x", "secret://azure/VAULT/NAME"},
		{"a port", "azure", "secret://azure/evil:443/s3same", "secret://azure/VAULT/NAME"},
		{"a user", "azure", "secret://azure/x@evil.example/s3same", "secret://azure/VAULT/NAME"},
		{"no field", "vault", "secret://kv/data/s3same", "secret://vault/MOUNT/data/PATH#FIELD"},
		{"no mount", "vault", "secret://s3same#f", "secret://vault/MOUNT/data/PATH#FIELD"},
		{"a path that climbs", "vault", "secret://kv/data/../s3same#f", "secret://vault/MOUNT/data/PATH#FIELD"},
		{"an option of a path", "vault", "secret://kv/data/a?list=s3same#f", "after ? a reference may say"},
		{"no number", "vault", "secret://kv/data/a?version=s3same#f", "after ? a reference may say"},
		{"another target", "aws", "secret://a?target=s3same", "after ? a reference may say"},
		{"twice", "aws", "secret://a?target=file&target=file", "after ? a reference may say"},
		{"an empty field", "aws", "secret://a#", "after # a reference names one field"},
		{"an option behind the field", "aws", "secret://a#s3same?target=file", "after # a reference names one field"},
		{"a manager that there is not", "etcd", "secret://s3same", "SECRET_MANAGER must be one of gcp, aws, azure, vault, file"},
	} {
		r := newResolver(t, secrets.Settings{Manager: tc.manager, Timeout: time.Minute})
		got, err := r.Value(t.Context(), tc.ref)
		if err == nil || !strings.Contains(err.Error(), tc.say) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, error %v, want one line that says %q", tc.why, got, err, tc.say)
		}
		if err != nil && strings.Contains(err.Error(), "s3same") {
			t.Errorf("%s: the error repeats the reference: %v", tc.why, err)
		}
	}
}

func TestWhatIsForDevelopmentOnly(t *testing.T) {
	refuse := func(name string, set bool) error {
		if set {
			return errors.New("refused: " + name)
		}
		return nil
	}
	for _, tc := range []struct {
		why, variable, value, ref, want string
	}{
		{"another Google", "DEBUG_GCP_SECRET_MANAGER_ENDPOINT", "localhost:1", "", "refused: DEBUG_GCP_SECRET_MANAGER_ENDPOINT"},
		{"another Azure", "DEBUG_AZURE_KEY_VAULT_ENDPOINT", "https://localhost:1", "", "refused: DEBUG_AZURE_KEY_VAULT_ENDPOINT"},
		{"Vault in the clear", "VAULT_ADDR", "http://vault.example:8200", "secret://vault/kv/data/a#b", "Vault cannot be asked: refused: VAULT_ADDR without https"},
		{"AWS in the clear", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://aws.example", "secret://aws/a", "AWS Secrets Manager cannot be asked: refused: AWS_ENDPOINT_URL_SECRETS_MANAGER without https"},
		{"all of AWS in the clear", "AWS_ENDPOINT_URL", "http://aws.example", "secret://aws/a", "AWS Secrets Manager cannot be asked: refused: AWS_ENDPOINT_URL without https"},
		{"no Vault at all", "VAULT_ADDR", "", "secret://vault/kv/data/a#b", "Vault cannot be asked: VAULT_ADDR must be set: https://HOST:8200"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Setenv(tc.variable, tc.value)
			r, err := secrets.New(settings(t), secrets.Deps{Now: time.Now, DevelopmentOnly: refuse})
			if err == nil {
				_, err = r.Value(t.Context(), tc.ref)
			}
			if err == nil || err.Error() != tc.want {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}
