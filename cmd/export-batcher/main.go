// Command export-batcher seals what was uploaded into the log, and cuts it into
// the batches that will become files.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/export"
	"enkeyserver/internal/job"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment.
type settings struct {
	app.Settings // port, logging, database
	Batcher      export.BatcherSettings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.Open(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	batcher, err := export.NewBatcher(s.Batcher, export.BatcherDeps{Store: db, Now: a.Now})
	if err != nil {
		return err
	}

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every five minutes, on any number of instances: the lock on
	// the head of the log lets one seal, the others answer busy. A repeat
	// finds nothing due. A killed run has done nothing at all, since it is one
	// transaction, and holds nobody up; the next run does it.
	mux.Handle("/create-batches", runner.Shared("create-batches", s.Batcher.Timeout, batcher.Run))

	return a.Serve(ctx, mux, db.Ping)
}
