package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

// The bounds of a server. Work that takes longer than a request of a phone
// moves its own deadlines; see package job.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	maxBodyBytes      = 128 << 10 // twice what a phone may send
)

// A stop takes 30 seconds at most, which is what schedulers of containers wait
// before they kill: requests in flight may finish for most of it, then detached
// work is told to end, and has the rest to leave things tidy.
const (
	finishTimeout = 24 * time.Second
	tidyTimeout   = 5 * time.Second
)

// Serve serves mux until ctx ends, and then stops in order: new connections and
// new requests, those to /health among them, are refused at once, and requests
// in flight finish. It adds to mux
// GET /health, which asks every ready function, and GET /live; metrics have a
// port of their own.
//
// Its record "listening" has the attributes addr and metrics_addr, which say
// the ports when the settings leave the choice open.
func (a *App) Serve(ctx context.Context, mux *http.ServeMux, ready ...func(context.Context) error) error {
	h := &health{checks: ready}
	mux.Handle("GET /health", web.Responder{Error: writeNotReady}.Wrap(h.serveReady))
	mux.Handle("GET /live", web.Wrap(serveLive))

	listener, err := listen(ctx, "PORT", a.settings.Port)
	if err != nil {
		return err
	}
	defer listener.Close()
	attrs := []slog.Attr{slog.String("addr", listener.Addr().String())}
	if a.settings.MetricsPort != 0 {
		metrics, err := a.serveMetrics(ctx)
		if err != nil {
			return err
		}
		defer metrics.Close()
		attrs = append(attrs, slog.String("metrics_addr", metrics.Addr))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "listening", attrs...)
	return a.serveUntil(ctx, listener, mux)
}

// serveUntil serves until ctx ends or the listener fails, and stops.
func (a *App) serveUntil(ctx context.Context, listener net.Listener, mux *http.ServeMux) error {
	process, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := newServer(web.MaxBytes(maxBodyBytes, web.Record(a.log, mux)))
	server.BaseContext = func(net.Listener) context.Context { return web.Process(process) }

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	a.log.Info("stopping: requests in flight finish")
	return a.shutdown(server, end)
}

// shutdown waits for the requests in flight, then for their tidying up after
// end, and closes what is still open: a stop is not an error for that.
func (a *App) shutdown(server *http.Server, end context.CancelFunc) error {
	timer := time.AfterFunc(a.finish, end)
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), a.finish+a.tidy)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		a.log.Error("requests in flight did not finish in time and were cut off")
		return server.Close()
	}
	return err
}

// serveMetrics serves /metrics until the server that it gives is closed.
func (a *App) serveMetrics(ctx context.Context) (*http.Server, error) {
	handler, err := telemetry.MetricsHandler()
	if err != nil {
		return nil, err
	}
	listener, err := listen(ctx, "METRICS_PORT", a.settings.MetricsPort)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", handler)
	server := newServer(mux)
	server.Addr = listener.Addr().String()
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("metrics are not served any more", "error", err)
		}
	}()
	return server, nil
}

func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// What net/http itself says holds the client's address.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
}

func listen(ctx context.Context, variable string, port int) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("%s: port %d cannot be listened on, set another one: %w", variable, port, err)
	}
	return listener, nil
}
