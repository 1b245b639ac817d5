package database_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/dbtest"
)

// guarded starts a server that asks the roles alice and bob for a password, and
// gives the way in for its administrator.
func guarded(t *testing.T) (*cluster.Cluster, *database.DB) {
	t.Helper()
	c := dbtest.Guarded(t)
	admin, err := database.Open(t.Context(), database.Settings{URL: c.DSN("postgres"), PoolMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	exec(t, admin, `CREATE ROLE alice LOGIN PASSWORD 'one'`)
	exec(t, admin, `CREATE ROLE bob LOGIN PASSWORD 'two'`)
	return c, admin
}

func exec(t *testing.T, db *database.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// vault is a manager of one secret: what it says now, what it says when it is
// asked anew, and how often that was.
type vault struct {
	mu         sync.Mutex
	known, new string
	err        error
	asked      int
	onAsked    func(n int)
}

func (v *vault) current(context.Context) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known, v.err
}

func (v *vault) renewed(context.Context) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	if v.onAsked != nil {
		v.onAsked(v.asked)
	}
	v.known = v.new
	return v.known, v.err
}

// has makes the manager know a value, which it tells to who asks anew.
func (v *vault) has(value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.new = value
}

// parts are the values of DB_ for a cluster.
func parts(t *testing.T, c *cluster.Cluster) database.Settings {
	t.Helper()
	u, err := url.Parse(c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return database.Settings{Host: u.Query().Get("host"), Port: 5432, Name: "postgres", User: "alice", SSLMode: "disable", PoolMax: 3}
}

// follow opens a pool whose password is a secret.
func follow(t *testing.T, s database.Settings, v *vault) *database.DB {
	t.Helper()
	s.Password = v.known
	s.KeepSecret("DB_PASSWORD", v.current, v.renewed)
	db, err := database.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// everyWay enters the database in each way that there is, on new connections.
func everyWay(t *testing.T, admin, db *database.DB) {
	t.Helper()
	for way, enter := range map[string]func(ctx context.Context) error{
		"Ping": db.Ping,
		"Exec": func(ctx context.Context) error { _, err := db.Exec(ctx, `SELECT 1`); return err },
		"Query": func(ctx context.Context) error {
			_, _, err := database.One[int](ctx, db, `SELECT 1`)
			return err
		},
		"InTx": func(ctx context.Context) error { return db.InTx(ctx, func(database.Tx) error { return nil }) },
		"Acquire": func(ctx context.Context) error {
			conn, err := db.Acquire(ctx)
			if err == nil {
				conn.Release()
			}
			return err
		},
	} {
		kill(t, admin, db)
		if err := enter(t.Context()); err != nil {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// kill ends all connections of a pool, and waits until it has noticed.
func kill(t *testing.T, admin, db *database.DB) {
	t.Helper()
	exec(t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('alice', 'bob')`)
	for db.Pool().Stat().TotalConns() > 0 {
		for _, conn := range db.Pool().AcquireAllIdle(t.Context()) {
			_ = conn.Ping(t.Context()) // fails, and the connection with it
			conn.Release()
		}
	}
}

func TestPasswordsChange(t *testing.T) {
	t.Parallel()
	c, admin := guarded(t)
	v := &vault{known: "one", new: "one"}
	db := follow(t, parts(t, c), v)
	everyWay(t, admin, db)
	if v.asked != 0 {
		t.Errorf("the manager was asked anew %d times for a password that is right", v.asked)
	}

	// The database first, the manager then.
	exec(t, admin, `ALTER ROLE alice PASSWORD 'second'`)
	v.has("second")
	everyWay(t, admin, db)
	if v.asked != 1 {
		t.Errorf("the manager was asked anew %d times, want once", v.asked)
	}

	// The manager first: what it has is not right yet, and what was right is.
	v.has("third")
	v.known = "third"
	everyWay(t, admin, db)
	exec(t, admin, `ALTER ROLE alice PASSWORD 'third'`)
	everyWay(t, admin, db)

	// The manager learns it while a connection is being made.
	exec(t, admin, `ALTER ROLE alice PASSWORD 'fourth'`)
	v.asked, v.onAsked = 0, func(n int) {
		if n == 3 {
			v.new = "fourth"
		}
	}
	everyWay(t, admin, db)

	// A manager that is gone leaves the last password.
	v.err = errors.New("the manager is down")
	v.onAsked = nil
	kill(t, admin, db)
	exec(t, admin, `ALTER ROLE alice PASSWORD 'one'`) // what the pool was opened with
	everyWay(t, admin, db)
}

// Two roles that take turns: each change is of the role and the password, which
// arrive together or as one address.
func TestRolesTakeTurns(t *testing.T) {
	t.Parallel()
	c, admin := guarded(t)
	address := func(role, password string) string {
		return strings.Replace(c.DSN("postgres"), "postgres@", role+":"+password+"@", 1)
	}
	v := &vault{known: address("alice", "one"), new: address("bob", "two")}
	whole := database.Settings{URL: v.known, PoolMax: 2}
	whole.KeepSecret("DATABASE_URL", v.current, v.renewed)

	users, passwords := &vault{known: "alice", new: "bob"}, &vault{known: "one", new: "two"}
	inParts := parts(t, c)
	inParts.KeepSecret("DB_USER", users.current, users.renewed)
	inParts.KeepSecret("DB_PASSWORD", passwords.current, passwords.renewed)
	inParts.KeepSecret("DB_HOST", nil, nil) // it changes with a restart

	for _, s := range []database.Settings{whole, inParts} {
		exec(t, admin, `ALTER ROLE alice LOGIN`)
		db, err := database.Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		everyWay(t, admin, db)
		exec(t, admin, `ALTER ROLE alice NOLOGIN`)
		everyWay(t, admin, db)
		if who, _, err := database.One[string](t.Context(), db, `SELECT current_user`); err != nil || who != "bob" {
			t.Errorf("connected as %q (error %v), want bob", who, err)
		}
	}
}

// A password that is simply wrong is told soon, and costs few questions.
func TestAWrongPasswordIsTold(t *testing.T) {
	t.Parallel()
	c, _ := guarded(t)
	for _, tc := range []struct {
		why   string
		open  func(v *vault) *database.DB
		asked int
	}{
		{"a secret", func(v *vault) *database.DB { return follow(t, parts(t, c), v) }, 3},
		{"no secret", func(v *vault) *database.DB {
			s := parts(t, c)
			s.Password = v.known
			db, err := database.Open(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			return db
		}, 0},
	} {
		v := &vault{known: "wrong", new: "wrong"}
		db := tc.open(v)
		begun := time.Now()
		err := db.InTx(t.Context(), func(database.Tx) error {
			t.Errorf("%s: it was let in", tc.why)
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "28P01") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: error %v, want that the password is refused, without it", tc.why, err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s: it took %s", tc.why, took)
		}
		if v.asked != tc.asked {
			t.Errorf("%s: the manager was asked %d times, want %d", tc.why, v.asked, tc.asked)
		}
	}
}

func TestWhoGivesUpIsNotKept(t *testing.T) {
	t.Parallel()
	c, _ := guarded(t)
	ctx, cancel := context.WithCancel(t.Context())
	v := &vault{known: "wrong", new: "wrong", onAsked: func(int) { cancel() }}
	if err := follow(t, parts(t, c), v).Ping(ctx); err == nil {
		t.Error("it was let in")
	}
	if v.asked != 1 {
		t.Errorf("the manager was asked %d times, want once", v.asked)
	}
}
