package app

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// ServeGRPC serves a gRPC server until ctx ends, and then stops in order, as
// Serve does: callers are told to go elsewhere, and requests in flight finish.
// It adds the standard health service, which asks every ready function;
// metrics have a port of their own.
//
// Its record "listening" is that of Serve.
func (a *App) ServeGRPC(ctx context.Context, server *grpc.Server, ready ...func(context.Context) error) error {
	h := &grpcHealth{health: health{checks: ready}, services: server.GetServiceInfo()}
	healthpb.RegisterHealthServer(server, h)

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
	return a.serveGRPCUntil(ctx, listener, server, h)
}

// serveGRPCUntil serves until ctx ends or the listener fails, and stops.
func (a *App) serveGRPCUntil(ctx context.Context, listener net.Listener, server *grpc.Server, h *grpcHealth) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	a.log.Info("stopping: requests in flight finish")
	h.stopping.Store(true)
	timer := time.AfterFunc(a.finish+a.tidy, func() {
		a.log.Error("requests in flight did not finish in time and were cut off")
		server.Stop()
	})
	defer timer.Stop()
	server.GracefulStop()
	return <-failed
}

// grpcHealth answers probes, every few seconds, from each of the platform's
// checkers. It says SERVING only when the service can do its work now. Whoever
// asks to be told of changes is told that this is not offered, which to the
// protocol means "keep asking".
type grpcHealth struct {
	healthpb.UnimplementedHealthServer

	health   health
	services map[string]grpc.ServiceInfo
	stopping atomic.Bool
}

// Check serves one probe, of a service or, without a name, of all.
func (h *grpcHealth) Check(ctx context.Context, ask *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if _, known := h.services[ask.GetService()]; !known && ask.GetService() != "" {
		return nil, status.Error(codes.NotFound, "there is no such service here")
	}
	return &healthpb.HealthCheckResponse{Status: h.status(ctx)}, nil
}

func (h *grpcHealth) status(ctx context.Context) healthpb.HealthCheckResponse_ServingStatus {
	if h.stopping.Load() || h.health.ready(ctx) != nil {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}
