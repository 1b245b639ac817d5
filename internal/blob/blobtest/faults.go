package blobtest

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"enkeyserver/internal/blob/emulators"
)

// Proxy stands between a bucket and its emulator, and goes wrong when it is told
// to.
type Proxy struct {
	URL string // of the bucket behind it

	forward http.Handler
	mu      sync.Mutex
	armed   []armed
}

type armed struct {
	times   int
	concern func(*http.Request) bool
	fault   Fault
}

// Fault answers a request in its way; forward is how it would be answered.
type Fault func(w http.ResponseWriter, r *http.Request, forward http.Handler)

// NewProxy puts a proxy before the bucket of a URL.
func NewProxy(t testing.TB, bucketURL string) *Proxy {
	t.Helper()
	target, err := emulators.Address(bucketURL)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{forward: forwardTo(target, http.DefaultTransport)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.URL, err = emulators.At(bucketURL, strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// forwardTo keeps the host that a client has signed; others must see their own.
func forwardTo(address string, transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: address})
			if strings.HasPrefix(r.In.Header.Get("Authorization"), "AWS4-") {
				r.Out.Host = r.In.Host
			}
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// Arm lets the next requests of a kind fail.
func (p *Proxy) Arm(times int, concern func(*http.Request) bool, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = append(p.armed, armed{times, concern, fault})
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := p.next(r); fault != nil {
		fault(w, r, p.forward)
		return
	}
	p.forward.ServeHTTP(w, r)
}

func (p *Proxy) next(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.armed {
		if a := &p.armed[i]; a.times > 0 && a.concern(r) {
			a.times--
			return a.fault
		}
	}
	return nil
}

// Anything is each request.
func Anything(*http.Request) bool { return true }

// Writing is a request that stores an object.
func Writing(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodPost }

// Deleting is a request that deletes one.
func Deleting(r *http.Request) bool { return r.Method == http.MethodDelete }

// Downloading is a request for the body of an object.
func Downloading(r *http.Request) bool {
	q := r.URL.Query()
	return r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, "/storage/v1/") && !q.Has("list-type") && !q.Has("comp")
}

// Answer answers without asking.
func Answer(status int) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
	}
}

// Lose lets a request take place whose answer nobody gets. What is done
// meanwhile is done before anybody knows of the loss.
func Lose(meanwhile func()) Fault {
	return func(_ http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(httptest.NewRecorder(), r)
		meanwhile()
		panic(http.ErrAbortHandler)
	}
}

// Wait lets something happen before a request takes place.
func Wait(meanwhile func()) Fault {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		meanwhile()
		forward.ServeHTTP(w, r)
	}
}

// HangUp breaks the connection in the middle of what the client sends.
func HangUp(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// Cut breaks the connection in the middle of the answer's body.
func Cut(meanwhile func()) Fault {
	return func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		body := record(w, r, forward)
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		meanwhile()
		panic(http.ErrAbortHandler)
	}
}

// Drip sends the answer's body a byte at a time, until the client has enough.
func Drip(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, b := range record(w, r, forward) {
		if _, err := w.Write([]byte{b}); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// Silence takes a request and says nothing.
func Silence(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// record gives the body of the true answer, whose head goes to w.
func record(w http.ResponseWriter, r *http.Request, forward http.Handler) []byte {
	answer := httptest.NewRecorder()
	forward.ServeHTTP(answer, r)
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	return answer.Body.Bytes()
}

// oneByOne hands requests on one after the other. Versitygw reads an object and
// its attributes by several looks at a folder, and looks at the condition of a
// write before it writes: between the two another request may come. In S3 each
// of them is one step.
type oneByOne struct {
	http.RoundTripper
	mu sync.Mutex
}

// RoundTrip implements http.RoundTripper. The body that is sent after the
// answer's head comes from an open file.
func (a *oneByOne) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.RoundTripper.RoundTrip(r)
}
