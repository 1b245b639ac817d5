package publish_test

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/remote"
)

// keySet is the JSON of a set that holds one key.
func keySet(t *testing.T, kid string, key *ecdsa.PublicKey) string {
	t.Helper()
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal([]map[string]string{{"kty": "EC", "crv": "P-256", "kid": kid, "x": text(point[1:33]), "y": text(point[33:])}})
	if err != nil {
		t.Fatal(err)
	}
	return string(set)
}

// What an authority publishes as its keys counts within a minute, and what it
// takes back no longer does, without a restart.
func TestDiscoveredKeysCount(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec(`DELETE FROM health_authority_key`)
	first, second := d.authority, certtest.New(t, issuer, audience)
	second.Version = "v2"
	var set atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(set.Load().(string)))
	}))
	t.Cleanup(server.Close)
	d.exec(`UPDATE health_authority SET jwks_uri = $1`, server.URL)
	client, err := remote.New(remote.Settings{AllowPrivate: true}, remote.Deps{DevelopmentOnly: func(string, bool) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	updater := jwks.New(jwks.Deps{Store: d.store, Remote: client, Now: d.now})

	fresh := 0
	check := func(why string, signer *certtest.Authority, want string) {
		t.Helper()
		fresh += 10
		d.authority = signer
		if a := d.send(d.upload(entest.Upload(fresh, 1, d.now()))); a.Code != want {
			t.Errorf("%s: got status %d, code %q; want code %q", why, a.Status, a.Code, want)
		}
	}
	for _, published := range []*certtest.Authority{first, second, first} {
		set.Store(keySet(t, published.Version, &published.Private.PublicKey))
		if _, err := updater.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Minute)
		for _, signer := range []*certtest.Authority{first, second} {
			want := apiv1.CodeInvalidCertificate
			if signer == published {
				want = ""
			}
			check(signer.Version+" while "+published.Version+" is published", signer, want)
		}
	}
}
