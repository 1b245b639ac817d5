// Package app opens what a service needs, serves it, and closes it.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/secrets"
	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

// Settings are what every service reads.
type Settings struct {
	Port            int           `envconfig:"PORT" default:"8080" min:"0" max:"65535" desc:"port of the service; 0: any free one, told in the log"`
	MetricsPort     int           `envconfig:"METRICS_PORT" default:"9090" min:"0" max:"65535" desc:"port of /metrics, never to be reached from outside; 0: off"`
	Environment     string        `envconfig:"ENVIRONMENT" desc:"production refuses every DEBUG_ variable"`
	MaintenanceMode bool          `envconfig:"MAINTENANCE_MODE" default:"false" desc:"refuse uploads with 429 and Retry-After"`
	ClockOffset     time.Duration `envconfig:"DEBUG_CLOCK_OFFSET" default:"0s" desc:"development only: added to the service's clock"`
	Telemetry       telemetry.Settings
	Database        database.Settings
	Secrets         secrets.Settings // OpenSecrets has read them by then
}

// common is what lets Main find these settings in the struct that embeds them.
func (s Settings) common() Settings { return s }

// Embedding is a struct of settings that embeds Settings.
type Embedding interface{ common() Settings }

// App is what a service has besides its own dependencies: a clock, and the
// server that it is served by.
type App struct {
	settings Settings
	log      *slog.Logger
	secrets  *secrets.Resolver
	warned   map[string]bool

	// The two parts of a stop; see shutdown.
	finish, tidy time.Duration
}

func newApp(s Settings, log *slog.Logger) *App {
	return &App{settings: s, log: log, warned: map[string]bool{}, finish: finishTimeout, tidy: tidyTimeout}
}

// Main is the whole life of a service: it reads S from the environment, makes
// the default logger, and runs. A SIGTERM or SIGINT ends the context of run.
//
// The exit status is 0 when run returns nil. Else it is 1, and one line says
// why: plain on stderr when the environment is wrong, in the log after that.
func Main[S Embedding](run func(ctx context.Context, a *App, s S) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := start(ctx, os.Stderr, run)
	stop()
	os.Exit(status)
}

// garbagePercent lets the heap of a service, which is 3 MB when it idles, grow
// to four times what it holds before it is swept. At Go's own 100 a sixth of
// the time of an upload went into sweeping those few megabytes again and again.
const garbagePercent = 300

func start[S Embedding](ctx context.Context, stderr io.Writer, run func(ctx context.Context, a *App, s S) error) int {
	name := filepath.Base(os.Args[0])
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	s, resolver, err := read[S](ctx)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
		return 1
	}
	log, err := telemetry.NewLogger(stderr, s.common().Telemetry)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
		return 1
	}
	a := newApp(s.common(), log.With("service", name))
	a.secrets = resolver
	slog.SetDefault(a.log)
	err = a.run(func() error { return run(ctx, a, s) })
	// A signal may come before the service listens; that is a stop too.
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		a.log.Error("stopped by an error", "error", oneLine(err))
		return 1
	}
	a.log.Info("stopped")
	return 0
}

// read fills the settings from the environment and from the secrets that it
// refers to.
func read[S any](ctx context.Context) (s S, resolver *secrets.Resolver, err error) {
	if resolver, err = OpenSecrets(ctx); err != nil {
		return s, nil, err
	}
	err = config.Read(ctx, &s, resolver)
	return s, resolver, err
}

// run makes an error of a panic.
func (a *App) run(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = web.Panicked(v)
		}
	}()
	if err := a.refuseDebugging(os.Environ()); err != nil {
		return err
	}
	return f()
}

// Now is the service's clock: the true time, and in development moved on by
// DEBUG_CLOCK_OFFSET.
func (a *App) Now() time.Time { return time.Now().Add(a.settings.ClockOffset) }

// Secret gives what a secret:// reference stands for that was found elsewhere
// than in the environment.
func (a *App) Secret(ctx context.Context, ref string) (string, error) {
	return a.secrets.Value(ctx, ref)
}

// oneLine keeps joined errors on the line that is promised.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
