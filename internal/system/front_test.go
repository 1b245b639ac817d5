package system_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/phone"
	"enkeyserver/internal/system"
)

// front stands before the instances of the exposure service as a load balancer
// does, and in a network as bad as one likes.
type front struct {
	*httptest.Server
	sys      *system.System
	lost     atomic.Int64 // answers that were lost on the way back
	broken   atomic.Int64 // requests that were broken off half way
	failures atomic.Int64 // instances that did not answer
}

// newFront loses one answer in ten, and breaks off one request in twenty at any
// point of its way.
func newFront(t *testing.T, sys *system.System) *front {
	t.Helper()
	f := &front{sys: sys}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

// server is the key server as a phone sees it, behind the front.
func (f *front) server(app string) phone.Server {
	return phone.Server{URL: f.URL + "/v1/publish", App: app, Pause: 50 * time.Millisecond}
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	ctx := r.Context()
	if rand.IntN(20) == 0 {
		f.broken.Add(1)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(15*time.Millisecond))
		defer cancel()
	}
	status, answer, err := f.forward(ctx, r, body)
	if err != nil {
		f.failures.Add(1)
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if rand.IntN(10) == 0 {
		f.lost.Add(1)
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

func (f *front) forward(ctx context.Context, r *http.Request, body []byte) (status int, answer []byte, err error) {
	p, err := f.sys.Some(system.Exposure)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, p.URL()+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = r.Header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}
