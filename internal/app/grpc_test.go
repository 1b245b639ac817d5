package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"enkeyserver/internal/app"
)

// slow is a service with one method, which does what the test says.
func slow(f func(context.Context) error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "Slow", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Do",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := decode(new(emptypb.Empty)); err != nil {
					return nil, err
				}
				return new(emptypb.Empty), f(ctx)
			},
		}},
	}
}

// startGRPC is start for a gRPC server with the service slow.
func startGRPC(t *testing.T, finish, tidy time.Duration, f func(context.Context) error, ready ...func(context.Context) error) (service, *grpc.ClientConn) {
	t.Helper()
	logged, w := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	a := app.New(app.Settings{MetricsPort: freePort(t)}, slog.New(slog.NewJSONHandler(w, nil)), finish, tidy)
	server := grpc.NewServer()
	server.RegisterService(slow(f), nil)
	go func() {
		ended <- a.ServeGRPC(ctx, server, ready...)
		w.Close()
	}()
	t.Cleanup(stop)
	s := listening(t, logged)
	s.stop, s.ended = stop, ended

	conn, err := grpc.NewClient(strings.TrimPrefix(s.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return s, conn
}

func do(ctx context.Context, conn *grpc.ClientConn) error {
	return conn.Invoke(ctx, "/Slow/Do", new(emptypb.Empty), new(emptypb.Empty))
}

func nothing(context.Context) error { return nil }

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	database := func(context.Context) error {
		if down.Load() {
			return errors.New("connection to db.internal refused")
		}
		return nil
	}
	check := func(conn *grpc.ClientConn, why, service, want string) {
		t.Helper()
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		got := answer.GetStatus().String()
		if err != nil {
			got = status.Code(err).String()
		}
		if got != want {
			t.Errorf("%s: health of %q is %s, want %s", why, service, got, want)
		}
	}
	s, conn := startGRPC(t, time.Minute, time.Minute, nothing, database)
	check(conn, "all is well", "", "SERVING")
	check(conn, "all is well", "Slow", "SERVING")
	check(conn, "nobody's service", "Fast", "NotFound")
	if status, _ := get(t, s.metricsURL+"/metrics"); status != http.StatusOK {
		t.Errorf("metrics are %d", status)
	}

	down.Store(true)
	_, conn = startGRPC(t, time.Minute, time.Minute, nothing, database)
	check(conn, "the database is down", "", "NOT_SERVING")
	check(conn, "the database is down", "Slow", "NOT_SERVING")
}

func TestGRPCStopLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	arrived, finish := make(chan struct{}), make(chan struct{})
	s, conn := startGRPC(t, time.Minute, time.Minute, func(ctx context.Context) error {
		close(arrived)
		<-finish
		return ctx.Err()
	})
	answered := make(chan error, 1)
	go func() { answered <- do(t.Context(), conn) }()
	<-arrived
	s.stop()
	awaitRefusal(t, s.url)
	if status, _ := get(t, s.metricsURL+"/metrics"); status != http.StatusOK {
		t.Errorf("while the service stops, metrics are %d", status)
	}
	close(finish)
	if err := <-answered; err != nil {
		t.Errorf("the request in flight ended with %v", err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("the stop ended with %v", err)
	}
}

func TestGRPCStopIsBounded(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	s, conn := startGRPC(t, time.Millisecond, time.Millisecond, func(ctx context.Context) error {
		close(arrived)
		<-ctx.Done()
		return ctx.Err()
	})
	cut := make(chan error, 1)
	go func() { cut <- do(t.Context(), conn) }()
	<-arrived
	s.stop()
	if err := <-s.ended; err != nil {
		t.Errorf("the stop ended with %v", err)
	}
	if code := status.Code(<-cut); code != codes.Unavailable && code != codes.Canceled {
		t.Errorf("the stuck request was answered with %s", code)
	}
}

func TestGRPCPortThatIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := app.New(app.Settings{Port: l.Addr().(*net.TCPAddr).Port}, slog.New(slog.DiscardHandler), 0, 0)
	if err := a.ServeGRPC(t.Context(), grpc.NewServer()); err == nil || !strings.HasPrefix(err.Error(), "PORT: port") {
		t.Errorf("error %v, want one that names PORT", err)
	}
}
