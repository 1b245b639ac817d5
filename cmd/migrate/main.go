// Command migrate takes the database to the schema of this release.
//
// It may run any number of times at once and be killed at any moment: each
// step is taken once, and whole.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"enkeyserver/internal/app"
	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/schema"
	"enkeyserver/migrations"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "migrate: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	resolver, err := app.OpenSecrets(ctx)
	if err != nil {
		return err
	}
	var s database.Settings
	if err := config.Read(ctx, &s, resolver); err != nil {
		return err
	}
	return schema.Command(ctx, s, migrations.Files, os.Stdout, os.Args[1:])
}
