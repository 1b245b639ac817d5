// Package schema takes a database to another version of the schema, one step
// after the other.
package schema

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratedb "github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/database/pgx"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v4/stdlib"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// lockTimeout is how long one run waits for another one to finish.
const lockTimeout = 10 * time.Minute

// Migrator takes one database up and down. Runs of several processes at once
// follow one another, and each step is whole or not there, so that killing one
// costs no more than starting it again.
type Migrator struct{ m *migrate.Migrate }

// Open connects to the database. The steps are numbered pairs of files
// (migrations.Files); progress gets a line for each step that was taken.
func Open(ctx context.Context, s database.Settings, steps fs.FS, progress io.Writer) (_ *Migrator, err error) {
	defer errs.Wrap(&err, "schema.Open")
	cfg, err := s.ConnConfig()
	if err != nil {
		return nil, err
	}
	source, err := iofs.New(steps, ".")
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*cfg)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	driver, err := pgx.WithInstance(db, &pgx.Config{})
	if err != nil {
		return nil, errors.Join(oneLine(err), db.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx", &atomicSteps{Driver: driver})
	if err != nil {
		return nil, errors.Join(err, driver.Close())
	}
	m.LockTimeout = lockTimeout
	m.Log = lines{progress}
	return &Migrator{m: m}, nil
}

// Close ends the connection.
func (m *Migrator) Close() error { return errors.Join(m.m.Close()) }

// Up takes every step that is not taken yet; none is fine too.
func (m *Migrator) Up() (err error) {
	defer errs.Wrap(&err, "schema.Up")
	return oneLine(m.m.Up())
}

// Down takes the last steps back, newest first. With them go their data.
func (m *Migrator) Down(steps int) (err error) {
	defer errs.Wrap(&err, "schema.Down(%d)", steps)
	if steps < 1 {
		return errors.New("the number of steps must be 1 or more")
	}
	return oneLine(m.m.Steps(-steps))
}

// Version is the number of the last step taken, 0 for an empty database.
func (m *Migrator) Version() (version uint, err error) {
	defer errs.Wrap(&err, "schema.Version")
	version, _, err = m.m.Version()
	if errors.Is(err, migrate.ErrNilVersion) {
		return 0, nil
	}
	return version, oneLine(err)
}

// oneLine says what went wrong in the words of the operator: the library's own
// error would repeat the whole file.
func oneLine(err error) error {
	if err == nil || errors.Is(err, migrate.ErrNoChange) {
		return nil
	}
	if failed, ok := errors.AsType[migratedb.Error](err); ok {
		return fmt.Errorf("line %d: %w", failed.Line, failed.OrigErr)
	}
	if short, ok := errors.AsType[migrate.ErrShortLimit](err); ok {
		return fmt.Errorf("%d steps more than there were to take back", short.Short)
	}
	if errors.Is(err, migrate.ErrLockTimeout) {
		return fmt.Errorf("another migration has been running for %v", lockTimeout)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no such step here: the database is empty, or newer than this program")
	}
	return err
}

// atomicSteps puts a step and the note that it was taken into one transaction.
// The library would note before and after, and leave a killed run to be
// repaired by hand.
type atomicSteps struct {
	migratedb.Driver
	target  int
	pending bool // noted in target only
}

// SetVersion is called before each step with dirty set, and after it.
func (a *atomicSteps) SetVersion(version int, dirty bool) error {
	if dirty {
		a.target, a.pending = version, true
		return nil
	}
	if a.pending { // a step without a file
		a.pending = false
		return a.Driver.SetVersion(version, false)
	}
	return nil
}

// Run takes the step. PostgreSQL makes one transaction of statements that come
// in one message. A step that would wait long for a table makes everybody
// behind it wait too, so it gives up, and can be tried again.
func (a *atomicSteps) Run(step io.Reader) error {
	sql, err := io.ReadAll(step)
	if err != nil {
		return err
	}
	a.pending = false
	return a.Driver.Run(strings.NewReader("SET LOCAL lock_timeout = '10s'; " + string(sql) + "\n;" + a.note()))
}

func (a *atomicSteps) note() string {
	if a.target == migratedb.NilVersion {
		return "DELETE FROM schema_migrations"
	}
	return fmt.Sprintf("DELETE FROM schema_migrations; INSERT INTO schema_migrations (version, dirty) VALUES (%d, false)", a.target)
}

// lines is the library's logger: it writes one line a step.
type lines struct{ io.Writer }

// Printf writes a line.
func (l lines) Printf(format string, args ...any) {
	_, _ = fmt.Fprintf(l, format, args...) // progress is for the eye
}

// Verbose is off: the steps taken are enough.
func (l lines) Verbose() bool { return false }
