package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/app"
	"enkeyserver/internal/web"
)

// service is a served mux, and how its life ends.
type service struct {
	url, metricsURL string
	stop            context.CancelFunc
	ended           <-chan error
}

// start serves mux until the test ends or stops it.
func start(t *testing.T, finish, tidy time.Duration, mux *http.ServeMux, ready ...func(context.Context) error) service {
	t.Helper()
	logged, w := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	a := app.New(app.Settings{MetricsPort: freePort(t)}, slog.New(slog.NewJSONHandler(w, nil)), finish, tidy)
	go func() {
		ended <- a.Serve(ctx, mux, ready...)
		w.Close()
	}()
	t.Cleanup(stop)
	s := listening(t, logged)
	s.stop, s.ended = stop, ended
	return s
}

// listening reads a log up to the record that says where the service is, and
// lets the rest run by.
func listening(t *testing.T, log io.Reader) service {
	t.Helper()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var record struct {
			Msg         string `json:"msg"`
			Addr        string `json:"addr"`
			MetricsAddr string `json:"metrics_addr"`
		}
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			t.Fatalf("a log line is not JSON: %s", lines.Text())
		}
		if record.Msg == "listening" {
			go io.Copy(io.Discard, log) //nolint:errcheck // ends with the log
			return service{url: local(t, record.Addr), metricsURL: local(t, record.MetricsAddr)}
		}
	}
	t.Fatal("the log ended without the record \"listening\"")
	return service{}
}

func local(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return "http://127.0.0.1:" + port
}

// freePort gives a port that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// get asks for a URL. Status 0 is no answer, and body says why.
func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

func TestServe(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle("POST /{$}", web.Wrap(func(w http.ResponseWriter, _ *http.Request) error {
		web.WriteJSON(w, http.StatusOK, true)
		return nil
	}))
	s := start(t, time.Minute, time.Minute, mux)
	for _, tc := range []struct {
		why, url string
		want     int
	}{
		{"ready", s.url + "/health", 200},
		{"alive", s.url + "/live", 200},
		{"metrics on their own port", s.metricsURL + "/metrics", 200},
		{"and only there", s.url + "/metrics", 404},
		{"which serves nothing else", s.metricsURL + "/health", 404},
		{"the service's own routes", s.url + "/", 405},
	} {
		if status, body := get(t, tc.url); status != tc.want {
			t.Errorf("%s: %s gave %d %s, want %d", tc.why, tc.url, status, body, tc.want)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	var looks atomic.Int32
	database := func(context.Context) error {
		looks.Add(1)
		if down.Load() {
			return errors.New("connection to db.internal refused")
		}
		return nil
	}
	fine := func(context.Context) error { return nil }

	s := start(t, time.Minute, time.Minute, http.NewServeMux(), database, fine)
	for range 20 {
		if status, body := get(t, s.url+"/health"); status != http.StatusOK || body != `{"status":"ok"}`+"\n" {
			t.Fatalf("health is %d %s", status, body)
		}
	}
	if n := looks.Load(); n > 10 {
		t.Errorf("20 probes at once asked the database %d times", n)
	}

	down.Store(true)
	s = start(t, time.Minute, time.Minute, http.NewServeMux(), database, fine)
	status, body := get(t, s.url+"/health")
	want := `{"code":"not_ready","error":"the service cannot do its work now"}` + "\n"
	if status != http.StatusServiceUnavailable || body != want {
		t.Errorf("with the database down, health is %d %s", status, body)
	}
	if status, _ := get(t, s.url+"/live"); status != http.StatusOK {
		t.Errorf("with the database down, live is %d: a restart mends nothing", status)
	}
}

func TestHealthIsKnownWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		deaf := make(chan struct{})
		err := app.Look(t.Context(), func(context.Context) error {
			<-deaf
			return nil
		})
		if err == nil {
			t.Error("a check that never ends is taken for a good one")
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
		close(deaf)
	})
}

func TestStopLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	arrived, finish := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle("GET /slow", web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
		close(arrived)
		<-finish
		web.WriteJSON(w, http.StatusOK, r.Context().Err() == nil)
		return nil
	}))
	s := start(t, time.Minute, time.Minute, mux)

	// A connection from before the stop: it is accepted, since connections
	// are accepted in their order and the next one is served.
	early, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	answered := make(chan string, 1)
	go func() {
		_, body := get(t, s.url+"/slow")
		answered <- body
	}()
	<-arrived
	s.stop()
	awaitRefusal(t, s.url)

	fmt.Fprintf(early, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(early), nil); err == nil {
		resp.Body.Close()
		t.Errorf("while the service stops, health is answered with %d", resp.StatusCode)
	}
	if status, _ := get(t, s.metricsURL+"/metrics"); status != http.StatusOK {
		t.Errorf("while the service stops, metrics are %d", status)
	}

	close(finish)
	if diff := cmp.Diff("true\n", <-answered); diff != "" {
		t.Errorf("answer to the request in flight (-want +got):\n%s", diff)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("the stop ended with %v", err)
	}
}

// awaitRefusal waits until new connections are refused.
func awaitRefusal(t *testing.T, url string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Fatal("new connections are still accepted")
}

func TestStopEndsDetachedWork(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	tidied := make(chan error, 1)
	mux := http.NewServeMux()
	mux.Handle("GET /job", web.Wrap(func(_ http.ResponseWriter, r *http.Request) error {
		ctx, end := web.Detach(r.Context())
		defer end()
		close(arrived)
		<-ctx.Done()
		tidied <- ctx.Err()
		return ctx.Err()
	}))
	s := start(t, time.Millisecond, time.Minute, mux)
	answered := make(chan int, 1)
	go func() {
		status, _ := get(t, s.url+"/job")
		answered <- status
	}()
	<-arrived
	s.stop()
	if err := <-tidied; !errors.Is(err, context.Canceled) {
		t.Errorf("the work ended with %v", err)
	}
	if status := <-answered; status != http.StatusInternalServerError {
		t.Errorf("the scheduler, which should call again, was answered with %d", status)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("the stop ended with %v", err)
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	arrived, never := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle("GET /stuck", web.Wrap(func(http.ResponseWriter, *http.Request) error {
		close(arrived)
		<-never
		return nil
	}))
	s := start(t, time.Millisecond, time.Millisecond, mux)
	cut := make(chan int, 1)
	go func() {
		status, _ := get(t, s.url+"/stuck")
		cut <- status
	}()
	<-arrived
	s.stop()
	if err := <-s.ended; err != nil {
		t.Errorf("the stop ended with %v", err)
	}
	if status := <-cut; status != 0 {
		t.Errorf("the stuck request was answered with %d", status)
	}
	close(never)
}

func TestDoorIsBounded(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle("POST /", web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
		return web.ReadJSON(w, r, 1<<30, new(struct{ Text string }))
	}))
	s := start(t, time.Minute, time.Minute, mux)
	for _, tc := range []struct {
		why  string
		ask  func(r *http.Request)
		want int
	}{
		{"a long body", func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"Text":"` + strings.Repeat("x", 128<<10) + `"}`))
		}, http.StatusRequestEntityTooLarge},
		{"a long header", func(r *http.Request) { r.Header.Set("X-Long", strings.Repeat("x", 32<<10)) }, http.StatusRequestHeaderFieldsTooLarge},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		tc.ask(r)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", tc.why, err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s: status %d, want %d", tc.why, resp.StatusCode, tc.want)
		}
	}
}

func TestPortThatIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	for _, tc := range []struct {
		settings app.Settings
		want     string
	}{
		{app.Settings{Port: taken}, fmt.Sprintf("PORT: port %d cannot be listened on", taken)},
		{app.Settings{MetricsPort: taken}, fmt.Sprintf("METRICS_PORT: port %d cannot be listened on", taken)},
	} {
		a := app.New(tc.settings, slog.New(slog.DiscardHandler), 0, 0)
		err := a.Serve(t.Context(), http.NewServeMux())
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("error %v, want %s", err, tc.want)
		}
	}
}
