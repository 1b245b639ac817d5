package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/web"
)

// logOf serves a request with a Record around mux, and gives what it logged.
func logOf(t *testing.T, mux http.Handler, ask func(url string)) []map[string]any {
	t.Helper()
	var b lockedBuffer
	served := make(chan struct{}, 1)
	record := web.Record(slog.New(slog.NewJSONHandler(&b, nil)), mux)
	ask(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { served <- struct{}{} }() // the record is written after the answer
		record.ServeHTTP(w, r)
	})))
	<-served
	var records []map[string]any
	for line := range strings.Lines(b.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		records = append(records, fields)
	}
	return records
}

func TestRecord(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why    string
		h      web.Handler
		path   string
		method string
		want   map[string]any
	}{
		{
			"an answer", ok, "/v1/thing/7", "GET",
			map[string]any{"level": "INFO", "method": "GET", "route": "/v1/thing/{id}", "status": 200.0, "bytes": 12.0},
		},
		{
			"notes, in the order in which they came", func(w http.ResponseWriter, r *http.Request) error {
				web.Note(r.Context(), slog.Int("keys", 14), slog.Bool("chaff", false))
				return ok(w, r)
			}, "/v1/thing/7", "POST",
			map[string]any{"level": "INFO", "method": "POST", "route": "/v1/thing/{id}", "status": 200.0, "bytes": 12.0, "keys": 14.0, "chaff": false},
		},
		{
			"no answer is an empty one", func(http.ResponseWriter, *http.Request) error { return nil }, "/v1/thing/7", "GET",
			map[string]any{"level": "INFO", "method": "GET", "route": "/v1/thing/{id}", "status": 200.0, "bytes": 0.0},
		},
		{
			"the client's fault is told by its sentence", func(http.ResponseWriter, *http.Request) error {
				return errs.From(errors.New("cause"), errs.KindInvalid, "bad_request", "too many keys")
			}, "/v1/thing/7", "GET",
			map[string]any{"level": "INFO", "method": "GET", "route": "/v1/thing/{id}", "status": 400.0, "bytes": 47.0, "code": "bad_request", "reason": "too many keys"},
		},
		{
			"ours by its chain", func(http.ResponseWriter, *http.Request) error {
				return errs.From(errors.New("disk full"), errs.Internal, "internal_error", "not stored")
			}, "/v1/thing/7", "GET",
			map[string]any{"level": "ERROR", "method": "GET", "route": "/v1/thing/{id}", "status": 500.0, "bytes": 47.0, "code": "internal_error", "error": "not stored: disk full"},
		},
		{
			"a path that nobody serves is not logged", ok, "/wp-admin", "GET",
			map[string]any{"level": "INFO", "method": "GET", "route": "none", "status": 404.0, "bytes": 19.0},
		},
		{
			"neither is a method that nobody knows", ok, "/v1/thing/7", "S3SAME",
			map[string]any{"level": "INFO", "method": "other", "route": "/v1/thing/{id}", "status": 200.0, "bytes": 12.0},
		},
		{
			"quiet is for debugging", func(w http.ResponseWriter, r *http.Request) error {
				web.Quiet(r.Context())
				return ok(w, r)
			}, "/v1/thing/7", "GET", nil,
		},
		{
			"unless it fails", func(_ http.ResponseWriter, r *http.Request) error {
				web.Quiet(r.Context())
				return errors.New("down")
			}, "/v1/thing/7", "GET",
			map[string]any{"level": "ERROR", "method": "GET", "route": "/v1/thing/{id}", "status": 500.0, "bytes": 86.0, "code": "internal_error", "error": "down"},
		},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.Handle("/v1/thing/{id}", web.Wrap(tc.h))
			records := logOf(t, mux, func(url string) {
				send(t, tc.method, url+tc.path+"?token=s3same", "application/s3same", "s3same")
			})
			var want []map[string]any
			if tc.want != nil {
				tc.want["msg"] = "request"
				want = append(want, tc.want)
			}
			for _, fields := range records {
				if took, ok := fields["duration"].(float64); !ok || took < 0 {
					t.Errorf("duration is %v", fields["duration"])
				}
				delete(fields, "duration")
				delete(fields, "time")
			}
			if diff := cmp.Diff(want, records); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPanicIsAnsweredAndRecordedWithoutArguments(t *testing.T) {
	t.Parallel()
	key := [16]byte{0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	mux := http.NewServeMux()
	mux.Handle("/", web.Wrap(func(http.ResponseWriter, *http.Request) error { return burst(key) }))
	var got answer
	records := logOf(t, mux, func(url string) { got, _ = send(t, http.MethodGet, url, "", "") })

	if got.Status != http.StatusInternalServerError || strings.Contains(got.Body, "panic") {
		t.Errorf("the client sees %d %s", got.Status, got.Body)
	}
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	text, _ := records[0]["error"].(string)
	if !strings.HasPrefix(text, "panic: a [16]uint8 at enkeyserver/internal/web_test.burst:") {
		t.Errorf("error is %q", text)
	}
	if strings.Contains(text, "0x") || strings.Contains(text, "222") {
		t.Errorf("the record holds arguments: %s", text)
	}
}

//go:noinline
func burst(key [16]byte) error { panic(key) }

// Outside of Wrap, in the handlers of others, a panic closes the connection.
func TestPanicOutsideOfWrap(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })
	records := logOf(t, h, func(url string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
			t.Errorf("it was answered with %d", resp.StatusCode)
		}
	})
	if len(records) != 1 || records[0]["status"] != 500.0 || records[0]["aborted"] != true {
		t.Errorf("records %v", records)
	}
}

// When the client hangs up, what fails for that reason must wake nobody. Work
// that is detached from the client fails for another one.
func TestClientThatHangsUp(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		fail func(ctx context.Context) error
		want map[string]any
	}{
		{"work for the client", func(ctx context.Context) error { return ctx.Err() }, map[string]any{"level": "INFO", "status": 499.0}},
		{"a failure of its own", func(context.Context) error { return errors.New("disk full") }, map[string]any{"level": "ERROR", "status": 500.0}},
		{"detached work", func(ctx context.Context) error {
			_, end := web.Detach(ctx)
			end()
			return context.Canceled
		}, map[string]any{"level": "ERROR", "status": 500.0}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{})
			mux := http.NewServeMux()
			mux.Handle("/", web.Wrap(func(_ http.ResponseWriter, r *http.Request) error {
				close(arrived)
				<-r.Context().Done()
				return tc.fail(r.Context())
			}))
			records := logOf(t, mux, func(url string) { hangUpAfter(t, url, arrived) })
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			got := map[string]any{"level": records[0]["level"], "status": records[0]["status"]}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

// hangUpAfter sends a request, and leaves when it has arrived.
func hangUpAfter(t *testing.T, url string, arrived <-chan struct{}) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-arrived
		hangUp()
	}()
	if resp, err := http.DefaultClient.Do(r); err == nil {
		resp.Body.Close()
		t.Error("it was answered")
	}
}

// Wrap records by itself, but not twice.
func TestRecordOnce(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle("/", web.Record(nil, web.Wrap(ok)))
	records := logOf(t, mux, func(url string) { send(t, http.MethodGet, url, "", "") })
	if len(records) != 1 {
		t.Errorf("%d records of one request", len(records))
	}
}

func TestNoteFromManyGoroutines(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle("/", web.Wrap(func(w http.ResponseWriter, r *http.Request) error {
		var notes sync.WaitGroup
		for range 20 {
			notes.Go(func() { web.Note(r.Context(), slog.Int("n", 1)) })
		}
		notes.Wait()
		return ok(w, r)
	}))
	if records := logOf(t, mux, func(url string) { send(t, http.MethodGet, url, "", "") }); len(records) != 1 {
		t.Errorf("%d records", len(records))
	}
	web.Note(t.Context(), slog.Int("n", 1)) // outside of a request it does nothing
	web.Quiet(t.Context())
}

func decodeJSON(resp *http.Response, into any) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// lockedBuffer is written by the server and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
