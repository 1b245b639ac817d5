package app_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/app"
	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/database/schema"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/secrets/secretstest"
	"enkeyserver/internal/store"
	"enkeyserver/migrations"
)

// The password of the database is changed again and again, in both orders, while
// phones upload and connections are killed. A phone sends again when its
// connection was killed in the middle; nobody is ever told that the password is
// wrong, and what was accepted is there, once.
func TestRotationOfThePasswordLosesNoUpload(t *testing.T) {
	s := newRotation(t)
	ctx, stop := context.WithCancel(t.Context())
	var phones sync.WaitGroup
	for phone := range connections {
		phones.Go(func() { s.upload(ctx, phone) })
	}
	for turn := range 4 {
		s.rotate(fmt.Sprintf("password-%d", turn), turn%2 == 0)
		// Counted from here, when no connection is left that the password before
		// opened: the next change may only come when this one has been noticed.
		before := s.accepted.Load()
		s.await("uploads after the change", func() bool { return s.accepted.Load() > before+50 })
	}
	stop()
	phones.Wait()

	n, _, err := database.One[int64](t.Context(), s.admin, `SELECT count(*) FROM arrival`)
	if err != nil || n != s.accepted.Load()*keysOfAPhone {
		t.Errorf("%d keys are stored (error %v), and %d uploads of %d were accepted", n, err, s.accepted.Load(), keysOfAPhone)
	}
	t.Logf("%d uploads, %d sent again", s.accepted.Load(), s.again.Load())
}

const (
	role         = "keyserver"
	keysOfAPhone = 14

	// connections of the pool, and how often a phone sends its upload at most:
	// it may find each connection dead, once.
	connections = 6
	sendings    = connections + 2
)

// rotation is a service's database whose password is a secret, and those who
// change it.
type rotation struct {
	t        *testing.T
	admin    *database.DB
	manager  *secretstest.Google
	store    *store.DB
	accepted atomic.Int64
	again    atomic.Int64
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	s := &rotation{t: t, manager: secretstest.NewGoogle(t)}
	c := dbtest.Guarded(t)
	dsn := c.DSN("postgres")
	m, err := schema.Open(t.Context(), database.Settings{URL: dsn}, migrations.Files, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Up(), m.Close()); err != nil {
		t.Fatal(err)
	}
	admin, err := store.Open(t.Context(), database.Settings{URL: dsn, PoolMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := admin.EnsurePartitions(t.Context(), entest.Noon(), 16*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	s.admin = admin.DB
	s.exec(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'first'`)
	s.exec(`GRANT ALL ON ALL TABLES IN SCHEMA public TO ` + role)
	s.exec(`GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ` + role)

	s.manager.Put(t, "db", strings.Replace(dsn, "postgres@", role+":first@", 1))
	s.store = s.open()
	return s
}

// open is what a service does, in the test's environment.
func (s *rotation) open() *store.DB {
	secretstest.Use(s.t, s.manager)
	s.t.Setenv("DATABASE_URL", s.manager.Reference("db"))
	s.t.Setenv("SECRET_CACHE_TTL", "1s")
	s.t.Setenv("DB_POOL_MAX_CONNS", fmt.Sprint(connections))
	resolver, err := app.OpenSecrets(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var settings database.Settings
	if err := config.Read(s.t.Context(), &settings, resolver); err != nil {
		s.t.Fatal(err)
	}
	db, err := store.OpenForUploads(s.t.Context(), settings)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(db.Close)
	return db
}

func (s *rotation) exec(sql string) {
	s.t.Helper()
	if _, err := s.admin.Exec(s.t.Context(), sql); err != nil {
		s.t.Error(err)
	}
}

// rotate changes the password at the manager and in the database, in one order
// or the other, and has all connections made anew in between and after.
func (s *rotation) rotate(password string, managerFirst bool) {
	atManager := func() {
		address, _, err := database.One[string](s.t.Context(), s.admin, `SELECT split_part(current_setting('unix_socket_directories'), ',', 1)`)
		if err != nil {
			s.t.Error(err)
		}
		s.manager.Put(s.t, "db", fmt.Sprintf("postgres://%s:%s@/postgres?host=%s&port=5432&sslmode=disable", role, password, address))
	}
	inDatabase := func() { s.exec(fmt.Sprintf(`ALTER ROLE %s PASSWORD '%s'`, role, password)) }

	if managerFirst {
		atManager()
		before := s.accepted.Load()
		s.kill()
		s.await("uploads while the manager is ahead", func() bool { return s.accepted.Load() > before+20 })
		inDatabase()
	} else {
		inDatabase()
		asked := s.manager.Asked("db")
		s.kill()
		s.await("a question while the manager is behind", func() bool { return s.manager.Asked("db") > asked })
		atManager()
	}
	s.kill()
}

func (s *rotation) kill() {
	s.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '` + role + `'`)
}

// await waits for a condition.
func (s *rotation) await(what string, met func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !met(); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// upload is a phone after the other, until ctx ends.
func (s *rotation) upload(ctx context.Context, phone int) {
	for n := 0; ctx.Err() == nil; n++ {
		first := (phone*1_000_000 + n) * keysOfAPhone
		if err := s.send(first); err != nil {
			s.t.Errorf("an upload was lost: %v", err)
			return
		}
		s.accepted.Add(1)
	}
}

// send sends an upload as a phone does: again when the connection behind the
// server was killed, and the same.
func (s *rotation) send(first int) (err error) {
	for range sendings {
		if _, err = s.store.AddUpload(s.t.Context(), entest.Noon(), keysFrom(first), entest.Rules().Release); err == nil {
			return nil
		}
		if text := err.Error(); strings.Contains(text, "28P01") || strings.Contains(text, "28000") {
			return err
		}
		s.again.Add(1)
	}
	return err
}

func keysFrom(first int) store.Upload {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(first))
	up := store.Upload{
		Receipt: sha256.Sum256(number[:]), ReceiptExpires: entest.Noon().Add(time.Hour),
		May: exposure.ByToken(nil), Fact: store.Fact{Authority: 1, KeyAges: make([]int, keysOfAPhone)},
	}
	for day := range keysOfAPhone {
		up.Keys = append(up.Keys, entest.Exposure(first+day, entest.Noon(), func(e *exposure.Exposure) { e.Start -= exposure.Interval(144 * day) }))
	}
	return up
}
