// Command mirror copies what other servers publish for their phones into buckets
// of ours.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/blob"
	"enkeyserver/internal/job"
	"enkeyserver/internal/mirror"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. What it mirrors,
// and where to, is in the database.
type settings struct {
	app.Settings // port, logging, database
	Mirror       mirror.Settings
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
	var buckets blob.Opener
	service := mirror.New(s.Mirror, mirror.Deps{Store: db, Buckets: &buckets, Remote: client, Now: a.Now})

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every quarter of an hour, on any number of instances: each
	// mirror is leased by one of them. A repeat finds nothing new. A killed run
	// leaves its mirror to the next, once the lease has run out.
	mux.Handle("/mirror", runner.Shared("mirror", s.Mirror.Timeout, service.Mirror))

	return a.Serve(ctx, mux, db.Ping)
}
