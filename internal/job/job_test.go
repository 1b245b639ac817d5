package job_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/job"
	"enkeyserver/internal/store"
	"enkeyserver/internal/web"
)

var noon = time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)

type done struct {
	Epochs  int `json:"epochs"`
	Batches int `json:"batches"`
}

// runner runs jobs at noon.
func runner(t *testing.T) job.Runner {
	t.Helper()
	return job.Runner{Store: &store.DB{DB: dbtest.New(t)}, Now: func() time.Time { return noon }}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// call does what a scheduler does. Status 0 is no answer.
func call(ctx context.Context, method, url string) (status int, body string) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
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

func works(context.Context) (any, error) { return done{1, 2}, nil }

func TestAnswers(t *testing.T) {
	t.Parallel()
	const again = `{"error":"the job seal did not finish, call it again","code":"job_failed"}` + "\n"
	recorded := map[string]time.Time{"seal": noon}
	for _, tc := range []struct {
		why      string
		method   string
		f        job.Func
		status   int
		body     string
		progress map[string]time.Time
	}{
		{"work done", "POST", works, 200, `{"epochs":1,"batches":2}` + "\n", recorded},
		{"old schedulers send GET", "GET", works, 200, `{"epochs":1,"batches":2}` + "\n", recorded},
		{"nothing to say", "POST", func(context.Context) (any, error) { return nil, nil }, 200, "{}\n", recorded},
		{"a failure", "POST", func(context.Context) (any, error) { return done{}, errors.New("no bucket") }, 500, again, nil},
		{"a failure of any kind is to be called again", "POST", func(context.Context) (any, error) {
			return nil, errs.Conflict("exists", "the object exists")
		}, 500, again, nil},
		{"a panic", "POST", func(context.Context) (any, error) { panic("boom") }, 500, `{"error":"the server could not do this now, try again later","code":"internal_error"}` + "\n", nil},
		{"a probe is no scheduler", "HEAD", works, 405, "", nil},
		{"nor is this", "DELETE", works, 405, `{"error":"the method must be POST, GET","code":"bad_request"}` + "\n", nil},
	} {
		for kind, serves := range map[string]func(job.Runner, string, time.Duration, job.Func) http.Handler{
			"exclusive": job.Runner.Exclusive,
			"shared":    job.Runner.Shared,
		} {
			t.Run(kind+": "+tc.why, func(t *testing.T) {
				t.Parallel()
				r := runner(t)
				url := serve(t, serves(r, "seal", time.Minute, tc.f))
				for range 2 { // the first leaves nothing behind that stops the second
					status, body := call(t.Context(), tc.method, url)
					if status != tc.status || body != tc.body {
						t.Errorf("answer %d %s, want %d %s", status, body, tc.status, tc.body)
					}
				}
				if diff := cmp.Diff(tc.progress, progress(t, r)); diff != "" {
					t.Errorf("progress (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func progress(t *testing.T, r job.Runner) map[string]time.Time {
	t.Helper()
	at, err := r.Store.Progress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(at) == 0 {
		return nil
	}
	for name := range at {
		at[name] = at[name].UTC()
	}
	return at
}

func TestExclusiveIsOneAtATime(t *testing.T) {
	t.Parallel()
	r := runner(t)
	started, finish := make(chan struct{}), make(chan struct{})
	slow := func(context.Context) (any, error) {
		close(started)
		<-finish
		return done{1, 0}, nil
	}
	first := serve(t, r.Exclusive("seal", time.Minute, slow))
	second := serve(t, r.Exclusive("seal", time.Minute, works)) // another instance
	other := serve(t, r.Exclusive("cleanup", time.Minute, works))

	answered := make(chan int, 1)
	go func() {
		status, _ := call(t.Context(), http.MethodPost, first)
		answered <- status
	}()
	<-started
	if status, body := call(t.Context(), http.MethodPost, second); status != 200 || body != `{"busy":true}`+"\n" {
		t.Errorf("while one runs, the other answers %d %s", status, body)
	}
	if diff := cmp.Diff(map[string]time.Time(nil), progress(t, r)); diff != "" {
		t.Errorf("being busy is progress (-want +got):\n%s", diff)
	}
	if status, body := call(t.Context(), http.MethodPost, other); status != 200 || !strings.Contains(body, "epochs") {
		t.Errorf("a job of another name answers %d %s", status, body)
	}
	close(finish)
	if status := <-answered; status != 200 {
		t.Errorf("the first answers %d", status)
	}
	if status, body := call(t.Context(), http.MethodPost, second); status != 200 || !strings.Contains(body, "epochs") {
		t.Errorf("after it, the other answers %d %s", status, body)
	}
}

// A killed run leaves its lease behind. It is held for the job's time and the
// margin, and then it counts for nothing.
func TestLeaseOfAKilledRun(t *testing.T) {
	t.Parallel()
	r := runner(t)
	ctx := t.Context()
	for _, tc := range []struct {
		why   string
		until time.Time
		want  string
	}{
		{"still held", noon.Add(time.Second), `{"busy":true}` + "\n"},
		{"run out", noon, `{"epochs":1,"batches":2}` + "\n"},
	} {
		if _, ok, err := r.Store.TakeLease(ctx, tc.why, noon.Add(-time.Minute), tc.until); err != nil || !ok {
			t.Fatal(ok, err)
		}
		url := serve(t, r.Exclusive(tc.why, time.Minute, works))
		if status, body := call(ctx, http.MethodPost, url); status != 200 || body != tc.want {
			t.Errorf("%s: answer %d %s, want %s", tc.why, status, body, tc.want)
		}
	}
}

func TestSharedRunsAtOnce(t *testing.T) {
	t.Parallel()
	r := runner(t)
	var both sync.WaitGroup
	both.Add(2)
	url := serve(t, r.Shared("do-work", time.Minute, func(context.Context) (any, error) {
		both.Done()
		both.Wait() // for the other one
		return nil, nil
	}))
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			if status, body := call(t.Context(), http.MethodPost, url); status != 200 {
				t.Errorf("answer %d %s", status, body)
			}
		})
	}
	calls.Wait()
}

func TestWorkEndsInTime(t *testing.T) {
	t.Parallel()
	r := runner(t)
	url := serve(t, r.Exclusive("seal", 100*time.Millisecond, func(ctx context.Context) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	for range 2 { // the lease was returned, although the time for work is over
		if status, body := call(t.Context(), http.MethodPost, url); status != 500 {
			t.Errorf("answer %d %s", status, body)
		}
	}
}

func TestProgressIsRecordedEvenWhenTheTimeIsJustOver(t *testing.T) {
	t.Parallel()
	r := runner(t)
	url := serve(t, r.Shared("seal", time.Millisecond, func(ctx context.Context) (any, error) {
		<-ctx.Done()
		return done{1, 1}, nil
	}))
	if status, body := call(t.Context(), http.MethodPost, url); status != 200 {
		t.Errorf("answer %d %s", status, body)
	}
	if diff := cmp.Diff(map[string]time.Time{"seal": noon}, progress(t, r)); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

func TestSchedulerThatHangsUpDoesNotEndTheWork(t *testing.T) {
	t.Parallel()
	r := runner(t)
	started, hungUp := make(chan struct{}), make(chan struct{})
	worked := make(chan error, 1)
	h := r.Exclusive("seal", time.Minute, func(ctx context.Context) (any, error) {
		close(started)
		<-hungUp
		worked <- ctx.Err()
		return done{1, 1}, nil
	})
	served := make(chan struct{})
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer close(served)
		go func() {
			<-req.Context().Done()
			close(hungUp)
		}()
		h.ServeHTTP(w, req)
	}))

	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-started
		hangUp()
	}()
	if status, _ := call(ctx, http.MethodPost, url); status != 0 {
		t.Errorf("answered with %d", status)
	}
	if err := <-worked; err != nil {
		t.Errorf("the work was ended: %v", err)
	}
	<-served
	if diff := cmp.Diff(map[string]time.Time{"seal": noon}, progress(t, r)); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

func TestEndOfTheProcessEndsTheWork(t *testing.T) {
	t.Parallel()
	r := runner(t)
	started := make(chan struct{})
	h := r.Exclusive("seal", time.Minute, func(ctx context.Context) (any, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	process, end := context.WithCancel(t.Context())
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h.ServeHTTP(w, req.WithContext(web.Process(process)))
	}))
	go func() {
		<-started
		end()
	}()
	if status, body := call(t.Context(), http.MethodPost, url); status != 500 {
		t.Errorf("answer %d %s", status, body)
	}
	if _, ok, err := r.Store.TakeLease(t.Context(), "seal", noon, noon.Add(time.Minute)); err != nil || !ok {
		t.Errorf("the lease was not returned: %t, %v", ok, err)
	}
}

func TestDatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	for kind, serves := range map[string]func(job.Runner, string, time.Duration, job.Func) http.Handler{
		"exclusive": job.Runner.Exclusive,
		"shared":    job.Runner.Shared,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := runner(t)
			r.Store.Close()
			url := serve(t, serves(r, "seal", time.Minute, works))
			if status, body := call(t.Context(), http.MethodPost, url); status != 500 {
				t.Errorf("answer %d %s", status, body)
			}
		})
	}
}

// A job may take longer than a server gives to requests of phones.
func TestJobOutlivesTheServersDeadlines(t *testing.T) {
	t.Parallel()
	r := runner(t)
	s := httptest.NewUnstartedServer(r.Shared("seal", time.Minute, func(ctx context.Context) (any, error) {
		timer := time.NewTimer(100 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			return done{1, 1}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}))
	s.Config.ReadTimeout, s.Config.WriteTimeout = 20*time.Millisecond, 20*time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	if status, body := call(t.Context(), http.MethodPost, s.URL); status != 200 {
		t.Errorf("answer %d %s", status, body)
	}
}

func TestRunIsOnTheRecord(t *testing.T) {
	t.Parallel()
	r := runner(t)
	for _, tc := range []struct {
		why  string
		f    job.Func
		want map[string]any
	}{
		{"done", works, map[string]any{"job": "seal", "outcome": "success", "did": map[string]any{"epochs": 1.0, "batches": 2.0}}},
		{"failed half way", func(context.Context) (any, error) { return done{Epochs: 1}, errors.New("no bucket") }, map[string]any{
			"job": "seal", "outcome": "failure", "did": map[string]any{"epochs": 1.0, "batches": 0.0},
			"error": "the job seal did not finish, call it again: no bucket",
		}},
		{"panicked", func(context.Context) (any, error) { panic("boom") }, map[string]any{"job": "seal", "outcome": "failure"}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			served := make(chan struct{})
			h := web.Record(slog.New(slog.NewJSONHandler(&log, nil)), r.Shared("seal", time.Minute, tc.f))
			url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				defer close(served)
				h.ServeHTTP(w, req)
			}))
			call(t.Context(), http.MethodPost, url)
			<-served
			var record map[string]any
			if err := json.Unmarshal(log.Bytes(), &record); err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			for name := range tc.want {
				got[name] = record[name]
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}
