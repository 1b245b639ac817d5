// Command schema writes docs/schema.sql: what PostgreSQL has after all
// migrations. With the argument check it says instead whether the file is current.
//
// The text must not depend on the version of PostgreSQL that made it, so only
// the statements that define something are kept of pg_dump's output.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/schema"
	"enkeyserver/migrations"
)

const file = "docs/schema.sql"

const heading = `-- The schema as PostgreSQL sees it after all migrations, written by
-- make generate. The reasons stand in migrations/.

`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "schema: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	dump, err := dumpMigrated(ctx)
	if err != nil {
		return err
	}
	want := heading + normalise(dump)
	if len(args) == 0 {
		return os.WriteFile(file, []byte(want), 0o644)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, []byte(want)) {
		return fmt.Errorf("%s is not what the migrations make: run make generate", file)
	}
	return nil
}

// dumpMigrated asks pg_dump about a new database with the release's schema.
func dumpMigrated(ctx context.Context) (text string, err error) {
	bin, err := cluster.Binaries()
	if err != nil {
		return "", err
	}
	pgDump := filepath.Join(bin, "pg_dump")
	if _, err := os.Stat(pgDump); err != nil {
		return "", fmt.Errorf("%s has no pg_dump: set POSTGRES_BIN to a PostgreSQL that has it (Debian's postgresql)", bin)
	}
	server, err := cluster.Start(ctx, cluster.Settings{})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	url := server.DSN("postgres")
	if err := schema.Command(ctx, database.Settings{URL: url}, migrations.Files, io.Discard, nil); err != nil {
		return "", err
	}
	dump := exec.CommandContext(ctx, pgDump, "--schema-only", "--no-owner", "--no-privileges",
		"--exclude-table=schema_migrations", url)
	dump.Stderr = os.Stderr
	out, err := dump.Output()
	return string(out), err
}

var (
	// settings of the session, psql's own commands, comments
	noise = regexp.MustCompile(`(?m)^(SET .*;|SELECT pg_catalog\.set_config.*;|\\.*|--.*)$`)
	gaps  = regexp.MustCompile(`\n{3,}`)
)

func normalise(dump string) string {
	text := noise.ReplaceAllString(dump, "")
	text = strings.ReplaceAll(text, "public.", "")
	return strings.TrimSpace(gaps.ReplaceAllString(text, "\n\n")) + "\n"
}
