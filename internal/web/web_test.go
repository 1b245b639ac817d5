package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/web"
)

// answer is what a client sees.
type answer struct {
	Status int
	Body   string
}

// serve gives the URL of a real server, which ends with the test.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func send(t *testing.T, method, url, contentType, body string) (answer, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, string(text)}, resp.Header
}

func TestWrapAnswersErrors(t *testing.T) {
	t.Parallel()
	const hidden = `{"error":"the server could not do this now, try again later","code":"internal_error"}` + "\n"
	for _, tc := range []struct {
		why  string
		err  error
		want answer
	}{
		{"invalid", errs.Invalid("bad_request", "too many keys"), answer{400, `{"error":"too many keys","code":"bad_request"}` + "\n"}},
		{"denied", errs.Denied("unknown", "who are you"), answer{401, `{"error":"who are you","code":"unknown"}` + "\n"}},
		{"not found", errs.NotFound("not_found", "nothing here"), answer{404, `{"error":"nothing here","code":"not_found"}` + "\n"}},
		{"conflict", errs.Conflict("exists", "it exists"), answer{409, `{"error":"it exists","code":"exists"}` + "\n"}},
		{"busy", errs.New(errs.KindBusy, "busy", "later"), answer{429, `{"error":"later","code":"busy"}` + "\n"}},
		{"too large", errs.New(errs.KindTooLarge, "bad_request", "shorter"), answer{413, `{"error":"shorter","code":"bad_request"}` + "\n"}},
		{"wrong type", errs.New(errs.KindWrongType, "bad_request", "JSON"), answer{415, `{"error":"JSON","code":"bad_request"}` + "\n"}},
		{"wrong method", errs.New(errs.KindWrongMethod, "bad_request", "POST"), answer{405, `{"error":"POST","code":"bad_request"}` + "\n"}},
		{"a chain keeps its kind", fmt.Errorf("publish: %w", errs.Invalid("bad_request", "too many keys")), answer{400, `{"error":"too many keys","code":"bad_request"}` + "\n"}},
		{"nobody's error is ours, and its words stay here", errors.New("relation exposure does not exist"), answer{500, hidden}},
		{"a cause stays here", errs.From(errors.New("disk full"), errs.Internal, "internal_error", "not stored"), answer{500, `{"error":"not stored","code":"internal_error"}` + "\n"}},
		{"a context that ended inside is a failure like others", context.Canceled, answer{500, hidden}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			url := serve(t, web.Wrap(func(http.ResponseWriter, *http.Request) error { return tc.err }))
			got, header := send(t, http.MethodPost, url, "application/json", "{}")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if got := header.Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
		})
	}
}

// Publish has an answer of its own shape: whatever goes wrong, the handler set
// that brought the shape writes it, and finds its headers as it left them.
func TestResponderBringsItsOwnErrors(t *testing.T) {
	t.Parallel()
	padded := web.Responder{Error: func(w http.ResponseWriter, _ *http.Request, err error) {
		w.WriteHeader(errs.KindOf(err).Status())
		fmt.Fprintf(w, "%s ....", errs.CodeOf(err))
	}}
	for _, tc := range []struct {
		why  string
		h    web.Handler
		want answer
	}{
		{"an error", func(http.ResponseWriter, *http.Request) error { return errs.Invalid("no_keys", "none") }, answer{400, "no_keys ...."}},
		{"a panic", func(http.ResponseWriter, *http.Request) error { panic("boom") }, answer{500, "internal_error ...."}},
		{"a wrong method", web.Methods(nil, http.MethodGet), answer{405, "bad_request ...."}},
		{"maintenance", web.Maintenance(true, nil), answer{429, "maintenance ...."}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			url := serve(t, padded.Wrap(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("X-Api-Version", "v1")
				return tc.h(w, r)
			}))
			got, header := send(t, http.MethodPost, url, "", "")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if got := header.Get("X-Api-Version"); got != "v1" {
				t.Errorf("the handler's header is %q", got)
			}
		})
	}
}

func TestHalfAnAnswerIsCutOff(t *testing.T) {
	t.Parallel()
	for why, fail := range map[string]func() error{
		"an error after the first bytes": func() error { return errors.New("disk full") },
		"a panic after the first bytes":  func() error { panic("boom") },
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			url := serve(t, web.Wrap(func(w http.ResponseWriter, _ *http.Request) error {
				_, _ = io.WriteString(w, "first")
				_ = http.NewResponseController(w).Flush()
				return fail()
			}))
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("the client took %q for a whole answer", body)
			}
		})
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	url := serve(t, web.Wrap(web.Methods(ok, http.MethodPost, http.MethodGet)))
	for _, tc := range []struct {
		method string
		want   int
	}{
		{http.MethodPost, 200},
		{http.MethodGet, 200},
		{http.MethodHead, 405}, // a probe must not start a job
		{http.MethodDelete, 405},
		{"BREW", 405},
	} {
		got, header := send(t, tc.method, url, "", "")
		if got.Status != tc.want {
			t.Errorf("%s: status %d, want %d", tc.method, got.Status, tc.want)
		}
		if allow := header.Get("Allow"); tc.want == 405 && allow != "POST, GET" {
			t.Errorf("%s: Allow is %q", tc.method, allow)
		}
	}
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		on    bool
		want  int
		retry string
	}{
		{false, 200, ""},
		{true, 429, "300"},
	} {
		url := serve(t, web.Wrap(web.Maintenance(tc.on, ok)))
		got, header := send(t, http.MethodPost, url, "", "")
		if got.Status != tc.want || header.Get("Retry-After") != tc.retry {
			t.Errorf("on=%t: status %d, Retry-After %q; want %d, %q", tc.on, got.Status, header.Get("Retry-After"), tc.want, tc.retry)
		}
	}
}

func TestDetach(t *testing.T) {
	t.Parallel()
	type key struct{}
	start := func(t *testing.T) (ctx context.Context, hangUp, endProcess, end context.CancelFunc) {
		process, endProcess := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
		request, hangUp := context.WithCancel(web.Process(process))
		ctx, end = web.Detach(request)
		t.Cleanup(func() { end(); hangUp(); endProcess() })
		return ctx, hangUp, endProcess, end
	}
	t.Run("outlives the request, with its values", func(t *testing.T) {
		t.Parallel()
		ctx, hangUp, _, _ := start(t)
		hangUp()
		if ctx.Err() != nil || ctx.Value(key{}) != "kept" {
			t.Errorf("error %v, value %v", ctx.Err(), ctx.Value(key{}))
		}
	})
	t.Run("ends with the process", func(t *testing.T) {
		t.Parallel()
		ctx, _, endProcess, _ := start(t)
		endProcess()
		<-ctx.Done()
	})
	t.Run("ends when it is cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, _, _, end := start(t)
		end()
		<-ctx.Done()
	})
	t.Run("outside of a server there is no process to end with", func(t *testing.T) {
		t.Parallel()
		request, hangUp := context.WithCancel(t.Context())
		ctx, end := web.Detach(request)
		defer end()
		hangUp()
		if ctx.Err() != nil {
			t.Error(ctx.Err())
		}
	})
}

func ok(w http.ResponseWriter, _ *http.Request) error {
	web.WriteJSON(w, http.StatusOK, map[string]bool{"ok": true})
	return nil
}
