package secretstest

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// Vault is a fake Vault with a KV engine, version 2, at team/kv, and with
// Kubernetes authentication: HTTP over TLS.
type Vault struct {
	*Stock
	address, roots string
	account        string // file of the service account's token
	logins         atomic.Int64
}

// VaultToken is the token that opens everything.
const VaultToken = "hvs.fake"

const (
	vaultMount   = "team/kv"
	vaultRole    = "keyserver"
	vaultAccount = "service-account-token"
	loginPrefix  = "hvs.login-"
)

// NewVault starts one. It ends with the test.
func NewVault(tb testing.TB) *Vault {
	tb.Helper()
	v := &Vault{Stock: newStock(), account: filepath.Join(tb.TempDir(), "token")}
	v.whole = true
	if err := os.WriteFile(v.account, []byte(vaultAccount+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	v.Trust(VaultToken)
	v.address, v.roots = serve(tb, v.Stock, v.serve)
	return v
}

// Handler is the server without its address, for a test that has one address
// for several.
func (v *Vault) Handler() http.Handler { return faulty(v.Stock, v.serve) }

// Env is the environment in which programs find the server, and log in to it
// with a token.
func (v *Vault) Env() map[string]string {
	return map[string]string{"VAULT_ADDR": v.address, "VAULT_CACERT": v.roots, "VAULT_TOKEN": VaultToken}
}

// KubernetesEnv is Env for programs that log in with a service account.
func (v *Vault) KubernetesEnv() map[string]string {
	return map[string]string{
		"VAULT_ADDR": v.address, "VAULT_CACERT": v.roots, "VAULT_TOKEN": "",
		"VAULT_KUBERNETES_ROLE": vaultRole, "VAULT_KUBERNETES_TOKEN_FILE": v.account,
	}
}

// Logins counts those with a service account.
func (v *Vault) Logins() int { return int(v.logins.Load()) }

// Expire makes the tokens of all logins so far worthless.
func (v *Vault) Expire() { v.logins.Add(1) }

// Reference refers to a secret.
func (v *Vault) Reference(name string) string { return v.Field(name, "value") }

// Field refers to a field of a secret.
func (*Vault) Field(name, field string) string {
	return "secret://vault/" + vaultMount + "/data/" + name + "#" + field
}

func (v *Vault) serve(w http.ResponseWriter, r *http.Request) {
	name, isSecret := strings.CutPrefix(r.URL.Path, "/v1/"+vaultMount+"/data/")
	switch token := r.Header.Get("X-Vault-Token"); {
	case r.URL.Path == "/v1/auth/kubernetes/login":
		v.login(w, r)
	case !v.trusts(token) && token != v.lastLogin():
		vaultError(w, http.StatusForbidden, "permission denied")
	case !isSecret:
		vaultError(w, http.StatusNotFound, "")
	default:
		v.read(w, name, r.URL.Query().Get("version"))
	}
}

func (v *Vault) lastLogin() string { return loginPrefix + strconv.Itoa(v.Logins()) }

func (v *Vault) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ Role, JWT string }
	text, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(text, &in) != nil || in.Role != vaultRole || in.JWT != vaultAccount {
		vaultError(w, http.StatusForbidden, "permission denied")
		return
	}
	v.logins.Add(1)
	writeJSON(w, http.StatusOK, map[string]any{"auth": map[string]any{"client_token": v.lastLogin(), "lease_duration": 3600}})
}

func (v *Vault) read(w http.ResponseWriter, name, version string) {
	w.Header().Set(question, name)
	number, err := strconv.Atoi("0" + version)
	if err != nil {
		vaultError(w, http.StatusBadRequest, "version")
		return
	}
	value, why := v.version(name, number)
	metadata := map[string]any{"created_time": "2020-11-05T12:00:00Z", "deletion_time": "", "destroyed": false, "version": 1}
	switch why {
	case missing:
		vaultError(w, http.StatusNotFound, "")
	case disabled: // Vault says 404, with a body
		metadata["deletion_time"] = "2020-11-06T12:00:00Z"
		writeJSON(w, http.StatusNotFound, map[string]any{"data": map[string]any{"data": nil, "metadata": metadata}})
	case forbidden:
		vaultError(w, http.StatusForbidden, "1 error occurred: permission denied")
	default:
		writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{"data": json.RawMessage(value), "metadata": metadata}})
	}
}

func vaultError(w http.ResponseWriter, status int, text string) {
	errors := []string{}
	if text != "" {
		errors = append(errors, text)
	}
	writeJSON(w, status, map[string]any{"errors": errors})
}
