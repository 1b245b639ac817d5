// Package dbtest gives each test a PostgreSQL database of its own.
//
// The server is that of TEST_DATABASE_URL, or else a private one that lives as
// long as the test's process. DATABASE_URL is never looked at: it may be
// somebody's production.
package dbtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v4"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/schema"
	"enkeyserver/internal/errs"
	"enkeyserver/migrations"
)

// creating is the advisory lock under which processes that share a server make
// the template and copy it: a template that somebody reads cannot be copied.
const creating = 0x656e6b65

// patience bounds what is done outside of a test's own time.
const patience = 2 * time.Minute

// New gives a fresh database with the current schema. It is gone when the test
// has ended.
func New(t testing.TB) *database.DB {
	t.Helper()
	db, err := database.Open(context.Background(), database.Settings{URL: URL(t), PoolMax: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// URL is New for programs that connect by themselves.
func URL(t testing.TB) string {
	t.Helper()
	return create(t, (*server).template)
}

// Empty is URL for tests of the schema itself: nothing is in the database.
func Empty(t testing.TB) string {
	t.Helper()
	return create(t, func(*server) (string, error) { return "template0", nil })
}

func create(t testing.TB, template func(*server) (string, error)) string {
	t.Helper()
	s, err := theServer()
	if errors.Is(err, cluster.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	from, err := template(s)
	if err != nil {
		t.Fatal(err)
	}
	name, err := s.copy(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.drop(name); err != nil {
			t.Error(err)
		}
	})
	return s.dsn(name)
}

// Server starts a PostgreSQL server of the test's own, for tests of servers that
// stop, or that ask for passwords. It ends with the test.
func Server(t testing.TB, settings cluster.Settings) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), settings)
	if errors.Is(err, cluster.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Guarded is a Server that asks everybody but its administrator for a password.
func Guarded(t testing.TB) *cluster.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hba") //nolint:usetesting // the server's user must be able to read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	rules := filepath.Join(dir, "pg_hba.conf")
	err = errors.Join(
		os.Chmod(dir, 0o755),
		os.WriteFile(rules, []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	return Server(t, cluster.Settings{Extra: map[string]string{"hba_file": rules}})
}

// server is where the databases are.
type server struct {
	admin   url.URL          // of a database that is there already
	private *cluster.Cluster // kept: collected as garbage, it would close its pipe and end
	made    func() error     // the template; once
}

// theServer is one for all tests of a process; the private one ends with it.
var theServer = sync.OnceValues(func() (*server, error) {
	s := &server{}
	address := os.Getenv("TEST_DATABASE_URL")
	if address == "" {
		c, err := cluster.Start(context.Background(), cluster.Settings{Extra: map[string]string{
			// As far from UTC as it goes: what leans on the session's time
			// zone shows.
			"timezone": "Pacific/Kiritimati",
		}})
		if err != nil {
			return nil, err
		}
		s.private, address = c, c.DSN("postgres")
	}
	admin, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(admin.Scheme, "postgres") {
		return nil, errors.New("TEST_DATABASE_URL must be a URL: postgres://user:password@host/database")
	}
	s.admin = *admin
	s.made = sync.OnceValue(s.makeTemplate)
	return s, nil
})

// template is the name of a database with the current schema.
func (s *server) template() (string, error) {
	name, err := templateName()
	if err != nil {
		return "", err
	}
	return name, s.made()
}

// templateName changes with the migrations.
func templateName() (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(migrations.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(migrations.Files, path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(text), text)
		return err
	})
	return fmt.Sprintf("enkeyserver_template_%x", sum.Sum(nil)[:8]), err
}

// makeTemplate leaves a template alone that another process has made. It gets
// its name last, so that one whose maker was killed is never copied.
func (s *server) makeTemplate() (err error) {
	defer errs.Wrap(&err, "dbtest.makeTemplate")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name, err := templateName()
	if err != nil {
		return err
	}
	draft := name + "_draft"
	return s.exclusively(ctx, func(conn *pgx.Conn) error {
		var exists bool
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&exists)
		if err != nil || exists {
			return err
		}
		if err := all(ctx, conn, "DROP DATABASE IF EXISTS "+draft, "CREATE DATABASE "+draft+" TEMPLATE template0"); err != nil {
			return err
		}
		if err := migrateUp(ctx, s.dsn(draft)); err != nil {
			return err
		}
		return all(ctx, conn, "ALTER DATABASE "+draft+" RENAME TO "+name)
	})
}

func migrateUp(ctx context.Context, dsn string) error {
	m, err := schema.Open(ctx, database.Settings{URL: dsn}, migrations.Files, io.Discard)
	if err != nil {
		return err
	}
	return errors.Join(m.Up(), m.Close())
}

// copy makes a database out of a template.
func (s *server) copy(ctx context.Context, template string) (name string, err error) {
	defer errs.Wrap(&err, "dbtest.copy(%s)", template)
	name = "enkeyserver_test_" + strings.ToLower(rand.Text())
	return name, s.exclusively(ctx, func(conn *pgx.Conn) error {
		return all(ctx, conn, "CREATE DATABASE "+name+" TEMPLATE "+template)
	})
}

// drop removes a database, connections of programs that still run included.
func (s *server) drop(name string) (err error) {
	defer errs.Wrap(&err, "dbtest.drop(%s)", name)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.admin.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return all(ctx, conn, "DROP DATABASE "+name+" WITH (FORCE)")
}

// exclusively runs f while no other process makes a database here.
func (s *server) exclusively(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.admin.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // and with it the lock goes
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(creating)); err != nil {
		return err
	}
	return f(conn)
}

func all(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// dsn is the URL of another database of the server.
func (s *server) dsn(name string) string {
	u := s.admin
	u.Path = "/" + name
	return u.String()
}
