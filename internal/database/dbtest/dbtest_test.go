package dbtest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/dbtest"
)

func TestNewHasTheSchemaAndNothingElse(t *testing.T) {
	t.Parallel()
	for range 3 { // one that saw the writes of another would have two epochs
		db := dbtest.New(t)
		_, err := db.Exec(t.Context(), `
			INSERT INTO epoch (epoch, sealed_at, keys, revisions, padding, discarded)
			VALUES (1, now(), 0, 0, 0, 0)`)
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := database.One[int](t.Context(), db, `SELECT count(*) FROM epoch`)
		if err != nil || n != 1 {
			t.Errorf("epochs = %d, %v; want 1", n, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), database.Settings{URL: dbtest.Empty(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n, _, err := database.One[int](t.Context(), db, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil || n != 0 {
		t.Errorf("tables = %d, %v; want none", n, err)
	}
}

func TestTheDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var gone string
	t.Run("a test of its own", func(t *testing.T) {
		gone = dbtest.URL(t)
	})
	if gone == "" {
		t.Skip("no database was made")
	}
	db, err := database.Open(t.Context(), database.Settings{URL: gone})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("err = %v, want that the database does not exist", err)
	}
}

// Several packages' tests run at once against one server: they make one
// template and copy it, and do not trip over each other.
func TestProcessesShareOneServer(t *testing.T) {
	t.Parallel()
	if os.Getenv("DBTEST_SHARING") != "" {
		t.Skip("runs the other tests of this package")
	}
	dbtest.URL(t) // skips where there is no PostgreSQL
	shared, err := cluster.Start(t.Context(), cluster.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Stop(); err != nil {
			t.Error(err)
		}
	})
	var processes errgroup.Group
	for range 3 {
		processes.Go(func() error {
			test := exec.Command(os.Args[0], "-test.count=1", "-test.parallel=4")
			test.Env = append(os.Environ(), "DBTEST_SHARING=1", "TEST_DATABASE_URL="+shared.DSN("postgres"))
			out, err := test.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			return err
		})
	}
	_ = processes.Wait() // told above

	db, err := database.Open(t.Context(), database.Settings{URL: shared.DSN("postgres")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	left, err := database.All[string](t.Context(), db, `
		SELECT datname::text FROM pg_database WHERE datname LIKE 'enkeyserver%'`)
	if err != nil || len(left) != 1 {
		t.Errorf("databases left = %v, %v; want one template", left, err)
	}
}
