// Command cleanup forgets keys and files that no phone needs any more.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/blob"
	"enkeyserver/internal/cleanup"
	"enkeyserver/internal/job"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. Buckets and
// signing keys are named by the exports, in the database.
type settings struct {
	app.Settings // port, logging, database
	Cleanup      cleanup.Settings
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
	service, err := cleanup.New(s.Cleanup, cleanup.Deps{
		Store: db, Buckets: &buckets, Listing: publisher, Now: a.Now,
	})
	if err != nil {
		return err
	}

	runner := job.Runner{Store: db, Now: a.Now}
	mux := http.NewServeMux()

	// Scheduled, every hour: one instance at a time. A repeat finds nothing
	// old; a killed run is finished by the next.
	mux.Handle("/cleanup-exposures", runner.Exclusive("cleanup-exposures", s.Cleanup.Timeout, service.Exposures))

	// Scheduled, every hour: one instance at a time. A file goes in two runs:
	// the first takes it out of the index, one after INDEX_CACHE_GRACE deletes it.
	mux.Handle("/cleanup-exports", runner.Exclusive("cleanup-exports", s.Cleanup.Timeout, service.Exports))

	return a.Serve(ctx, mux, db.Ping)
}
