package app

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/web"
)

const (
	// readyTimeout bounds a look at everything that must be ready.
	readyTimeout = 2 * time.Second

	// readyAge is for how long a look counts. The port is open to everybody:
	// however often they ask, the database is asked once a second.
	readyAge = time.Second
)

// health knows whether the service can do its work.
type health struct {
	checks []func(context.Context) error

	mu     sync.Mutex // held during a look, so that there is one at a time
	looked time.Time
	err    error
}

// serveReady answers GET /health: probes, every few seconds, from each of the
// platform's checkers. 200 only when the service can do its work now.
func (h *health) serveReady(w http.ResponseWriter, r *http.Request) error {
	web.Quiet(r.Context())
	if err := h.ready(r.Context()); err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// writeNotReady answers 503, which no kind of error has: to a balancer it means
// "ask another instance".
func writeNotReady(w http.ResponseWriter, _ *http.Request, _ error) {
	web.WriteJSON(w, http.StatusServiceUnavailable, map[string]string{
		"error": "the service cannot do its work now",
		"code":  "not_ready",
	})
}

// serveLive answers GET /live: the process runs.
func serveLive(w http.ResponseWriter, r *http.Request) error {
	web.Quiet(r.Context())
	web.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// ready gives the result of the last look, or looks. The look goes on when the
// one who asked hangs up: others wait for it.
func (h *health) ready(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.looked) < readyAge {
		return h.err
	}
	h.err = h.look(context.WithoutCancel(ctx))
	h.looked = time.Now()
	return h.err
}

// look asks all checks at once, and does not wait for one that ignores its
// context.
func (h *health) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var checks errgroup.Group
	for _, check := range h.checks {
		checks.Go(func() error { return check(ctx) })
	}
	done := make(chan error, 1)
	go func() { done <- checks.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("not ready within " + readyTimeout.String())
	}
}
