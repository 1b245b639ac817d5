package secretstest

import (
	"net/http"
	"strings"
	"testing"
)

// Azure is a fake Azure Key Vault, and the endpoint of a managed identity
// that gives tokens for it: REST over TLS, with the challenge.
type Azure struct {
	*Stock
	address, roots string
}

const (
	azureToken  = "fake-token"
	azureHeader = "fake-header"
	azureScope  = "https://vault.azure.net"
)

// NewAzure starts one. It ends with the test.
func NewAzure(tb testing.TB) *Azure {
	tb.Helper()
	a := &Azure{Stock: newStock()}
	a.Trust(azureToken)
	a.address, a.roots = serve(tb, a.Stock, a.serve)
	return a
}

// Handler is the server without its address, for a test that has one address
// for several.
func (a *Azure) Handler() http.Handler { return faulty(a.Stock, a.serve) }

// Env is the environment in which programs find the server.
func (a *Azure) Env() map[string]string {
	return map[string]string{
		"DEBUG_AZURE_KEY_VAULT_ENDPOINT": a.address,
		"SSL_CERT_FILE":                  a.roots,
		"IDENTITY_ENDPOINT":              a.address + "/identity",
		"IDENTITY_HEADER":                azureHeader,
	}
}

// Reference refers to a secret.
func (*Azure) Reference(name string) string { return "secret://azure/fake/" + name }

// Field refers to a field of a secret.
func (a *Azure) Field(name, field string) string { return a.Reference(name) + "#" + field }

func (a *Azure) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/identity" {
		azureIdentity(w, r)
		return
	}
	if !a.trusts(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/fake", resource="`+azureScope+`"`)
		azureError(w, http.StatusUnauthorized, "Unauthorized", "")
		return
	}
	name, version, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/secrets/"), "/")
	w.Header().Set(question, name)
	value, why := a.version(name, azureVersion(version))
	switch why {
	case missing:
		azureError(w, http.StatusNotFound, "SecretNotFound", "")
	case disabled:
		azureError(w, http.StatusForbidden, "Forbidden", "SecretDisabled")
	case forbidden:
		azureError(w, http.StatusForbidden, "Forbidden", "ForbiddenByRbac")
	default:
		writeJSON(w, http.StatusOK, map[string]any{"id": a.address + "/secrets/" + name + "/1", "value": string(value)})
	}
}

// azureVersion is 1 for the id that ends in 1.
func azureVersion(id string) int {
	switch {
	case id == "":
		return 0
	case strings.HasSuffix(id, "1"):
		return 1
	}
	return -1
}

func azureIdentity(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Identity-Header") != azureHeader || r.URL.Query().Get("resource") != azureScope {
		azureError(w, http.StatusBadRequest, "invalid_request", "")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{
		"access_token": azureToken, "expires_on": "4102444800", "resource": azureScope, "token_type": "Bearer",
	})
}

func azureError(w http.ResponseWriter, status int, code, inner string) {
	body := map[string]any{"code": code, "message": "refused by the fake"}
	if inner != "" {
		body["innererror"] = map[string]string{"code": inner}
	}
	writeJSON(w, status, map[string]any{"error": body})
}
