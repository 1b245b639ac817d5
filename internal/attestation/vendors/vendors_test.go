package vendors_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/errs"
)

// transport answers without a network, so that time can be the test's.
type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	res := w.Result()
	res.Request = r
	return res, nil
}

// hang answers when nobody listens any more.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func anything(string, bool) error { return nil }

// servers are forged vendors, and a verifier's clients for them.
type servers struct {
	google *forge.Google
	apple  *forge.Apple
	app    forge.App
	attestation.Deps
}

func open(t *testing.T) *servers {
	t.Helper()
	s := &servers{google: must(forge.NewGoogle()), app: forge.NewApp()}
	s.apple = must(forge.NewApple(s.app.TeamID, time.Now))
	mux := http.NewServeMux()
	mux.Handle("google.test/", s.google)
	mux.Handle("apple.test/", s.apple)
	settings := vendors.Settings{GoogleEndpoint: "https://google.test/"}
	must(0, s.apple.Account(&settings, "https://apple.test"))
	s.Deps = must(vendors.Open(t.Context(), settings, vendors.Deps{
		HTTP: &http.Client{Transport: transport{mux}}, Tokens: s.google.Tokens(), Now: time.Now, DevelopmentOnly: anything,
	}))
	return s
}

func (s *servers) askGoogle(t *testing.T) error {
	t.Helper()
	token := must(s.google.Standard(s.app, attestation.Digest{}, time.Now()))
	payload, err := s.Google.Decode(t.Context(), s.app.Package, token)
	if err == nil && !strings.Contains(string(payload), "PLAY_RECOGNIZED") {
		t.Errorf("Google's verdict is %s", payload)
	}
	return err
}

func (s *servers) askApple(t *testing.T) error {
	t.Helper()
	return s.Apple.Check(t.Context(), s.app.TeamID, attestation.Production, s.apple.DeviceToken())
}

// want compares the class of an error: nil, refused, passing, misconfigured.
func want(t *testing.T, why string, err, class error) {
	t.Helper()
	switch {
	case class == nil && err != nil, class != nil && err == nil:
		t.Errorf("%s: got %v, want %v", why, err, class)
	case errors.Is(class, errRefused) && errs.KindOf(err) != errs.KindDenied:
		t.Errorf("%s: got %v, want it refused", why, err)
	case class != nil && !errors.Is(class, errRefused) && (!errors.Is(err, class) || errs.KindOf(err) != errs.Internal):
		t.Errorf("%s: got %v, want %v", why, err, class)
	}
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("%s: the error repeats what a vendor wrote: %v", why, err)
	}
}

var errRefused = errors.New("refused")

// secret stands for what a vendor might write back of a proof.
const secret = "c2VjcmV0"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func repeat(n int, h http.HandlerFunc) (all []http.HandlerFunc) {
	for range n {
		all = append(all, h)
	}
	return all
}

func TestGoogleAnswers(t *testing.T) {
	t.Parallel()
	const invalid = `{"error":{"code":400,"message":"` + secret + `","status":"INVALID_ARGUMENT"}}`
	for _, tc := range []struct {
		why   string
		fail  []http.HandlerFunc
		class error
		asked int
	}{
		{"as it should be", nil, nil, 1},
		{"not a token", repeat(1, forge.Answer(400, invalid)), errRefused, 1},
		{"wrong in a way that is not the phone's", repeat(1, forge.Answer(400, `{"error":{"status":"FAILED_PRECONDITION"}}`)), attestation.ErrMisconfigured, 1},
		{"a word that is none", repeat(1, forge.Answer(400, `{"error":{"status":"`+secret+`"}}`)), attestation.ErrMisconfigured, 1},
		{"a status without words", repeat(1, forge.Answer(400, secret)), attestation.ErrMisconfigured, 1},
		{"who are you", repeat(1, forge.Answer(401, secret)), attestation.ErrMisconfigured, 1},
		{"you may not", repeat(1, forge.Answer(403, secret)), attestation.ErrMisconfigured, 1},
		{"no such app", repeat(1, forge.Answer(404, secret)), attestation.ErrMisconfigured, 1},
		{"elsewhere", repeat(1, redirect), attestation.ErrMisconfigured, 1},
		{"too many", repeat(1, forge.Answer(429, secret)), nil, 2},
		{"down for a moment", repeat(2, forge.Answer(503, secret)), nil, 3},
		{"down", repeat(3, forge.Answer(500, secret)), attestation.ErrUnavailable, 3},
		{"silent for a moment", repeat(1, hang), nil, 2},
		{"silent", repeat(3, hang), attestation.ErrUnavailable, 3},
		{"noise", repeat(3, forge.Answer(200, secret)), attestation.ErrUnavailable, 3},
		{"no verdict", repeat(3, forge.Answer(200, `{}`)), attestation.ErrUnavailable, 3},
		{"endless", repeat(3, forge.Answer(200, strings.Repeat(secret, 1<<14))), attestation.ErrUnavailable, 3},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				s.google.Fail(tc.fail...)
				want(t, tc.why, s.askGoogle(t), tc.class)
				if n := s.google.Asked(); n != tc.asked {
					t.Errorf("Google was asked %d times, want %d", n, tc.asked)
				}
			})
		})
	}
}

func redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "https://apple.test/elsewhere", http.StatusTemporaryRedirect)
}

func TestAppleAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		fail  []http.HandlerFunc
		class error
		asked int
	}{
		{"as it should be", nil, nil, 1},
		{"no device token", repeat(1, forge.Answer(400, "Missing or incorrectly formatted device token payload")), errRefused, 1},
		{"in other words", repeat(1, forge.Answer(400, "Bad Device Token "+secret)), errRefused, 1},
		{"our clock", repeat(1, forge.Answer(400, "Missing or incorrectly formatted time stamp")), attestation.ErrMisconfigured, 1},
		{"our header", repeat(1, forge.Answer(400, "Missing or badly formatted authorization token")), attestation.ErrMisconfigured, 1},
		{"wrong without words", repeat(1, forge.Answer(400, "")), attestation.ErrMisconfigured, 1},
		{"who are you, once", repeat(1, forge.Answer(401, "Unable to verify authorization token")), nil, 2},
		{"who are you", repeat(2, forge.Answer(401, "Unable to verify authorization token")), attestation.ErrMisconfigured, 2},
		{"you may not", repeat(1, forge.Answer(403, "")), attestation.ErrMisconfigured, 1},
		{"wrong method", repeat(1, forge.Answer(405, "")), attestation.ErrMisconfigured, 1},
		{"elsewhere", repeat(1, redirect), attestation.ErrMisconfigured, 1},
		{"too many", repeat(1, forge.Answer(429, "")), nil, 2},
		{"down for a moment", repeat(1, forge.Answer(500, "")), nil, 2},
		{"down", repeat(2, forge.Answer(503, secret)), attestation.ErrUnavailable, 2},
		{"silent for a moment", repeat(1, hang), nil, 2},
		{"silent", repeat(2, hang), attestation.ErrUnavailable, 2},
		{"a yes with a body", repeat(1, forge.Answer(200, "Failed to find bit state")), nil, 1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				s.apple.Fail(tc.fail...)
				want(t, tc.why, s.askApple(t), tc.class)
				if n := s.apple.Asked(); n != tc.asked {
					t.Errorf("Apple was asked %d times, want %d", n, tc.asked)
				}
			})
		})
	}
}

// A token that Apple did not make is refused by what checks the forged Apple
// too: the JWT, the name of the question, the time.
func TestAppleRefusesNoise(t *testing.T) {
	t.Parallel()
	s := open(t)
	want(t, "noise", s.Apple.Check(t.Context(), s.app.TeamID, attestation.Production, "bm9pc2U="), errRefused)
	want(t, "another team", s.Apple.Check(t.Context(), "ABCDE12346", attestation.Production, "bm9pc2U="), attestation.ErrMisconfigured)
	want(t, "no environment", s.Apple.Check(t.Context(), s.app.TeamID, "", "bm9pc2U="), attestation.ErrMisconfigured)
}

// The JWT is made anew often enough for Apple, and no more often.
func TestAppleIdentityIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		var seen []string
		note := func(w http.ResponseWriter, r *http.Request) {
			if id := r.Header.Get("Authorization"); len(seen) == 0 || seen[len(seen)-1] != id {
				seen = append(seen, id)
			}
		}
		for range 24 { // two hours
			s.apple.Fail(note)
			want(t, "as it should be", s.askApple(t), nil)
			time.Sleep(5 * time.Minute)
		}
		if len(seen) != 3 {
			t.Errorf("Apple saw %d identities in two hours, want 3", len(seen))
		}
	})
}

// A vendor that fails is left alone for a while, then tried with one question.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.apple.Fail(repeat(12, forge.Answer(503, ""))...)
		for range 5 {
			want(t, "down", s.askApple(t), attestation.ErrUnavailable)
		}
		for range 20 {
			want(t, "left alone", s.askApple(t), attestation.ErrUnavailable)
		}
		if n := s.apple.Asked(); n != 10 {
			t.Errorf("Apple was asked %d times, want 10", n)
		}
		time.Sleep(11 * time.Second)
		want(t, "tried, and still down", s.askApple(t), attestation.ErrUnavailable)
		want(t, "left alone again", s.askApple(t), attestation.ErrUnavailable)
		if n := s.apple.Asked(); n != 12 {
			t.Errorf("Apple was asked %d times, want 12", n)
		}
		time.Sleep(11 * time.Second)
		want(t, "up again", s.askApple(t), nil)
		want(t, "and stays so", s.askApple(t), nil)

		// What phones do wrong must not shut the others out.
		s.apple.Fail(repeat(30, forge.Answer(400, "device token"))...)
		for range 30 {
			want(t, "a wrong phone", s.askApple(t), errRefused)
		}
		want(t, "a right one", s.askApple(t), nil)
	})
}

// A phone that hangs up is no failure of the vendor.
func TestHangingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := s.Apple.Check(ctx, s.app.TeamID, attestation.Production, s.apple.DeviceToken())
			want(t, "hung up", err, attestation.ErrUnavailable)
		}
		want(t, "the next", s.askApple(t), nil)
	})
}

// stuck is an account server that does not answer.
type stuck struct{ until chan struct{} }

func (s stuck) Token() (*oauth2.Token, error) {
	<-s.until
	return nil, errors.New(secret)
}

type refusing struct{ status int }

func (r refusing) Token() (*oauth2.Token, error) {
	return nil, &oauth2.RetrieveError{Response: &http.Response{StatusCode: r.status}, Body: []byte(secret)}
}

func TestGoogleAccounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		until := make(chan struct{})
		for _, tc := range []struct {
			why    string
			tokens oauth2.TokenSource
			class  error
		}{
			{"stuck", stuck{until}, attestation.ErrUnavailable},
			{"refused", refusing{403}, attestation.ErrMisconfigured},
			{"down", refusing{503}, attestation.ErrUnavailable},
			{"of somebody else", oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "x"}), attestation.ErrMisconfigured},
		} {
			google := must(forge.NewGoogle())
			deps := must(vendors.Open(t.Context(), vendors.Settings{}, vendors.Deps{
				HTTP: &http.Client{Transport: transport{google}}, Tokens: tc.tokens, Now: time.Now, DevelopmentOnly: anything,
			}))
			_, err := deps.Google.Decode(t.Context(), "org.example.app", "x")
			want(t, tc.why, err, tc.class)
		}
		close(until)
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	var good vendors.Settings
	must(0, must(forge.NewApple("ABCDE12345", time.Now)).Account(&good, ""))
	for _, tc := range []struct {
		why      string
		settings vendors.Settings
		variable string // empty: accepted
	}{
		{"nothing", vendors.Settings{}, ""},
		{"Apple", good, ""},
		{"a key without line breaks", vendors.Settings{AppleKey: strings.ReplaceAll(good.AppleKey, "\n", `\n`), AppleKeyID: "x", AppleTeam: "y"}, ""},
		{"a key without an id", vendors.Settings{AppleKey: good.AppleKey, AppleTeam: "y"}, "APPLE_DEVICECHECK_KEY_ID"},
		{"a key without a team", vendors.Settings{AppleKey: good.AppleKey, AppleKeyID: "x"}, "APPLE_TEAM_ID"},
		{"a key that is noise", vendors.Settings{AppleKey: secret, AppleKeyID: "x", AppleTeam: "y"}, "APPLE_DEVICECHECK_KEY"},
		{"an account that is noise", vendors.Settings{GoogleCredentials: secret}, "PLAY_INTEGRITY_CREDENTIALS"},
		{"an account that runs programs", vendors.Settings{GoogleCredentials: `{"type":"external_account"}`}, "PLAY_INTEGRITY_CREDENTIALS"},
		{"an endpoint without scheme", vendors.Settings{GoogleEndpoint: "localhost"}, "PLAY_INTEGRITY_ENDPOINT"},
	} {
		deps, err := vendors.Open(t.Context(), tc.settings, vendors.Deps{Now: time.Now, DevelopmentOnly: anything})
		switch {
		case tc.variable == "" && err != nil, tc.variable != "" && (err == nil || !strings.Contains(err.Error(), tc.variable)):
			t.Errorf("%s: got %v, want a problem with %q", tc.why, err, tc.variable)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error repeats the setting: %v", tc.why, err)
		}
		if deps.Google != nil || (deps.Apple != nil) != (tc.settings.AppleKey != "" && err == nil) {
			t.Errorf("%s: got clients %v, %v", tc.why, deps.Google, deps.Apple)
		}
	}
}
