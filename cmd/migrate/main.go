// Command migrate takes the database to the schema of this release.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/schema"
	"enkeyserver/migrations"
)

const usage = "usage: migrate [up | down N | version]"

// connectTimeout is how long the database may take to answer at first.
const connectTimeout = 15 * time.Second

func main() {
	if err := run(context.Background(), os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "migrate: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// run may be killed at any moment, and may run any number of times at once:
// each step is taken once and whole.
func run(ctx context.Context, out io.Writer, args []string) error {
	do, err := parse(args)
	if err != nil {
		return err
	}
	var s database.Settings
	if err := config.Read(ctx, &s, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	m, err := schema.Open(ctx, s, migrations.Files, out)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := do(m); err != nil {
		return err
	}
	version, err := m.Version()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "the schema is at version %d\n", version)
	return nil
}

// parse turns the command line into what is done to the database. Nothing said
// means up; down has no default, since data go with it.
func parse(args []string) (func(*schema.Migrator) error, error) {
	switch {
	case len(args) == 0, len(args) == 1 && args[0] == "up":
		return (*schema.Migrator).Up, nil
	case len(args) == 1 && args[0] == "version":
		return func(*schema.Migrator) error { return nil }, nil
	case len(args) == 2 && args[0] == "down":
		steps, err := strconv.Atoi(args[1])
		if err != nil || steps < 1 {
			return nil, fmt.Errorf("down %s: the number of steps must be 1 or more", args[1])
		}
		return func(m *schema.Migrator) error { return m.Down(steps) }, nil
	}
	return nil, errors.New(usage)
}
