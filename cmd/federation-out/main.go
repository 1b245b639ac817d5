// Command federation-out tells neighbours the keys that they may know.
package main

import (
	"context"

	"enkeyserver/internal/app"
	"enkeyserver/internal/federation/serve"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// settings is all that this service reads from its environment. Who may ask
// for what is in the database.
type settings struct {
	app.Settings // port, logging, database
	Federation   serve.Settings
	Remote       remote.Settings // of the issuers of neighbours' tokens
}

func main() { app.Main(run) }

func run(ctx context.Context, a *app.App, s settings) error {
	db, err := store.OpenForNeighbours(ctx, s.Database)
	if err != nil {
		return err
	}
	defer db.Close()

	client, err := remote.New(s.Remote, remote.Deps{DevelopmentOnly: a.DevelopmentOnly})
	if err != nil {
		return err
	}
	service, err := serve.NewService(s.Federation, serve.Deps{Store: db, Remote: client, Now: a.Now})
	if err != nil {
		return err
	}
	server, err := serve.NewServer(service)
	if err != nil {
		return err
	}
	return a.ServeGRPC(ctx, server, db.Ping)
}
