package app

import (
	"context"
	"log/slog"
	"time"
)

// New makes an App as Main does, with its own times for a stop.
func New(s Settings, log *slog.Logger, finish, tidy time.Duration) *App {
	a := newApp(s, log)
	a.finish, a.tidy = finish, tidy
	return a
}

// RefuseDebugging looks at an environment as Main does.
func (a *App) RefuseDebugging(environ []string) error { return a.refuseDebugging(environ) }

// Look asks checks as GET /health does.
func Look(ctx context.Context, checks ...func(context.Context) error) error {
	return (&health{checks: checks}).look(ctx)
}
