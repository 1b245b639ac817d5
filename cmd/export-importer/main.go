// Command export-importer takes the keys of neighbours that only publish files.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/imports"
	"enkeyserver/internal/job"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. Whom it imports
// from is in the database.
type settings struct {
	app.Settings // port, logging, database
	Imports      imports.Settings
	Remote       remote.Settings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	client, err := remote.New(s.Remote, remote.Deps{DevelopmentOnly: a.DevelopmentOnly})
	if err != nil {
		return err
	}
	service := imports.New(s.Imports, imports.Deps{Store: db, Remote: client, Now: a.Now})

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every quarter of an hour: one instance at a time. It reads the
	// indexes; a repeat finds no file that is new.
	mux.Handle("/schedule", runner.Exclusive("import-schedule", s.Imports.Timeout, service.Schedule))

	// Scheduled, every minute, on any number of instances: each import is
	// leased by one of them. A repeat finds nothing to do. A killed run leaves
	// its file to the next, once the lease has run out.
	mux.Handle("/import", runner.Shared("import", s.Imports.Timeout, service.Import))

	return a.Serve(ctx, mux, db.Ping)
}
