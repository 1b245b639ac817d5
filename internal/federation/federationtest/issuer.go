package federationtest

import (
	"crypto"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Claims are what a token says.
type Claims map[string]any

// Issuer gives out OIDC tokens. It serves its discovery, its keys and, for
// clients with a secret, tokens, over TLS on the loopback interface: whoever
// asks it needs REMOTE_ALLOW_PRIVATE, and REMOTE_CA_FILE for its CA.
type Issuer struct {
	CA *Authority

	server *httptest.Server
	now    func() time.Time

	mu      sync.Mutex
	made    int                      // keys, for their names
	signing jose.SigningKey          // the newest
	public  []jose.JSONWebKey        // those that it shows
	clients map[string]string        // secrets by client
	down    bool                     // it answers 503 to everything
	asked   map[string]int           // requests by path
	hold    func(r *http.Request)    // before each answer
	edit    func(path string, b any) // of each answer
}

// NewIssuer starts an issuer with one key. The clock dates its tokens.
func NewIssuer(t testing.TB, now func() time.Time) *Issuer {
	t.Helper()
	return NewIssuerUnder(t, NewAuthority(t), now)
}

// NewIssuerUnder is NewIssuer with a certificate of an authority that is there.
func NewIssuerUnder(t testing.TB, ca *Authority, now func() time.Time) *Issuer {
	t.Helper()
	i := &Issuer{CA: ca, now: now, clients: map[string]string{}, asked: map[string]int{}}
	i.Add(t, newKey(t), jose.ES256)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("GET /keys", i.serveKeys)
	mux.HandleFunc("POST /token", i.serveToken)
	i.server = httptest.NewUnstartedServer(i.counted(mux))
	i.server.TLS = &tls.Config{Certificates: []tls.Certificate{i.CA.Certificate(t, "issuer")}}
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	return i
}

// URL is the issuer's name, as tokens and allowances have it.
func (i *Issuer) URL() string { return i.server.URL }

// TokenURL is where clients with a secret get their tokens.
func (i *Issuer) TokenURL() string { return i.server.URL + "/token" }

// AddClient lets a client fetch tokens, whose subject is its id, with a secret.
func (i *Issuer) AddClient(id, secret string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.clients[id] = secret
}

// Token is one that is good for five minutes; edits change what a test is about.
func (i *Issuer) Token(t testing.TB, subject, audience string, edits ...func(Claims)) string {
	t.Helper()
	now := i.now()
	c := Claims{
		"iss": i.URL(), "sub": subject, "aud": audience,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	for _, edit := range edits {
		edit(c)
	}
	token, err := i.sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Add makes a key the one that signs from now on, and shows it beside the
// others.
func (i *Issuer) Add(t testing.TB, key crypto.Signer, alg jose.SignatureAlgorithm) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.made++
	id := "key-" + strconv.Itoa(i.made)
	i.signing = jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}
	i.public = append(i.public, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig", Algorithm: string(alg)})
}

// Rotate makes a new key, and shows the old ones no longer.
func (i *Issuer) Rotate(t testing.TB) {
	t.Helper()
	i.mu.Lock()
	i.public = nil
	i.mu.Unlock()
	i.Add(t, newKey(t), jose.ES256)
}

// SetDown makes every answer a 503, or ends that.
func (i *Issuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// Hold calls f before each answer: it may block, to be a slow issuer.
func (i *Issuer) Hold(f func(r *http.Request)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hold = f
}

// Edit lets f change each answer (a Claims, or a *jose.JSONWebKeySet) before it
// is sent.
func (i *Issuer) Edit(f func(path string, answer any)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.edit = f
}

// Asked is how often a path ("/keys") was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

func (i *Issuer) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.asked[r.URL.Path]++
		down, hold := i.down, i.hold
		i.mu.Unlock()
		if hold != nil {
			hold(r)
		}
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	i.answer(w, r, Claims{
		"issuer":                                i.URL(),
		"jwks_uri":                              i.URL() + "/keys",
		"token_endpoint":                        i.TokenURL(),
		"id_token_signing_alg_values_supported": []string{"ES256", "RS256"},
	})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	set := &jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{}, i.public...)}
	i.mu.Unlock()
	i.answer(w, r, set)
}

// serveToken gives a token to a client with the right secret, in the header or
// the form, for the audience that the form names.
func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	i.mu.Lock()
	known, there := i.clients[id]
	i.mu.Unlock()
	if !there || known != secret || r.PostFormValue("grant_type") != "client_credentials" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
		return
	}
	now := i.now()
	token, err := i.sign(Claims{
		"iss": i.URL(), "sub": id, "aud": r.PostFormValue("audience"),
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	i.answer(w, r, Claims{"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": 300})
}

func (i *Issuer) answer(w http.ResponseWriter, r *http.Request, answer any) {
	i.mu.Lock()
	edit := i.edit
	i.mu.Unlock()
	if edit != nil {
		edit(r.URL.Path, answer)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // whoever hung up knows
}

func (i *Issuer) sign(c Claims) (string, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	signer, err := jose.NewSigner(i.signing, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(body)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
