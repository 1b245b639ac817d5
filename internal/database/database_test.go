package database_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
)

func TestOnlyVerifiedTLSLeavesTheMachine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		set  database.Settings
		fine bool
	}{
		{"verified", database.Settings{URL: "postgres://u@db.example/x?sslmode=verify-full"}, true},
		{"verified but for the name", database.Settings{URL: "postgres://u@db.example/x?sslmode=verify-ca"}, true},
		{"encrypted for anybody", database.Settings{URL: "postgres://u@db.example/x?sslmode=require"}, false},
		{"falls back to clear text", database.Settings{URL: "postgres://u@db.example/x?sslmode=prefer"}, false},
		{"clear text", database.Settings{URL: "postgres://u@db.example/x?sslmode=disable"}, false},
		{"nothing said", database.Settings{URL: "postgres://u@db.example/x"}, false},
		{"a Unix socket", database.Settings{URL: "postgres://u@/x?host=/run/postgresql&sslmode=disable"}, true},
		{"the loopback interface", database.Settings{URL: "postgres://u@127.0.0.1/x?sslmode=disable"}, true},
		{"the loopback interface, six", database.Settings{URL: "postgres://u@[::1]/x?sslmode=disable"}, true},
		{"a network host behind a socket", database.Settings{URL: "postgres://u@/x?host=/run/postgresql,db.example&sslmode=disable"}, false},
		{"a socket behind a network host", database.Settings{URL: "postgres://u@/x?host=db.example,/run/postgresql&sslmode=disable"}, false},
		{"single values", database.Settings{Host: "db.example", Port: 5432, Name: "x", User: "u", SSLMode: "verify-full"}, true},
		{"single values, weak", database.Settings{Host: "db.example", Port: 5432, Name: "x", User: "u", SSLMode: "require"}, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			db, err := database.Open(t.Context(), tc.set)
			if err == nil {
				db.Close()
			}
			_, confErr := tc.set.ConnConfig()
			if (err == nil) != tc.fine || (confErr == nil) != tc.fine {
				t.Errorf("Open: %v, ConnConfig: %v, want fine = %v", err, confErr, tc.fine)
			}
		})
	}
}

func TestSingleValues(t *testing.T) {
	t.Parallel()
	cfg, err := database.Settings{
		Host: "localhost", Port: 6543, Name: "keys", User: "key server", Password: `it's \ "secret"`, SSLMode: "disable",
	}.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := []any{"localhost", uint16(6543), "keys", "key server", `it's \ "secret"`}
	got := []any{cfg.Host, cfg.Port, cfg.Database, cfg.User, cfg.Password}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("address (-want +got):\n%s", diff)
	}
}

func TestAnErrorNeverTellsThePassword(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why string
		set database.Settings
	}{
		{"a URL that is none", database.Settings{URL: "postgres://u:hunter2@db.example:port/x"}},
		{"a weak URL", database.Settings{URL: "postgres://u:hunter2@db.example/x?sslmode=disable"}},
		{"a wrong mode", database.Settings{Host: "h", Port: 5432, Name: "x", Password: "hunter2", SSLMode: "some"}},
		{"nothing but a password", database.Settings{Password: "hunter2"}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := database.Open(t.Context(), tc.set)
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("err = %v, want one without the password", err)
			}
		})
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres://u:hunter2@db/x":      "postgres://u:xxxxx@db/x",
		"postgres://u@db/x":              "postgres://u@db/x",
		"host=db password=hunter2":       "(not a URL)",
		"postgres://u@db/x?password=abc": "postgres://u@db/x?password=xxxxx",
	} {
		if got := database.Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

// A service must come up, and answer "try again", while the database is down.
func TestOpenDoesNotWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), database.Settings{URL: "postgres://u@/x?host=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ping(t.Context()); err == nil {
		t.Error("nothing answered the ping, and it was no error")
	}
}

func TestRows(t *testing.T) {
	t.Parallel()
	type inner struct{ BatchID int64 }
	type row struct {
		inner
		Name string    `db:"label"`
		At   time.Time // single words are their own names
		Risk *int16
	}
	db := dbtest.New(t)
	at := time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)
	const two = `
		SELECT * FROM (VALUES (1::bigint, 'a', $1::timestamptz, NULL::smallint), (2, 'b', $1, 7))
		AS t (batch_id, label, at, risk) ORDER BY batch_id`
	risk := int16(7)
	want := []row{{inner{1}, "a", at, nil}, {inner{2}, "b", at, &risk}}

	got, err := database.All[row](t.Context(), db, two, at)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{}, inner{})); diff != "" {
		t.Errorf("All (-want +got):\n%s", diff)
	}

	first, ok, err := database.One[row](t.Context(), db, two, at)
	if err != nil || !ok || first.BatchID != 1 {
		t.Errorf("One = %+v, %v, %v; want the first row", first, ok, err)
	}
	if _, ok, err := database.One[int](t.Context(), db, `SELECT 1 WHERE false`); ok || err != nil {
		t.Errorf("One of no rows = %v, %v; want false and no error", ok, err)
	}
	n, err := database.Exec(t.Context(), db, `DELETE FROM log_head`)
	if err != nil || n != 1 {
		t.Errorf("Exec = %d, %v; want 1 row", n, err)
	}
}

func TestRowsFail(t *testing.T) {
	t.Parallel()
	type row struct{ N int }
	db := dbtest.New(t)
	for _, tc := range []struct{ why, sql, say string }{
		{"a column without a field", `SELECT 1 AS n, 2 AS other`, `column "other"`},
		{"a statement that is wrong", `SELECT nothing`, "42703"},
		{"a NULL that has no place", `SELECT NULL::int AS n`, "cannot assign"},
		{"an error after the first row", `SELECT 1/(2-n) AS n FROM generate_series(1, 3) n`, "22012"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := database.All[row](t.Context(), db, tc.sql)
			if err == nil || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("err = %v, want one that says %q", err, tc.say)
			}
			// A row whose statement fails after it was never written.
			if _, ok, err := database.One[row](t.Context(), db, tc.sql); ok || err == nil || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("One: %t, %v, want an error that says %q", ok, err, tc.say)
			}
		})
	}
}

// A pool of one connection shows what does not give it back.
func TestEachGivesItsConnectionBack(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), database.Settings{URL: dbtest.URL(t), PoolMax: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 3 {
		for _, err := range database.Each[int](t.Context(), db, `SELECT generate_series(1, 1000)`) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	sorry := errors.New("sorry")
	for _, tc := range []struct {
		why  string
		end  func() error
		want int
	}{
		{"no error commits", func() error { return nil }, 0},
		{"an error rolls back", func() error { return sorry }, 1},
		{"a panic rolls back", func() error { panic(sorry) }, 1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			db := dbtest.New(t)
			err := caught(func() error {
				return db.InTx(t.Context(), func(tx database.Tx) error {
					if _, err := database.Exec(t.Context(), tx, `DELETE FROM log_head`); err != nil {
						return err
					}
					return tc.end()
				})
			})
			if (err != nil) != (tc.want == 1) || (err != nil && !errors.Is(err, sorry)) {
				t.Errorf("err = %v", err)
			}
			got, _, err := database.One[int](t.Context(), db, `SELECT count(*) FROM log_head`)
			if err != nil || got != tc.want {
				t.Errorf("rows left = %d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

// caught makes an error of a panic.
func caught(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = v.(error)
		}
	}()
	return f()
}

func TestInSnapshot(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	count := func(q database.Queryer) int {
		n, _, err := database.One[int](t.Context(), q, `SELECT count(*) FROM log_head`)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	err := db.InSnapshot(t.Context(), func(tx database.Tx) error {
		before := count(tx)
		if _, err := database.Exec(t.Context(), db, `DELETE FROM log_head`); err != nil {
			return err
		}
		if after := count(tx); after != before {
			t.Errorf("the snapshot saw %d rows, then %d", before, after)
		}
		_, err := database.Exec(t.Context(), tx, `DELETE FROM log_head`)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("err = %v, want that the transaction is read-only", err)
	}
}

func TestACancelledTransactionLeavesThePoolUsable(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), database.Settings{URL: dbtest.URL(t), PoolMax: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err = db.InTx(ctx, func(database.Tx) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want that it was cancelled", err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatConnectionsAskFor(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", "prefer_simple_protocol=true"} {
		url := dbtest.URL(t)
		if strings.Contains(url, "?") {
			url += "&" + more
		} else {
			url += "?" + more
		}
		db, err := database.Open(t.Context(), database.Settings{URL: url}, database.Session{"enable_seqscan": "off"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		for parameter, want := range map[string]string{
			"lock_timeout":   "2s",
			"timezone":       "UTC",
			"jit":            "off", // else what may not scan a table, and must, is compiled for a second
			"enable_seqscan": "off",
		} {
			got, _, err := database.One[string](t.Context(), db, "SHOW "+parameter)
			if err != nil || got != want {
				t.Errorf("%s is %q (%v), want %q", parameter, got, err, want)
			}
		}
		if db.Pool().Config().ConnConfig.PreferSimpleProtocol {
			t.Error("keys would be in the texts of statements, and so in the server's log")
		}
	}
}
