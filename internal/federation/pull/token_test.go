package pull_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/federation/federationtest"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

func empty(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	return &federationpb.FederationFetchResponse{}, nil
}

// authorizations are what a server was sent, in order.
func authorizations(s *federationtest.Server) (all []string) {
	for _, a := range s.Asked() {
		all = append(all, a.Authorization)
	}
	return all
}

// Kubernetes replaces the file when it likes: each question has what is in it.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first.token.one\n")
	b := bookOf(1, 900, w.now)
	server := federationtest.NewServer(t, func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
		defer write("second.token.two")
		return b.answer(ctx, ask)
	})
	w.neighbour("ca", server, func(p *store.PullConfig) { p.TokenKind, p.TokenFile = store.TokenFromFile, file })
	s := w.service()
	w.run(s)
	want := []string{"Bearer first.token.one", "Bearer second.token.two"}
	if diff := cmp.Diff(want, authorizations(server)); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	for _, tc := range []struct{ why, text, failure string }{
		{"an empty one", "", "must hold one token"},
		{"two lines would be two headers", "a.b.c\nx: y", "must hold one token"},
		{"too long for a header", strings.Repeat("x", 20_000), "must hold one token"},
	} {
		write(tc.text)
		if _, err := s.Run(t.Context(), ""); err == nil || !strings.Contains(err.Error(), tc.failure) {
			t.Errorf("%s: got %v, want %q", tc.why, err, tc.failure)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), file) {
		t.Errorf("without the file: got %v", err)
	}
}

// A token is fetched once for all questions until shortly before its end, and
// anew when the neighbour refuses it.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var refuse atomic.Bool
	server := federationtest.NewServer(t, func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
		if refuse.CompareAndSwap(true, false) {
			return nil, status.Error(codes.Unauthenticated, "I do not know this key")
		}
		return empty(ctx, ask)
	})
	w.neighbour("ca", server)
	s := w.service()
	asked := func(step string, want int) {
		t.Helper()
		w.run(s)
		if got := w.issuer.Asked("/token"); got != want {
			t.Errorf("%s: %d tokens were fetched, want %d", step, got, want)
		}
	}
	asked("at first", 1)
	asked("again", 1)
	w.now = w.now.Add(3*time.Minute + 59*time.Second)
	asked("more than a minute before its end", 1)
	w.now = w.now.Add(2 * time.Second)
	asked("less than that", 2)
	refuse.Store(true)
	asked("when it is refused", 3)

	claims := claimsOf(t, authorizations(server)[0])
	if !strings.Contains(claims, `"aud":"ca.federation"`) || !strings.Contains(claims, `"sub":"us-puller"`) {
		t.Errorf("the token says %s", claims)
	}
}

func claimsOf(t *testing.T, authorization string) string {
	t.Helper()
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	if len(parts) != 3 {
		t.Fatal("what was sent is no JWT")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// What the server of tokens may answer.
func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	const jwt, opaque = "eyJhbGciOiJub25lIn0.e30.c2ln", "0paque"
	for _, tc := range []struct {
		why     string
		edit    func(federationtest.Claims)
		sent    string
		failure string
	}{
		{"an ID token is preferred", func(c federationtest.Claims) { c["id_token"], c["access_token"] = jwt, opaque }, jwt, ""},
		{"only an access token, which is a JWT", func(c federationtest.Claims) { delete(c, "id_token"); c["access_token"] = jwt }, jwt, ""},
		{"only one that nobody can read", func(c federationtest.Claims) { delete(c, "id_token"); c["access_token"] = opaque }, "", "neither an ID token nor"},
		{"a token with a second header", func(c federationtest.Claims) { c["id_token"], c["access_token"] = "a.b.c\r\nx: y", opaque }, "", "neither an ID token nor"},
		{"no token", func(c federationtest.Claims) { clear(c) }, "", "an answer without a token"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.issuer.Edit(func(path string, answer any) {
				if path == "/token" {
					tc.edit(answer.(federationtest.Claims))
				}
			})
			server := federationtest.NewServer(t, empty)
			w.neighbour("ca", server)
			_, err := w.service().Run(t.Context(), "")
			w.wantFailure(err, tc.failure)
			if tc.sent != "" && authorizations(server)[0] != "Bearer "+tc.sent {
				t.Error("another token was sent")
			}
			if strings.Contains(fmt.Sprint(err), opaque) {
				t.Error("the error repeats a token")
			}
		})
	}
}

// wantFailure checks what a run was told of the neighbour ca, "": nothing.
func (w *world) wantFailure(err error, failure string) {
	w.t.Helper()
	if (err != nil) != (failure != "") || !strings.Contains(fmt.Sprint(err), failure) {
		w.t.Errorf("the run gave %v, want %q", err, failure)
	}
	if state := w.state("ca").Failure; !strings.Contains(state, failure) || (state == "") != (failure == "") {
		w.t.Errorf("its state says %q, want %q", state, failure)
	}
	for _, secret := range []string{"127.0.0.1", "the-secret", "eyJ"} {
		if strings.Contains(fmt.Sprint(err), secret) {
			w.t.Errorf("the error shows %q: %v", secret, err)
		}
	}
}

// Why there may be no token, in words that help and repeat nothing.
func TestNoToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why     string
		edit    func(w *world, p *store.PullConfig)
		failure string
	}{
		{"a wrong secret", func(w *world, _ *store.PullConfig) { w.issuer.AddClient("us-puller", "another") }, "the server of its tokens answered 401 (invalid_client)"},
		{"a secret that is not there", func(_ *world, p *store.PullConfig) { p.ClientSecret = "secret://test/gone" }, "clientSecret: there is no such secret"},
		{"the issuer is down", func(w *world, _ *store.PullConfig) { w.issuer.SetDown(true) }, "the server of its tokens answered 503"},
		{"an issuer that nobody vouches for", func(w *world, _ *store.PullConfig) { w.settings.TokenCAFile = "" }, "no connection to the server of its tokens: its certificate comes from no authority"},
		{"plain http", func(w *world, p *store.PullConfig) { p.TokenURL = strings.Replace(p.TokenURL, "https", "http", 1) }, "must begin with https://"},
		{"plain http to another machine, in development too", func(w *world, p *store.PullConfig) {
			w.settings.Plaintext = true
			p.TokenURL = "http://idp.example/token"
		}, "must begin with https://"},
		{"the issuer sends us elsewhere", func(w *world, p *store.PullConfig) {
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { w.t.Error("the secret went elsewhere") }))
			w.t.Cleanup(elsewhere.Close)
			redirects := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
			w.t.Cleanup(redirects.Close)
			w.settings.Plaintext, p.TokenURL = true, redirects.URL
		}, "the server of its tokens answered 307"},
		{"a kind of the future", func(w *world, p *store.PullConfig) {
			w.exec(`ALTER TABLE federation_pull DROP CONSTRAINT federation_pull_token_kind_check`)
			p.TokenKind = "carrier-pigeon"
		}, `no tokens of the kind "carrier-pigeon"`},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			server := federationtest.NewServer(t, empty)
			w.neighbour("ca", server, func(p *store.PullConfig) { tc.edit(w, p) })
			_, err := w.service().Run(t.Context(), "")
			w.wantFailure(err, tc.failure)
			if got := len(server.Asked()); got != 0 {
				t.Errorf("the neighbour was asked %d times without a token", got)
			}
		})
	}
}

// On Google's machines the metadata server gives tokens. It is found by a
// variable of the process, so this test runs alone.
func TestGoogleTokens(t *testing.T) {
	const jwt = "eyJhbGciOiJub25lIn0.eyJleHAiOjQwMDAwMDAwMDB9.c2ln"
	var asked atomic.Int64
	var audience atomic.Value
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		if strings.HasSuffix(r.URL.Path, "/identity") {
			asked.Add(1)
			audience.Store(r.URL.Query().Get("audience"))
			_, _ = w.Write([]byte(jwt))
			return
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer metadata.Close()
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())

	w := newWorld(t)
	server := federationtest.NewServer(t, empty)
	w.neighbour("ca", server, func(p *store.PullConfig) { p.TokenKind = store.TokenFromGoogle })
	s := w.service()
	w.run(s)
	w.run(s)
	if diff := cmp.Diff([]string{"Bearer " + jwt, "Bearer " + jwt}, authorizations(server)); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	if asked.Load() != 1 || audience.Load() != "ca.federation" {
		t.Errorf("%d tokens were fetched, for the audience %q, want one for ca.federation", asked.Load(), audience.Load())
	}
}

// A service account's file that is of no use is told in words.
func TestNoGoogleToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, []byte(`{"type": "authorized_user"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	w := newWorld(t)
	w.neighbour("ca", federationtest.NewServer(t, empty), func(p *store.PullConfig) { p.TokenKind = store.TokenFromGoogle })
	_, err := w.service().Run(t.Context(), "")
	w.wantFailure(err, "Google gives no ID token")
}
