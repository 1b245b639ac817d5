// Command key-rotation turns the keys of revision tokens over.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/job"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/rotation"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment.
type settings struct {
	app.Settings // port, logging, database
	Tokens       revision.Settings
	Rotation     rotation.Settings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	wrapping, err := s.Tokens.Open(ctx)
	if err != nil {
		return err
	}
	service := rotation.New(s.Rotation, rotation.Deps{
		Store: db, Wrapping: wrapping, Now: a.Now, Offset: s.ClockOffset,
	})

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every hour: one instance at a time. A repeat finds no key that
	// is old enough; a killed run is finished by the next.
	mux.Handle("/rotate-keys", runner.Exclusive("rotate-keys", s.Rotation.Timeout, service.RevisionKeys))

	return a.Serve(ctx, mux, db.Ping)
}
