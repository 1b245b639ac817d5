package publish_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
)

// nowhere is a database that cannot be: whoever asks it fails.
const nowhere = "postgres://nobody@127.0.0.1:1/none?sslmode=disable"

// Chaff is invalid on purpose, and whatever it looks like its answer is 200: an
// error would stop a phone from sending more. It needs no database.
func TestChaffIsAlwaysFine(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nowhere)
	for _, tc := range []struct {
		why, method, path, contentType, value, body string
	}{
		{"as phones send it", "POST", "/v1/publish", "application/json", "1", `{"temporaryExposureKeys":[],"padding":"xxxx"}`},
		{"the older API", "POST", "/", "application/json", "1", `{}`},
		{"another value", "POST", "/v1/publish", "application/json", "yes", `{}`},
		{"no value", "POST", "/v1/publish", "application/json", "", `{}`},
		{"nothing", "POST", "/v1/publish", "", "1", ``},
		{"no JSON", "POST", "/v1/publish", "text/plain", "1", `chaff`},
		{"far too much", "POST", "/v1/publish", "application/json", "1", strings.Repeat("x", 200_000)},
		{"another method", "PUT", "/v1/publish", "application/json", "1", `{}`},
	} {
		t.Run(tc.why, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
			r.Header.Set("Content-Type", tc.contentType)
			r.Header.Set("X-Chaff", tc.value)
			a := d.do(r)
			if a.Status != http.StatusOK || a.RevisionToken == "" || a.Code != "" {
				t.Errorf("got status %d, code %q, token %t; want 200 with a token", a.Status, a.Code, a.RevisionToken != "")
			}
			checkEnvelope(t, a)
		})
	}
}

// No connection of the pool has been asked anything.
func TestChaffTouchesNoDatabase(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.accept(d.upload(entest.Upload(1, 3, d.now())))
	type activity struct {
		Connections int
		LastQuery   time.Time
	}
	watch := func() activity {
		watcher, err := database.Open(t.Context(), database.Settings{URL: d.url, PoolMax: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer watcher.Close()
		seen, _, err := database.One[activity](t.Context(), watcher, `
			SELECT count(*)::int AS connections, max(query_start) AS last_query
			FROM   pg_stat_activity
			WHERE  datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`)
		if err != nil {
			t.Fatal(err)
		}
		return seen
	}
	before := watch()
	for range 200 {
		if a := d.post("/v1/publish", []byte("{}"), "X-Chaff", "1"); a.Status != http.StatusOK {
			t.Fatalf("got status %d", a.Status)
		}
	}
	if diff := gocmp.Diff(before, watch()); diff != "" {
		t.Errorf("the database noticed (-before +after):\n%s", diff)
	}
}

// Chaff waits no longer than it may, and not at all for who has left.
func TestChaffWaits(t *testing.T) {
	t.Parallel()
	remember := func(d *desk) *desk {
		for range 300 {
			d.service.Remember(time.Hour, 888, 14, 0)
		}
		return d
	}
	t.Run("within the bound", func(t *testing.T) {
		t.Parallel()
		d := remember(openDesk(t, nowhere, func(s *publish.Settings, _ *publish.Deps) { s.ChaffMaxLatencyMS = 50 }))
		began := time.Now()
		d.post("/v1/publish", nil, "X-Chaff", "1")
		if took := time.Since(began); took < 50*time.Millisecond || took > 10*time.Second {
			t.Errorf("took %v, want the bound of 50ms", took)
		}
	})
	t.Run("until the client leaves", func(t *testing.T) {
		t.Parallel()
		d := remember(openDesk(t, nowhere, func(s *publish.Settings, _ *publish.Deps) { s.ChaffMaxLatencyMS = 3_600_000 }))
		ctx, leave := context.WithCancel(t.Context())
		r := httptest.NewRequest(http.MethodPost, "/v1/publish", nil).WithContext(ctx)
		r.Header.Set("X-Chaff", "1")
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() { d.handler.ServeHTTP(w, r); close(done) }()
		leave()
		<-done // or the test times out
		if w.Body.Len() != 0 {
			t.Error("somebody who left was answered")
		}
	})
}

// Readers and writers of the remembered answers do not wait for each other.
func TestChaffAmongUploads(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nowhere, func(s *publish.Settings, _ *publish.Deps) { s.ChaffMaxLatencyMS = 1 })
	var crowd errgroup.Group
	for i := range 8 {
		crowd.Go(func() error {
			for range 100 {
				d.service.Remember(time.Millisecond, 888, i, 0)
				d.post("/v1/publish", nil, "X-Chaff", "1")
			}
			return nil
		})
	}
	_ = crowd.Wait()
}

// seen is what somebody on the network sees of an answer.
type seen struct {
	took time.Duration
	size int
}

// Who watches the network must not be able to tell a phone that uploads from one
// that sends chaff. Both are sent to a real server over a real database, in
// random order, and their distributions compared: two that were the same would
// be called different once in a million runs.
func TestChaffLooksReal(t *testing.T) {
	t.Parallel()
	const each, warm = 300, 60
	d := newDesk(t)
	server := httptest.NewServer(d.handler)
	defer server.Close()

	kinds := slices.Repeat([]bool{true, false}, each)
	rand.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	var real, chaff []seen
	var headers [2]http.Header
	for i, isChaff := range slices.Concat(make([]bool, warm), kinds) {
		body := realBody(d, i)
		s, header := d.watch(server, body, isChaff)
		switch {
		case i < warm:
		case isChaff:
			chaff, headers[1] = append(chaff, s), header
		default:
			real, headers[0] = append(real, s), header
		}
	}
	for _, h := range headers {
		maps.DeleteFunc(h, func(name string, _ []string) bool { return name == "Date" || name == "Content-Length" })
	}
	if diff := gocmp.Diff(headers[0], headers[1]); diff != "" {
		t.Errorf("headers (-real +chaff):\n%s", diff)
	}
	compare(t, "bytes", real, chaff, func(s seen) float64 { return float64(s.size) })
	compare(t, "milliseconds", real, chaff, func(s seen) float64 { return s.took.Seconds() * 1000 })
}

// realBody is an upload such as phones send: most are whole, some have a key
// that is dropped.
func realBody(d *desk, n int) []byte {
	days := 14
	if n%4 == 0 {
		days = 3
	}
	sent := entest.Upload(20*n, days, d.now())
	if n%5 == 0 {
		sent = append(sent, old(entest.Upload(20*n+15, 1, d.now()))...)
	}
	return d.upload(sent).body()
}

// watch sends a request and notes what can be seen of its answer.
func (d *desk) watch(server *httptest.Server, body []byte, isChaff bool) (seen, http.Header) {
	d.t.Helper()
	r, err := http.NewRequest(http.MethodPost, server.URL+"/v1/publish", bytes.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if isChaff {
		r.Header.Set("X-Chaff", "1")
	}
	began := time.Now()
	resp, err := server.Client().Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("got status %d, %v", resp.StatusCode, err)
	}
	var a apiv1.PublishResponse
	if err := json.Unmarshal(text, &a); err != nil || a.RevisionToken == "" {
		d.t.Fatalf("no token, %v", err)
	}
	return seen{took, len(text)}, resp.Header
}

// compare is the two-sample test of Kolmogorov and Smirnov: how far apart are
// the two distributions at most, and could that be chance?
func compare(t *testing.T, what string, real, chaff []seen, of func(seen) float64) {
	t.Helper()
	a, b := sorted(real, of), sorted(chaff, of)
	distance := ks(a, b)
	const alpha = 1e-6
	n, m := float64(len(a)), float64(len(b))
	limit := math.Sqrt(-math.Log(alpha/2)/2) * math.Sqrt((n+m)/(n*m))
	t.Logf("%s: distance %.3f, limit %.3f; median real %.2f, chaff %.2f; 95%% real %.2f, chaff %.2f",
		what, distance, limit, a[len(a)/2], b[len(b)/2], a[len(a)*95/100], b[len(b)*95/100])
	if distance > limit {
		t.Errorf("%s of real answers and of chaff differ: distance %.3f, at most %.3f would be chance", what, distance, limit)
	}
}

func sorted(all []seen, of func(seen) float64) []float64 {
	values := make([]float64, len(all))
	for i, s := range all {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values
}

func ks(a, b []float64) (distance float64) {
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		x := min(a[i], b[j])
		for i < len(a) && a[i] <= x {
			i++
		}
		for j < len(b) && b[j] <= x {
			j++
		}
		distance = max(distance, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return distance
}
