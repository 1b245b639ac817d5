package serve_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
)

// code is how a request with this context is answered.
func (s *station) code(ctx context.Context) codes.Code {
	s.t.Helper()
	_, err := s.try(ctx, &federationpb.FederationFetchRequest{})
	return status.Code(err)
}

func (s *station) expect(ctx context.Context, why string, want codes.Code) {
	s.t.Helper()
	if _, err := s.try(ctx, &federationpb.FederationFetchRequest{}); status.Code(err) != want {
		s.t.Errorf("%s: %v, want %s", why, err, want)
	}
}

// forged is a token put together by hand.
func forged(header, payload map[string]any, sign func(input string) []byte) string {
	input := part(header) + "." + part(payload)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

func part(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// by signs ES256 with a key.
func by(t testing.TB, key *ecdsa.PrivateKey) func(string) []byte {
	return func(input string) []byte {
		digest := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature
	}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.allow("twin-1", "twin", []string{"US"}, nil)
	s.exec(`
		INSERT INTO federation_allow (name, issuer, subject, audience, include_regions, exclude_regions)
		VALUES ('twin-2', $1, 'twin', 'other', '{CA}', '{}')`, s.issuer.URL())
	s.pass(serve.PeersAge)
	stranger := federationtest.NewIssuerUnder(t, s.issuer.CA, s.now)

	ours := ecKey(t)
	s.issuer.Add(t, ours, jose.ES256) // key-2
	public, err := x509.MarshalPKIXPublicKey(ours.Public())
	if err != nil {
		t.Fatal(err)
	}
	now := s.now()
	payload := func(edits ...func(federationtest.Claims)) map[string]any {
		c := federationtest.Claims{"iss": s.issuer.URL(), "sub": subject, "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
		for _, edit := range edits {
			edit(c)
		}
		return c
	}
	token := func(edits ...func(federationtest.Claims)) string {
		return s.issuer.Token(t, subject, audience, edits...)
	}
	with := func(name string, value any) func(federationtest.Claims) {
		return func(c federationtest.Claims) { c[name] = value }
	}
	es256 := map[string]any{"alg": "ES256", "kid": "key-2", "typ": "JWT"}
	nothing := func(string) []byte { return nil }
	secret := func(input string) []byte {
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(input))
		return mac.Sum(nil)
	}
	good := token()
	header, body, _ := strings.Cut(good, ".")
	_, signature, _ := strings.Cut(body, ".")

	for _, tc := range []struct {
		why           string
		authorization []string
		want          codes.Code
	}{
		{"as agreed", []string{"Bearer " + good}, codes.OK},
		{"the scheme in another case", []string{"bearer " + good}, codes.OK},
		{"our audience among others", []string{"Bearer " + token(with("aud", []string{"x", audience}))}, codes.OK},
		{"no kid, which only costs a try of all keys", []string{"Bearer " + forged(map[string]any{"alg": "ES256"}, payload(), by(t, ours))}, codes.OK},
		{"expired, less ago than clocks differ", []string{"Bearer " + token(with("exp", now.Add(-59*time.Second).Unix()))}, codes.OK},
		{"issued in the future, less than clocks differ", []string{"Bearer " + token(with("iat", now.Add(59*time.Second).Unix()))}, codes.OK},

		{"nothing", nil, codes.Unauthenticated},
		{"an empty token", []string{"Bearer "}, codes.Unauthenticated},
		{"no scheme", []string{good}, codes.Unauthenticated},
		{"another scheme", []string{"Basic " + good}, codes.Unauthenticated},
		{"two tokens", []string{"Bearer " + good, "Bearer " + good}, codes.Unauthenticated},
		{"not a token", []string{"Bearer a.b.c"}, codes.Unauthenticated},
		{"a token in another form", []string{"Bearer " + `{"payload":"` + strings.Split(good, ".")[1] + `","protected":"` + header + `","signature":"` + signature + `"}`}, codes.Unauthenticated},
		{"longer than tokens are", []string{"Bearer " + token(with("padding", strings.Repeat("x", 9000)))}, codes.Unauthenticated},

		{"another issuer", []string{"Bearer " + stranger.Token(t, subject, audience)}, codes.Unauthenticated},
		{"another issuer that says it is ours", []string{"Bearer " + stranger.Token(t, subject, audience, with("iss", s.issuer.URL()))}, codes.Unauthenticated},
		{"an issuer with a slash more", []string{"Bearer " + token(with("iss", s.issuer.URL()+"/"))}, codes.Unauthenticated},
		{"no issuer", []string{"Bearer " + token(with("iss", nil))}, codes.Unauthenticated},
		{"another subject", []string{"Bearer " + token(with("sub", "mx-puller"))}, codes.Unauthenticated},
		{"a subject in another case", []string{"Bearer " + token(with("sub", strings.ToUpper(subject)))}, codes.Unauthenticated},
		{"no subject", []string{"Bearer " + token(with("sub", ""))}, codes.Unauthenticated},
		{"another audience", []string{"Bearer " + token(with("aud", "mx.federation"))}, codes.Unauthenticated},
		{"a longer audience", []string{"Bearer " + token(with("aud", audience+".test"))}, codes.Unauthenticated},
		{"no audience", []string{"Bearer " + token(with("aud", []string{}))}, codes.Unauthenticated},
		{"an audience that is no text", []string{"Bearer " + token(with("aud", 7))}, codes.Unauthenticated},
		{"of two neighbours at once", []string{"Bearer " + s.issuer.Token(t, "twin", audience, with("aud", []string{audience, "other"}))}, codes.Unauthenticated},

		{"expired", []string{"Bearer " + token(with("exp", now.Add(-time.Minute).Unix()))}, codes.Unauthenticated},
		{"it never expires", []string{"Bearer " + token(func(c federationtest.Claims) { delete(c, "exp") })}, codes.Unauthenticated},
		{"issued in the future", []string{"Bearer " + token(with("iat", now.Add(2*time.Minute).Unix()))}, codes.Unauthenticated},
		{"not valid yet", []string{"Bearer " + token(with("nbf", now.Add(2*time.Minute).Unix()))}, codes.Unauthenticated},
		{"times that are none", []string{"Bearer " + token(with("nbf", "soon"))}, codes.Unauthenticated},

		{"no algorithm", []string{"Bearer " + forged(map[string]any{"alg": "none"}, payload(), nothing)}, codes.Unauthenticated},
		{"none, in another case", []string{"Bearer " + forged(map[string]any{"alg": "nOnE"}, payload(), nothing)}, codes.Unauthenticated},
		{"the public key as a secret", []string{"Bearer " + forged(map[string]any{"alg": "HS256", "kid": "key-2"}, payload(), secret)}, codes.Unauthenticated},
		{"another algorithm than the key's", []string{"Bearer " + forged(map[string]any{"alg": "RS256", "kid": "key-2"}, payload(), by(t, ours))}, codes.Unauthenticated},
		{"no signature", []string{"Bearer " + forged(es256, payload(), nothing)}, codes.Unauthenticated},
		{"the signature of zeros", []string{"Bearer " + forged(es256, payload(), func(string) []byte { return make([]byte, 64) })}, codes.Unauthenticated},
		{"signed by somebody else", []string{"Bearer " + forged(es256, payload(), by(t, ecKey(t)))}, codes.Unauthenticated},
		{"the kid of another key", []string{"Bearer " + forged(map[string]any{"alg": "ES256", "kid": "key-1"}, payload(), by(t, ours))}, codes.Unauthenticated},
		{"a key that it brings along", []string{"Bearer " + bringing(t, payload())}, codes.Unauthenticated},
		{"changed after it was signed", []string{"Bearer " + header + "." + part(payload(with("exp", now.Add(time.Hour).Unix()))) + "." + signature}, codes.Unauthenticated},
		{"something critical that nobody knows", []string{"Bearer " + forged(map[string]any{"alg": "ES256", "kid": "key-2", "crit": []string{"x"}, "x": 1}, payload(), by(t, ours))}, codes.Unauthenticated},
	} {
		t.Run(tc.why, func(t *testing.T) {
			ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": tc.authorization})
			_, err := s.try(ctx, &federationpb.FederationFetchRequest{})
			if status.Code(err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if text := status.Convert(err).Message(); err != nil && !strings.HasPrefix(text, "the ID token in the metadata authorization is not accepted") {
				t.Errorf("the caller reads %q", text)
			}
		})
	}
	if n := stranger.Asked("/keys") + stranger.Asked("/.well-known/openid-configuration"); n != 0 {
		t.Errorf("an issuer that nobody configured was asked %d times", n)
	}
}

// bringing is a token with the key that signed it inside.
func bringing(t testing.TB, payload map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: ecKey(t)}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestKeysOfIssuers(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		why  string
		key  crypto.Signer
		alg  jose.SignatureAlgorithm
		want codes.Code
	}{
		{"RSA", rsaKey(t, 2048), jose.RS256, codes.OK},
		{"RSA that is too short", rsaKey(t, 1024), jose.RS256, codes.Unauthenticated},
		{"RSA in a way that we do not take", rsaKey(t, 2048), jose.PS256, codes.Unauthenticated},
		{"another curve", p384, jose.ES384, codes.Unauthenticated},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			s.allow("ca", subject, []string{"US"}, nil)
			s.issuer.Add(t, tc.key, tc.alg)
			s.expect(s.as(subject), tc.why, tc.want)
		})
	}
}

// An issuer's other keys, whatever they are, do no harm.
func TestKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.issuer.Edit(func(path string, answer any) {
		if set, ok := answer.(*jose.JSONWebKeySet); ok {
			set.Keys = append([]jose.JSONWebKey{{Key: []byte("a shared secret"), KeyID: "key-1"}}, set.Keys...)
		}
	})
	s.expect(s.as(subject), "a shared secret beside the key", codes.OK)

	s = newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.issuer.Edit(func(path string, answer any) {
		if set, ok := answer.(*jose.JSONWebKeySet); ok {
			for i := range set.Keys {
				set.Keys[i].Use = "enc"
			}
		}
	})
	s.expect(s.as(subject), "a key that is not for signatures", codes.Unauthenticated)
}

func TestIssuerTurnsItsKeysOver(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	old := s.as(subject)
	s.expect(old, "the first key", codes.OK)

	s.issuer.Rotate(t)
	fresh := s.as(subject)
	s.expect(fresh, "a new key, right after the keys were read", codes.Unauthenticated)
	s.pass(serve.KeysPause)
	s.expect(fresh, "a new key", codes.OK)
	s.expect(old, "a key that is gone", codes.Unauthenticated)

	long := bearing(t.Context(), s.issuer.Token(t, subject, audience, func(c federationtest.Claims) {
		c["exp"] = s.now().Add(24 * time.Hour).Unix()
	}))
	s.issuer.Rotate(t)
	s.expect(long, "a key that is gone, so shortly that we still have it", codes.OK)
	s.pass(serve.KeysAge)
	s.expect(long, "a key that is gone, and nobody came with the new one", codes.Unauthenticated)
}

func TestIssuerIsAskedSeldom(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.expect(s.as(subject), "the keys are read", codes.OK)
	s.pass(serve.KeysPause)
	now := s.now()
	forgery := forged(map[string]any{"alg": "ES256", "kid": "unknown"}, map[string]any{
		"iss": s.issuer.URL(), "sub": subject, "aud": audience, "exp": now.Add(time.Hour).Unix(),
	}, by(t, ecKey(t)))
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() { s.expect(bearing(t.Context(), forgery), "a forgery", codes.Unauthenticated) })
	}
	all.Wait()
	for range 100 {
		s.expect(s.as(subject), "the real one", codes.OK)
	}
	if n := s.issuer.Asked("/keys"); n != 2 {
		t.Errorf("30 forgeries and 101 tokens made us ask for keys %d times, want 2", n)
	}
}

func TestIssuerIsDown(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.issuer.SetDown(true)
	s.expect(s.as(subject), "its keys were never read", codes.Unavailable)
	asked := s.issuer.Asked("/.well-known/openid-configuration")
	s.expect(s.as(subject), "once more, at once", codes.Unavailable)
	if n := s.issuer.Asked("/.well-known/openid-configuration"); n != asked {
		t.Error("an issuer that is down is asked with each request")
	}
	s.issuer.SetDown(false)
	s.pass(serve.KeysPause)
	s.expect(s.as(subject), "it is back", codes.OK)

	s.issuer.SetDown(true)
	s.pass(10 * serve.KeysAge)
	s.expect(s.as(subject), "its keys are old", codes.OK)
	s.issuer.Rotate(t)
	s.pass(serve.KeysPause)
	s.expect(s.as(subject), "a key that we cannot know", codes.Unavailable)
}

// The time that an issuer takes is its neighbours' alone.
func TestIssuerIsSlow(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	slow := federationtest.NewIssuerUnder(t, s.issuer.CA, s.now)
	s.allow("ca", subject, []string{"US"}, nil)
	s.exec(`
		INSERT INTO federation_allow (name, issuer, subject, audience, include_regions, exclude_regions)
		VALUES ('mx', $1, 's', 'a', '{US}', '{}')`, slow.URL())
	s.pass(serve.PeersAge)
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.Hold(func(*http.Request) {
		once.Do(func() { close(held) })
		<-release
	})
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(bearing(t.Context(), slow.Token(t, "s", "a")))
	ended := make(chan codes.Code, 1)
	go func() { ended <- s.code(ctx) }()
	<-held
	s.expect(s.as(subject), "another issuer's neighbour", codes.OK)
	cancel()
	if code := <-ended; code != codes.Canceled {
		t.Errorf("who waits for a slow issuer and hangs up gets %s", code)
	}
}

func TestIssuerThatIsNotWhoItSays(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(path string, answer any)
	}{
		{"discovery of another issuer", func(_ string, answer any) {
			if c, ok := answer.(federationtest.Claims); ok {
				c["issuer"] = "https://idp.example"
			}
		}},
		{"keys at a place that is none", func(_ string, answer any) {
			if c, ok := answer.(federationtest.Claims); ok {
				c["jwks_uri"] = "file:///etc/passwd"
			}
		}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			s.allow("ca", subject, []string{"US"}, nil)
			s.issuer.Edit(tc.edit)
			s.expect(s.as(subject), tc.why, codes.Unavailable)
		})
	}
}

func TestNeighboursComeAndGo(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.expect(s.as(subject), "nobody is allowed", codes.Unauthenticated)
	s.allow("ca", subject, []string{"US"}, nil)
	s.expect(s.as(subject), "allowed", codes.OK)
	s.exec(`DELETE FROM federation_allow`)
	s.pass(serve.PeersAge)
	s.expect(s.as(subject), "no longer allowed", codes.Unauthenticated)
}

func TestDatabaseIsDown(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.expect(s.as(subject), "it is up", codes.OK)
	s.pool.Close()
	s.pass(serve.PeersAge)
	s.expect(s.as(subject), "a neighbour is still known, and told to come again", codes.Unavailable)
	s.expect(bearing(t.Context(), s.issuer.Token(t, "x", audience)), "a stranger is still one", codes.Unauthenticated)

	s = newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.pool.Close()
	s.expect(s.as(subject), "it was never up: nobody can tell who is a stranger", codes.Unavailable)
}
