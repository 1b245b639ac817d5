package schema

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"enkeyserver/internal/database"
)

// connectTimeout is how long the database may take to answer at first.
const connectTimeout = 15 * time.Second

// Command does what the arguments of the migrate program say: up (also when
// they say nothing), down N, or version. It tells each step, and the version
// at the end, to out.
func Command(ctx context.Context, s database.Settings, steps fs.FS, out io.Writer, args []string) error {
	do, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	m, err := Open(ctx, s, steps, out)
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
	_, err = fmt.Fprintf(out, "the schema is at version %d\n", version)
	return err
}

// parse has no default for down, since data go with each step.
func parse(args []string) (func(*Migrator) error, error) {
	switch {
	case len(args) == 0, len(args) == 1 && args[0] == "up":
		return (*Migrator).Up, nil
	case len(args) == 1 && args[0] == "version":
		return func(*Migrator) error { return nil }, nil
	case len(args) == 2 && args[0] == "down":
		steps, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, errors.New("down N: N must be a number of steps")
		}
		return func(m *Migrator) error { return m.Down(steps) }, nil
	}
	return nil, errors.New("usage: migrate [up | down N | version]")
}
