package operator_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/operator"
)

func TestTrigger(t *testing.T) {
	t.Parallel()
	jobs := http.NewServeMux()
	jobs.HandleFunc("POST /does", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{\"epochs\": 1,\n \"batches\": 2}\n") })
	jobs.HandleFunc("POST /fails", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"code":"job_failed"}`)
	})
	jobs.HandleFunc("POST /page", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, "<html>\nno upstream\n")
	})
	jobs.Handle("POST /moved", http.RedirectHandler("/does", http.StatusFound))
	server := httptest.NewServer(jobs)
	t.Cleanup(server.Close)

	for _, tc := range []struct {
		why  string
		args []string
		want answer
	}{
		{"a job that does its work", []string{"BASE/does"}, answer{0, `BASE/does {"epochs":1,"batches":2}` + "\n", ""}},
		{
			"for programs",
			[]string{"-o", "json", "BASE/does"},
			answer{0, "{\n  \"url\": \"BASE/does\",\n  \"status\": 200,\n  \"answer\": {\n    \"epochs\": 1,\n    \"batches\": 2\n  }\n}\n", ""},
		},
		{
			"one that fails keeps no other from its turn",
			[]string{"BASE/fails", "BASE/does"},
			answer{1, `BASE/does {"epochs":1,"batches":2}` + "\n", `enctl: BASE/fails answers 500: {"code":"job_failed"}` + "\n"},
		},
		{"a page of a proxy stays on one line", []string{"BASE/page"}, answer{1, "", `enctl: BASE/page answers 502: "\u003chtml\u003e\nno upstream"` + "\n"}},
		{"a redirect is no work", []string{"BASE/moved"}, answer{1, "", `enctl: BASE/moved answers 302: ""` + "\n"}},
		{"nothing to call", nil, answer{2, "", `enctl: say which URLs to call: see "enctl help trigger"` + "\n"}},
		{"a host alone", []string{"export-worker:8080"}, answer{2, "", `enctl: "export-worker:8080" is no URL that can be called: it must be like http://export-batcher:8080/create-batches: see "enctl help trigger"` + "\n"}},
		{"backwards in time", []string{"-every", "-1s", "BASE/does"}, answer{2, "", `enctl: -every and -timeout must be positive: see "enctl help trigger"` + "\n"}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			args := []string{"trigger"}
			for _, a := range tc.args {
				args = append(args, strings.ReplaceAll(a, "BASE", server.URL))
			}
			got := (&desk{t: t}).run("", args...)
			got.Out = strings.ReplaceAll(got.Out, server.URL, "BASE")
			got.Err = strings.ReplaceAll(got.Err, server.URL, "BASE")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTriggerNobodyThere(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if got := (&desk{t: t}).run("", "trigger", gone.URL); got.Status != 1 || strings.Count(got.Err, "\n") != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTriggerGivesUpWaiting(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	if got := (&desk{t: t}).run("", "trigger", "-timeout", "50ms", server.URL); got.Status != 1 || got.Out != "" {
		t.Errorf("%+v", got)
	}
}

// It goes on after failures, never calls twice at once, and ends when it is told to.
func TestTriggerAgain(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls, at atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if at.Add(1) > 1 {
			t.Error("it calls twice at once")
		}
		defer at.Add(-1)
		switch calls.Add(1) {
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 5:
			stop()
		}
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(server.Close)

	var out, errOut bytes.Buffer
	s := &operator.Session{In: strings.NewReader(""), Out: &out, Err: &errOut, Now: time.Now}
	if status := operator.Run(ctx, s, []string{"trigger", "-every", "1ms", server.URL}); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if n := calls.Load(); n != 5 {
		t.Errorf("%d calls, want 5", n)
	}
	if want := fmt.Sprintf("enctl: %s answers 503: {}\n", server.URL); errOut.String() != want {
		t.Errorf("errors %q, want %q", errOut.String(), want)
	}
}
