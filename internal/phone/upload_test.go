package phone_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// counter is a key server that keeps what it is sent and answers as it is told.
type counter struct {
	*httptest.Server
	mu      sync.Mutex
	bodies  [][]byte
	headers []http.Header
}

// answering starts a server that gives these answers in turn, the last one for
// ever; nil is an answer that gets lost.
func answering(t *testing.T, answers ...http.HandlerFunc) *counter {
	t.Helper()
	c := &counter{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		answer := answers[min(len(c.bodies), len(answers)-1)]
		c.bodies = append(c.bodies, body)
		c.headers = append(c.headers, r.Header)
		c.mu.Unlock()
		if answer == nil {
			panic(http.ErrAbortHandler)
		}
		answer(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// received gives the requests so far.
func (c *counter) received() (bodies [][]byte, headers []http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bodies), slices.Clone(c.headers)
}

func answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func authority(t *testing.T) phone.Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return phone.Authority{Issuer: "ha", Audience: "server", KeyID: "v1", Key: key, Lifetime: time.Hour}
}

func carried(days exposure.Day) *phone.Phone {
	p := phone.New("p")
	today := exposure.DayOf(noon)
	p.Carry(today-days+1, today)
	return p
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	ha := authority(t)
	p := carried(15)
	onset := exposure.IntervalOf(noon.Add(-48 * time.Hour))
	for _, risk := range []int32{0, 3} {
		up, err := p.Prepare("app", ha, phone.Diagnosis{Report: exposure.Likely, Onset: onset, Risk: risk}, noon)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := base64.StdEncoding.DecodeString(up.HMACKey)
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]certificate.Authority{"ha": {
			Issuer: "ha", Audience: "server",
			Keys: []certificate.Key{{Version: "v1", Public: ha.Key.Public().(*ecdsa.PublicKey)}},
		}}
		claims, err := certificate.Verify(up.Certificate, known, up.Keys, secret, noon)
		if err != nil {
			t.Fatalf("risk %d: a server would refuse the certificate: %v", risk, err)
		}
		if claims.Report != exposure.Likely || claims.Onset != onset {
			t.Errorf("the certificate says %s, onset %d; want likely, %d", claims.Report, claims.Onset, onset)
		}
		if len(up.Body) < 5000 || len(up.Body) > 64000 {
			t.Errorf("the body has %d bytes, want at least 5000 and at most 64000", len(up.Body))
		}
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	taken := answer(200, `{"revisionToken":"dG9rZW4=","insertedExposures":3}`)
	for _, tc := range []struct {
		why     string
		answers []http.HandlerFunc
		status  int // 0: the phone never learns
		tries   int
		token   string
	}{
		{"taken at once", []http.HandlerFunc{taken}, 200, 1, "dG9rZW4="},
		{"the answer got lost", []http.HandlerFunc{nil, taken}, 200, 2, "dG9rZW4="},
		{"the server was out of order", []http.HandlerFunc{answer(500, `{}`), answer(500, `{}`), taken}, 200, 3, "dG9rZW4="},
		{"something before the server was", []http.HandlerFunc{answer(502, `<html>`), taken}, 200, 2, "dG9rZW4="},
		{"the server was closed", []http.HandlerFunc{answer(429, `{}`), taken}, 200, 2, "dG9rZW4="},
		{"a 200 without a token is a failure", []http.HandlerFunc{answer(200, `{}`), taken}, 200, 2, "dG9rZW4="},
		{"refused is refused", []http.HandlerFunc{answer(401, `{"code":"x"}`), taken}, 401, 1, ""},
		{"three tries are all", []http.HandlerFunc{nil, nil, nil, taken}, 0, 3, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			server := answering(t, tc.answers...)
			p := carried(3)
			up, err := p.Prepare("app", authority(t), phone.Diagnosis{Report: exposure.Confirmed}, noon)
			if err != nil {
				t.Fatal(err)
			}
			a, err := p.Send(t.Context(), phone.Server{URL: server.URL, App: "app"}, up)
			if (err != nil) != (tc.status == 0) {
				t.Errorf("error %v", err)
			}
			bodies, _ := server.received()
			if a.Status != tc.status || len(bodies) != tc.tries || p.Token() != tc.token {
				t.Errorf("status %d after %d tries, token %q; want %d, %d, %q",
					a.Status, len(bodies), p.Token(), tc.status, tc.tries, tc.token)
			}
			for _, body := range bodies {
				if string(body) != string(up.Body) {
					t.Error("a retry was another body")
				}
			}
		})
	}
}

func TestNewestTokenIsSent(t *testing.T) {
	t.Parallel()
	server := answering(t, answer(200, `{"revisionToken":"Zmlyc3Q="}`), answer(200, `{"revisionToken":"c2Vjb25k"}`))
	p, ha := carried(3), authority(t)
	for range 3 {
		up, err := p.Prepare("app", ha, phone.Diagnosis{Report: exposure.Confirmed}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Send(t.Context(), phone.Server{URL: server.URL, App: "app"}, up); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	bodies, _ := server.received()
	for _, body := range bodies {
		var r struct{ RevisionToken string }
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, r.RevisionToken)
	}
	if want := []string{"", "Zmlyc3Q=", "c2Vjb25k"}; !slices.Equal(got, want) {
		t.Errorf("tokens sent: %q, want %q", got, want)
	}
}

func TestChaff(t *testing.T) {
	t.Parallel()
	server := answering(t, answer(200, `{"padding":"xx"}`))
	p := carried(3)
	a, err := p.Chaff(t.Context(), phone.Server{URL: server.URL, App: "app"}, noon)
	if err != nil || a.Status != 200 {
		t.Fatalf("status %d, error %v", a.Status, err)
	}
	bodies, headers := server.received()
	if got := headers[0].Get("X-Chaff"); got == "" {
		t.Error("chaff has no X-Chaff header")
	}
	if n := len(bodies[0]); n < 5000 {
		t.Errorf("chaff has %d bytes, want at least 5000 like real uploads", n)
	}
	if p.Token() != "" {
		t.Error("the answer to chaff left a token")
	}
}
