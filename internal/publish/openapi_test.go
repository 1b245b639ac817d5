package publish_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
)

// description is the published description of the API.
type description struct{ routers.Router }

func readDescription(t *testing.T) description {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../docs/api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return description{router}
}

// The description is what the service does: real requests go to the real
// handler, and both they and their answers are held to it.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	described := readDescription(t)
	d := newStatsDesk(t, func(s *publish.Settings, _ *publish.Deps) { s.StatsMinimum = 1 })
	down := openDesk(t, nowhere)
	closed := openDesk(t, nowhere, func(_ *publish.Settings, deps *publish.Deps) { deps.Maintenance = true })
	proving := newLab(t)
	now := d.now()
	first := d.upload(entest.Upload(1, 14, now), report(exposure.Likely))
	d.accept(first)
	d.pass(time.Hour)
	partly := d.upload(append(entest.Upload(20, 2, now), old(entest.Upload(30, 1, now))...))
	statsToken := "Bearer " + d.authority.Certificate(t, nil, nil, d.now(), func(r *certificate.SignRequest) { r.Audience = statsAudience })

	for _, tc := range []struct {
		why     string
		to      *desk
		path    string
		headers []string
		body    []byte
		asTold  bool // the request is what the description asks for
		status  int
	}{
		{"an upload", d, "/v1/publish", nil, d.upload(entest.Upload(40, 14, now)).body(), true, 200},
		{"keys that are left out", d, "/v1/publish", nil, partly.body(), true, 200},
		{"chaff", d, "/v1/publish", []string{"X-Chaff", "1"}, partly.body(), true, 200},
		{"known keys without a token", d, "/v1/publish", nil, d.upload(entest.Upload(1, 14, now)).body(), true, 400},
		{"no keys", d, "/v1/publish", nil, d.upload(nil).body(), true, 400},
		{"an unknown member", d, "/v1/publish", nil, []byte(`{"regions":[]}`), false, 400},
		{"a certificate that does not hold", d, "/v1/publish", nil, withoutCertificate(first).body(), true, 401},
		{"a device that proves nothing", proving.desk, "/v1/publish", nil, proving.unproved("ios").body(), true, 401},
		{"a device that proves itself", proving.desk, "/v1/publish", nil, proving.proved(appAttest()).body(), true, 200},
		{"too much", d, "/v1/publish", nil, bytes.Repeat([]byte(" "), 64_001), false, 413},
		{"text", d, "/v1/publish", []string{"Content-Type", "text/plain"}, first.body(), false, 415},
		{"maintenance", closed, "/v1/publish", nil, first.body(), true, 429},
		{"a database that is down", down, "/v1/publish", nil, first.body(), true, 500},
		{"statistics", d, "/v1/stats", []string{"Authorization", statsToken}, []byte(`{"padding":"x"}`), true, 200},
		{"statistics for anybody", d, "/v1/stats", []string{"Authorization", "Bearer x"}, []byte(`{}`), true, 401},
		{"statistics by nonsense", d, "/v1/stats", []string{"Authorization", statsToken}, []byte(`[]`), false, 400},
		{"statistics of nothing", down, "/v1/stats", []string{"Authorization", statsToken}, []byte(`{}`), true, 500},
		{"statistics in maintenance", closed, "/v1/stats", []string{"Authorization", statsToken}, []byte(`{}`), true, 429},
	} {
		t.Run(tc.why, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, tc.path, bytes.NewReader(tc.body))
			r.Header.Set("Content-Type", "application/json")
			for i := 0; i < len(tc.headers); i += 2 {
				r.Header.Set(tc.headers[i], tc.headers[i+1])
			}
			w := described.check(t, tc.to.handler, r, tc.asTold)
			if w.Code != tc.status {
				t.Errorf("got status %d, want %d: %.300s", w.Code, tc.status, w.Body)
			}
		})
	}
	if w := describedDays(t, d, statsToken); !strings.Contains(w, `"day":"2020-11-05T00:00:00Z"`) {
		t.Errorf("no day was described: %.300s", w)
	}
}

// check sends a request and holds it and its answer to the description.
func (d description) check(t *testing.T, h http.Handler, r *http.Request, asTold bool) *httptest.ResponseRecorder {
	t.Helper()
	route, params, err := d.FindRoute(r)
	if err != nil {
		t.Fatal(err)
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
			IncludeResponseStatus: true,
		},
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := openapi3filter.ValidateRequest(t.Context(), in); (err == nil) != asTold {
		t.Errorf("the request is as described: %t, want %t: %v", err == nil, asTold, err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())), Options: in.Options,
	}); err != nil {
		t.Errorf("the answer is not as described: %v", err)
	}
	return w
}

// describedDays is the raw answer with statistics: the check above must have
// seen a day.
func describedDays(t *testing.T, d *desk, authorization string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/stats", strings.NewReader(`{}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", authorization)
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w.Body.String()
}

func withoutCertificate(up upload) upload {
	up.Certificate = ""
	return up
}
