package blob_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
)

func TestHandler(t *testing.T) {
	t.Parallel()
	memory := blob.NewMemory()
	if err := memory.Create(t.Context(), "us/index.txt", blobtest.Text("text")); err != nil {
		t.Fatal(err)
	}
	for kind, bucket := range map[string]blob.Bucket{"seekable": memory, "a stream": streaming{memory}} {
		server := httptest.NewServer(blob.Handler(bucket))
		t.Cleanup(server.Close)
		for _, tc := range []struct {
			why, method, path string
			status            int
			body              string
		}{
			{"an object", "GET", "/us/index.txt", 200, "text"},
			{"its head only", "HEAD", "/us/index.txt", 200, ""},
			{"no object", "GET", "/us/other", 404, "no such object\n"},
			{"a folder is none", "GET", "/us/", 404, "no such object\n"},
			{"the hidden folder is none", "GET", "/.bucket/lock", 404, "no such object\n"},
			{"nor is the root", "GET", "/", 404, "no such object\n"},
			{"out of the bucket", "GET", "/%2e%2e/etc/passwd", 404, "no such object\n"},
			{"read-only", "PUT", "/us/index.txt", 405, "only GET and HEAD\n"},
		} {
			t.Run(kind+"/"+tc.why, func(t *testing.T) {
				answer, body := ask(t, tc.method, server.URL+tc.path, "")
				if answer.StatusCode != tc.status || body != tc.body {
					t.Fatalf("status %d and %q, want %d and %q", answer.StatusCode, body, tc.status, tc.body)
				}
				if tc.status != 200 {
					return
				}
				for name, want := range map[string]string{
					"Content-Type": "text/plain", "Cache-Control": "public, max-age=300", "Content-Length": "4",
				} {
					if got := answer.Header.Get(name); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
			})
		}
	}
}

func TestHandlerNotModified(t *testing.T) {
	t.Parallel()
	b := blob.NewMemory()
	server := httptest.NewServer(blob.Handler(b))
	t.Cleanup(server.Close)
	if err := b.Replace(t.Context(), "a", 1, blobtest.Text("one")); err != nil {
		t.Fatal(err)
	}
	first, _ := ask(t, "GET", server.URL+"/a", "")
	if again, _ := ask(t, "GET", server.URL+"/a", first.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("status %d for an ETag that is still right, want 304", again.StatusCode)
	}
	if err := b.Replace(t.Context(), "a", 2, blobtest.Text("two")); err != nil {
		t.Fatal(err)
	}
	changed, body := ask(t, "GET", server.URL+"/a", first.Header.Get("ETag"))
	if changed.StatusCode != http.StatusOK || body != "two" {
		t.Errorf("status %d and %q after a change, want 200 and the new text", changed.StatusCode, body)
	}
}

func ask(t *testing.T, method, url, etag string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// streaming is a bucket whose bodies cannot seek, as those of a cloud.
type streaming struct{ blob.Bucket }

func (s streaming) Open(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	body, info, err := s.Bucket.Open(ctx, name)
	return struct{ io.ReadCloser }{body}, info, err
}
