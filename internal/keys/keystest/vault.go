package keystest

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// Vault is HashiCorp Vault: its transit engine, mounted at "transit", entered
// with VaultToken or as the Kubernetes role VaultRole. More engines can be added
// with Handle.
type Vault struct {
	*cabinet
	mux    *http.ServeMux
	server *httptest.Server

	mu     sync.Mutex
	tokens map[string]bool
	logins int
	lease  int // seconds that the token of a login lives
}

// What opens a Vault.
const (
	VaultToken   = "hvs.root"
	VaultRole    = "exposure"
	VaultAccount = "the token of a service account" // what Kubernetes would put into a file
)

// StartVault starts one on a port of its own.
func StartVault() (*Vault, error) {
	v := &Vault{cabinet: newCabinet(), mux: http.NewServeMux(), tokens: map[string]bool{VaultToken: true}, lease: 3600}
	v.mux.HandleFunc("PUT /v1/auth/kubernetes/login", v.login)
	v.Handle("/v1/transit/{verb}/{name}", http.HandlerFunc(v.transit))
	v.Handle("/v1/transit/{verb}/{name}/{more}", http.HandlerFunc(v.transit))
	v.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		vaultFault(w, http.StatusNotFound, "no handler for route \""+strings.TrimPrefix(r.URL.Path, "/v1/")+"\". route entry not found.")
	}))
	v.server = httptest.NewServer(v.mux)
	return v, nil
}

// Close ends it.
func (v *Vault) Close() { v.server.Close() }

// Env is what programs need in their environment.
func (v *Vault) Env() map[string]string {
	return map[string]string{"VAULT_ADDR": v.server.URL, "VAULT_TOKEN": VaultToken}
}

// Handle adds a part of Vault; it is behind the same tokens.
func (v *Vault) Handle(pattern string, part http.Handler) {
	v.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		known := v.tokens[r.Header.Get("X-Vault-Token")]
		v.mu.Unlock()
		if !known {
			vaultFault(w, http.StatusForbidden, "permission denied")
			return
		}
		part.ServeHTTP(w, r)
	})
}

// Logins counts the logins of pods.
func (v *Vault) Logins() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

// Revoke takes the tokens back that logins gave.
func (v *Vault) Revoke() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens = map[string]bool{VaultToken: true}
}

func (v *Vault) login(w http.ResponseWriter, r *http.Request) {
	var q struct{ Role, JWT string }
	if json.NewDecoder(r.Body).Decode(&q) != nil || q.Role != VaultRole || q.JWT != VaultAccount {
		vaultFault(w, http.StatusForbidden, "permission denied")
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.logins++
	token := fmt.Sprintf("hvs.pod-%d", v.logins)
	v.tokens[token] = true
	vaultJSON(w, http.StatusOK, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": v.lease, "renewable": true}})
}

// NewSigning makes a signing key.
func (v *Vault) NewSigning(kind Kind) string {
	name := v.name()
	v.add(name, kind)
	return "hashivault://" + name + "?version=1"
}

// NewWrapping makes a wrapping key.
func (v *Vault) NewWrapping() string {
	name := v.name()
	v.add(name, AES)
	return "hashivault://" + name
}

// Key is the name of a key.
func (v *Vault) Key(keyURL string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(keyURL, "hashivault://"), "?")
	return name
}

func vaultJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who went away needs no answer
}

func vaultFault(w http.ResponseWriter, status int, words ...string) {
	vaultJSON(w, status, map[string]any{"errors": append([]string{}, words...)})
}

// vaultQuestion is all that the questions may hold.
type vaultQuestion struct {
	Type       string
	Input      []byte
	Prehashed  bool
	KeyVersion int    `json:"key_version"`
	Marshaling string `json:"marshaling_algorithm"`
	Plaintext  []byte
	Ciphertext string
}

func (v *Vault) transit(w http.ResponseWriter, r *http.Request) {
	var q vaultQuestion
	if r.Method != http.MethodGet {
		_ = json.NewDecoder(r.Body).Decode(&q) // an empty body asks nothing more
	}
	name := r.PathValue("name")
	f := v.next(name)
	serve(w, r, f, func(w http.ResponseWriter) {
		k := v.look(name)
		switch {
		case f == Busy:
			vaultFault(w, http.StatusServiceUnavailable, "Vault is sealed")
		case f == Throttled:
			vaultFault(w, http.StatusTooManyRequests, "request path \"transit\": rate limit quota exceeded")
		case k != nil && k.denied:
			vaultFault(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		case r.PathValue("verb") == "keys":
			v.keysEndpoint(w, r, name, k, q)
		default:
			vaultUse(w, r.PathValue("verb"), k, q, f)
		}
	})
}

func (v *Vault) keysEndpoint(w http.ResponseWriter, r *http.Request, name string, k *keyset, q vaultQuestion) {
	switch {
	case r.Method == http.MethodGet && k == nil:
		vaultFault(w, http.StatusNotFound)
	case r.Method == http.MethodGet:
		vaultJSON(w, http.StatusOK, map[string]any{"data": vaultAbout(k)})
	case r.PathValue("more") == "rotate" && k != nil:
		v.add(name, k.kind)
		w.WriteHeader(http.StatusNoContent)
	case r.PathValue("more") == "" && k == nil:
		v.add(name, map[string]Kind{"ecdsa-p256": P256, "aes256-gcm96": AES}[q.Type])
		w.WriteHeader(http.StatusNoContent)
	default:
		vaultFault(w, http.StatusBadRequest, "unsupported operation")
	}
}

func vaultAbout(k *keyset) map[string]any {
	about := map[string]any{}
	for i, version := range k.versions {
		one := map[string]any{"name": string(k.kind)}
		if version.signer != nil {
			der, err := x509.MarshalPKIXPublicKey(version.signer.Public())
			if err != nil {
				panic(err) // of a key that was made here
			}
			one["public_key"] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		}
		about[strconv.Itoa(i+1)] = one
	}
	if k.disabled {
		about = map[string]any{} // archived below min_decryption_version
	}
	kind := map[Kind]string{P256: "ecdsa-p256", P384: "ecdsa-p384", RSA: "rsa-2048", AES: "aes256-gcm96"}[k.kind]
	return map[string]any{"type": kind, "latest_version": len(k.versions), "keys": about}
}

func vaultUse(w http.ResponseWriter, verb string, k *keyset, q vaultQuestion, f Fault) {
	switch {
	case k == nil && verb == "sign":
		vaultFault(w, http.StatusBadRequest, "signing key not found")
	case k == nil:
		vaultFault(w, http.StatusBadRequest, "encryption key not found")
	case verb == "sign":
		vaultSign(w, k, q, f)
	case k.kind != AES:
		vaultFault(w, http.StatusBadRequest, "message "+verb+"ion not supported for key type")
	case verb == "encrypt":
		newest := k.versions[len(k.versions)-1]
		sealed := base64.StdEncoding.EncodeToString(newest.aead.Seal(nil, nil, q.Plaintext, nil))
		vaultData(w, "ciphertext", fmt.Sprintf("vault:v%d:%s", len(k.versions), sealed))
	case k.disabled:
		vaultFault(w, http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)")
	default:
		vaultDecrypt(w, k, q)
	}
}

func vaultData(w http.ResponseWriter, name string, value any) {
	vaultJSON(w, http.StatusOK, map[string]any{"data": map[string]any{name: value}})
}

func vaultSign(w http.ResponseWriter, k *keyset, q vaultQuestion, f Fault) {
	version := k.at(q.KeyVersion)
	switch {
	case k.disabled:
		vaultFault(w, http.StatusBadRequest, "requested version for signing is less than the minimum encryption key version")
		return
	case version == nil:
		vaultFault(w, http.StatusBadRequest, "requested version for signing is higher than the latest key version")
		return
	case !q.Prehashed || len(q.Input) != 32 || q.Marshaling != "asn1":
		vaultFault(w, http.StatusBadRequest, "prehashed input of 32 bytes is expected")
		return
	}
	signature, err := version.sign(q.Input, f)
	if err != nil {
		vaultFault(w, http.StatusInternalServerError, err.Error())
		return
	}
	vaultData(w, "signature", fmt.Sprintf("vault:v%d:%s", q.KeyVersion, base64.StdEncoding.EncodeToString(signature)))
}

func vaultDecrypt(w http.ResponseWriter, k *keyset, q vaultQuestion) {
	words := strings.SplitN(q.Ciphertext, ":", 3)
	if len(words) != 3 || words[0] != "vault" {
		vaultFault(w, http.StatusBadRequest, "invalid ciphertext: no prefix")
		return
	}
	number, _ := strconv.Atoi(strings.TrimPrefix(words[1], "v"))
	sealed, err := base64.StdEncoding.DecodeString(words[2])
	version := k.at(number)
	if err != nil || version == nil {
		vaultFault(w, http.StatusBadRequest, "invalid ciphertext: version is too new")
		return
	}
	plain, err := version.aead.Open(nil, nil, sealed, nil)
	if err != nil {
		vaultFault(w, http.StatusBadRequest, "invalid ciphertext: unable to decrypt")
		return
	}
	vaultData(w, "plaintext", plain)
}
