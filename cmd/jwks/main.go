// Command jwks takes over the keys that health authorities publish as key sets,
// and revokes those that disappear.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/job"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. The addresses
// of key sets stand in the configuration, in the database.
type settings struct {
	app.Settings // port, logging, database
	Update       jwks.Settings
	Remote       remote.Settings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	client, err := remote.New(s.Remote, remote.Deps{DevelopmentOnly: a.DevelopmentOnly})
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	updater := jwks.New(jwks.Deps{Store: db, Remote: client, Now: a.Now})
	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every five minutes; one run at a time, however many instances
	// there are. A repeat finds the same sets and changes nothing. A killed run
	// leaves each authority with its old keys or its new ones, and its lease to
	// run out.
	mux.Handle("/update", runner.Exclusive("jwks", s.Update.Timeout, updater.Run))

	return a.Serve(ctx, mux, db.Ping)
}
