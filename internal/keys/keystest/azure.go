package keystest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Azure is Azure Key Vault, every vault of it, and the authority that gives
// tokens for it, behind TLS.
type Azure struct {
	*cabinet
	mux    *http.ServeMux
	server *httptest.Server
	folder string // of the certificate
}

const (
	azureVault  = "en-keys.vault.azure.net"
	azureHSM    = "en-keys.managedhsm.azure.net"
	azureTenant = "00000000-0000-0000-0000-000000000001"
	azureClient = "00000000-0000-0000-0000-000000000002"
	azureSecret = "a client secret"
	azureToken  = "a bearer token"
)

// StartAzure starts one on a port of its own. The programs that ask it must
// trust the file in SSL_CERT_FILE.
func StartAzure() (*Azure, error) {
	folder, err := os.MkdirTemp("", "azure-")
	if err != nil {
		return nil, err
	}
	a := &Azure{cabinet: newCabinet(), mux: http.NewServeMux(), folder: folder}
	a.mux.HandleFunc("GET /"+azureTenant+"/v2.0/.well-known/openid-configuration", a.discover)
	a.mux.HandleFunc("POST /"+azureTenant+"/oauth2/v2.0/token", a.token)
	a.Handle("/keys/{name}/{more...}", http.HandlerFunc(a.keysEndpoint))
	a.server = httptest.NewTLSServer(a.mux)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	if err := os.WriteFile(a.certificate(), root, 0o600); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (a *Azure) certificate() string { return filepath.Join(a.folder, "root.pem") }

// Close ends it.
func (a *Azure) Close() {
	a.server.Close()
	_ = os.RemoveAll(a.folder) // what stays is in the folder for such things
}

// Env is what programs need in their environment.
func (a *Azure) Env() map[string]string {
	return map[string]string{
		"DEBUG_AZURE_KEY_VAULT_ENDPOINT": a.server.URL, "SSL_CERT_FILE": a.certificate(), "AZURE_AUTHORITY_HOST": a.server.URL,
		"AZURE_TENANT_ID": azureTenant, "AZURE_CLIENT_ID": azureClient, "AZURE_CLIENT_SECRET": azureSecret,
	}
}

// Handle adds a part of Key Vault; it is behind the same challenge.
func (a *Azure) Handle(pattern string, part http.Handler) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+azureToken {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="%s/%s", resource="https://vault.azure.net"`, a.server.URL, azureTenant))
			azureFault(w, http.StatusUnauthorized, "Unauthorized", "", "AKV10000: Request is missing a Bearer or PoP token.")
			return
		}
		part.ServeHTTP(w, r)
	})
}

func (a *Azure) discover(w http.ResponseWriter, _ *http.Request) {
	tenant := a.server.URL + "/" + azureTenant
	azureJSON(w, http.StatusOK, map[string]string{
		"issuer": tenant + "/v2.0", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize", "token_endpoint": tenant + "/oauth2/v2.0/token",
	})
}

func (a *Azure) token(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("client_secret") != azureSecret || !strings.Contains(r.FormValue("scope"), "https://vault.azure.net/.default") {
		azureJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	azureJSON(w, http.StatusOK, map[string]any{"token_type": "Bearer", "access_token": azureToken, "expires_in": 3600})
}

// NewSigning makes a signing key.
func (a *Azure) NewSigning(kind Kind) string {
	name := a.name()
	return "azurekms://" + azureVault + "/" + name + "/" + azureVersion(a.add(name, kind))
}

// NewWrapping makes a wrapping key.
func (a *Azure) NewWrapping() string {
	name := a.name()
	a.add(name, RSA)
	return "azurekms://" + azureVault + "/" + name
}

// NewWrappingInHSM makes a wrapping key in a managed HSM.
func (a *Azure) NewWrappingInHSM() string {
	name := a.name()
	a.add(name, AES)
	return "azurekms://" + azureHSM + "/" + name
}

// azureVersion is the name of a version: 32 hexadecimal digits.
func azureVersion(v *version) string {
	sum := sha256.Sum256([]byte(v.id))
	return hex.EncodeToString(sum[:16])
}

// Key is the name of a key.
func (a *Azure) Key(keyURL string) string {
	return strings.Split(strings.TrimPrefix(keyURL, "azurekms://"), "/")[1]
}

func azureJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who went away needs no answer
}

func azureFault(w http.ResponseWriter, status int, code, inner, words string) {
	body := map[string]any{"code": code, "message": words}
	if inner != "" {
		body["innererror"] = map[string]string{"code": inner}
	}
	azureJSON(w, status, map[string]any{"error": body})
}

// azureQuestion is all that the questions may hold.
type azureQuestion struct {
	Alg, Kty, Crv string
	Value         string
}

func (a *Azure) keysEndpoint(w http.ResponseWriter, r *http.Request) {
	var q azureQuestion
	if r.Method != http.MethodGet && json.NewDecoder(r.Body).Decode(&q) != nil {
		azureFault(w, http.StatusBadRequest, "BadParameter", "", "The request is not JSON")
		return
	}
	name := r.PathValue("name")
	id, verb, _ := strings.Cut(r.PathValue("more"), "/")
	f := a.next(name)
	serve(w, r, f, func(w http.ResponseWriter) {
		switch f {
		case Busy:
			azureFault(w, http.StatusServiceUnavailable, "ServiceUnavailable", "", "Come again")
		case Throttled:
			azureFault(w, http.StatusTooManyRequests, "Throttled", "", "Request was not processed because too many requests were received.")
		default:
			a.answer(w, name, id, verb, q, f)
		}
	})
}

func (a *Azure) answer(w http.ResponseWriter, name, id, verb string, q azureQuestion, f Fault) {
	if id == "create" {
		kind := map[string]Kind{"EC": P256, "EC-HSM": P256, "RSA": RSA, "RSA-HSM": RSA, "oct-HSM": AES}[q.Kty]
		v := a.add(name, kind)
		a.change(name, func(k *keyset) { k.hardware = strings.HasSuffix(q.Kty, "-HSM") })
		azureJSON(w, http.StatusOK, a.bundle(name, a.look(name), v))
		return
	}
	k := a.look(name)
	v := azureFind(k, id)
	switch {
	case v == nil:
		azureFault(w, http.StatusNotFound, "KeyNotFound", "", "A key with (name/id) "+name+"/"+id+" was not found in this key vault.")
	case k.denied:
		azureFault(w, http.StatusForbidden, "Forbidden", "ForbiddenByRbac", "Caller is not authorized to perform action on resource.\r\nAction: 'Microsoft.KeyVault/vaults/keys/use'")
	case verb == "":
		azureJSON(w, http.StatusOK, a.bundle(name, k, v))
	case k.disabled:
		azureFault(w, http.StatusForbidden, "Forbidden", "KeyDisabled", "Operation "+verb+" is not allowed on a disabled key.")
	default:
		a.use(w, name, verb, v, q, f)
	}
}

// azureFind gives the newest version for "", and nil for what is not there.
func azureFind(k *keyset, id string) *version {
	if k == nil {
		return nil
	}
	for _, v := range slices.Backward(k.versions) {
		if id == "" || azureVersion(v) == id {
			return v
		}
	}
	return nil
}

// bundle describes a version of a key.
func (a *Azure) bundle(name string, k *keyset, v *version) map[string]any {
	key := map[string]any{"kid": a.server.URL + "/keys/" + name + "/" + azureVersion(v)}
	switch k.kind {
	case P256, P384:
		// Go writes fixed sizes; Azure's own documents show leading zeros kept.
		point, err := v.signer.Public().(*ecdsa.PublicKey).Bytes()
		if err != nil {
			panic(err) // of a key that was made here
		}
		half := len(point) / 2
		key["kty"], key["crv"] = "EC", string(k.kind)
		key["x"], key["y"] = base64URL(point[1:1+half]), base64URL(point[1+half:])
	case RSA:
		pub := v.signer.Public().(*rsa.PublicKey)
		key["kty"], key["n"], key["e"] = "RSA", base64URL(pub.N.Bytes()), "AQAB"
	case AES:
		key["kty"] = "oct"
	}
	if k.hardware || k.kind == AES {
		key["kty"] = fmt.Sprint(key["kty"], "-HSM")
	}
	return map[string]any{"key": key, "attributes": map[string]any{"enabled": !k.disabled}}
}

func base64URL(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func (a *Azure) use(w http.ResponseWriter, name, verb string, v *version, q azureQuestion, f Fault) {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(q.Value, "="))
	if err == nil {
		data, err = azureUse(verb, v, q.Alg, data, f)
	}
	if err != nil {
		azureFault(w, http.StatusBadRequest, "BadParameter", "", "The parameter is incorrect.\r\n")
		return
	}
	azureJSON(w, http.StatusOK, map[string]string{"kid": a.server.URL + "/keys/" + name + "/" + azureVersion(v), "value": base64URL(data)})
}

func azureUse(verb string, v *version, algorithm string, data []byte, f Fault) ([]byte, error) {
	pair, _ := v.signer.(*rsa.PrivateKey)
	switch {
	case verb == "sign" && algorithm == "ES256" && len(data) == 32:
		return azureSign(v, data, f)
	case verb == "wrapkey" && algorithm == "RSA-OAEP-256" && pair != nil:
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, &pair.PublicKey, data, nil)
	case verb == "unwrapkey" && algorithm == "RSA-OAEP-256" && pair != nil:
		return rsa.DecryptOAEP(sha256.New(), nil, pair, data, nil)
	case verb == "wrapkey" && algorithm == "A256KW" && v.aead != nil:
		return v.aead.Seal(nil, nil, data, nil), nil
	case verb == "unwrapkey" && algorithm == "A256KW" && v.aead != nil:
		return v.aead.Open(nil, nil, data, nil)
	}
	return nil, fmt.Errorf("%s with %s is not for this key", verb, algorithm)
}

// azureSign answers with the two numbers side by side, as in JWS.
func azureSign(v *version, digest []byte, f Fault) ([]byte, error) {
	der, err := v.sign(digest, f.only(Forged))
	if err != nil {
		return nil, err
	}
	var numbers struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &numbers); err != nil {
		return nil, err
	}
	raw := make([]byte, 64)
	numbers.R.FillBytes(raw[:32])
	numbers.S.FillBytes(raw[32:])
	if f == Garbled {
		raw[63] ^= 1
	}
	return raw, nil
}
