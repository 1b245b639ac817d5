// Command export-worker turns batches into signed files, and lists them in the
// indexes by which phones find them.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/blob"
	"enkeyserver/internal/export"
	"enkeyserver/internal/job"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. Buckets and
// signing keys are named by the exports, in the database.
type settings struct {
	app.Settings // port, logging, database
	Worker       export.WorkerSettings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	var buckets blob.Opener
	var ring keys.Ring
	publisher := listing.New(listing.Deps{Store: db, Buckets: &buckets, Keys: &ring, Now: a.Now})
	worker := export.NewWorker(s.Worker, export.WorkerDeps{
		Store: db, Buckets: &buckets, Keys: &ring, Listing: publisher, Now: a.Now,
	})

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every minute, on any number of instances: each batch is
	// leased by one of them. A repeat finds nothing to do. A killed run leaves
	// its batch to the next, once the lease has run out.
	mux.Handle("/do-work", runner.Shared("do-work", s.Worker.Timeout, worker.Run))

	return a.Serve(ctx, mux, db.Ping)
}
