// Command federation-in takes over the keys of neighbouring authorities.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/federation/pull"
	"enkeyserver/internal/job"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. The neighbours
// stand in the configuration, in the database.
type settings struct {
	app.Settings // port, logging, database
	Pull         pull.Settings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	service, err := pull.New(s.Pull, pull.Deps{
		Store: db, Now: a.Now, Resolve: a.Secret, DevelopmentOnly: a.DevelopmentOnly,
	})
	if err != nil {
		return err
	}

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every few minutes, on any number of instances: each neighbour
	// is leased by one of them. A repeat asks for what is new and finds nothing.
	// A killed run leaves whole pages with their cursor behind, and its leases
	// to run out.
	mux.Handle("/sync", service.Handler(runner))

	return a.Serve(ctx, mux, db.Ping)
}
