// Command exposure takes the keys of phones in, and tells health authorities
// how many they were.
package main

import (
	"context"
	"net/http"

	"enkeyserver/internal/app"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/publish"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment.
type settings struct {
	app.Settings // port, logging, database
	Publish      publish.Settings
	Tokens       revision.Settings
	Devices      vendors.Settings
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.OpenForUploads(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	wrapping, err := s.Tokens.Open(ctx)
	if err != nil {
		return err
	}
	tokens := revision.NewKeyring(revision.KeyringDeps{
		Store:     db,
		Wrapping:  wrapping,
		Now:       a.Now,
		Retention: s.Publish.TokenRetention(),
	})
	devices, err := vendors.NewVerifier(ctx, s.Devices, vendors.Deps{Now: a.Now, DevelopmentOnly: a.DevelopmentOnly})
	if err != nil {
		return err
	}
	service, err := publish.NewService(s.Publish, publish.Deps{
		Store:           db,
		Tokens:          tokens,
		Devices:         devices,
		Now:             a.Now,
		DevelopmentOnly: a.DevelopmentOnly,
		Maintenance:     s.MaintenanceMode,
	})
	if err != nil {
		return err
	}
	go service.KeepFresh(ctx)

	mux := http.NewServeMux()

	// Phones, once in a lifetime, and all of them every other day as chaff. A
	// repeat of the same upload stores nothing and succeeds again.
	mux.Handle("/v1/publish", service.PublishHandler())
	if s.Publish.V1Alpha1 {
		mux.Handle("/{$}", service.V1Alpha1Handler()) // old apps, the same
	}

	// Health authorities, a few times a day. It only reads.
	mux.Handle("/v1/stats", service.StatsHandler())

	// Whoever scans the internet.
	mux.Handle("/", service.UnknownHandler())

	return a.Serve(ctx, mux, service.Ready)
}
