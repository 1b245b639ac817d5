package publish_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/database/schema"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/migrations"
)

// The answer to the first try is lost; the phone sends the same again.
func TestRetry(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	midnight := noon.Truncate(24 * time.Hour).Add(24 * time.Hour)
	// This key ended 15 days before midnight: it is too old ten minutes later.
	ageing := entest.Submitted(99, midnight, 16)

	for _, tc := range []struct {
		why    string
		at     time.Time
		keys   []exposure.Submitted
		onset  exposure.Interval
		again  time.Duration
		status int
	}{
		{"at once", noon, entest.Upload(1, 5, noon), 0, 0, 200},
		{"after ten seconds", noon, entest.Upload(1, 5, noon), 0, 10 * time.Second, 200},
		{"just when the certificate expires", noon, entest.Upload(1, 5, noon), 0, 15 * time.Minute, 200},
		{"a minute after it expired", noon, entest.Upload(1, 5, noon), 0, 16 * time.Minute, 200},
		{"long after it expired", noon, entest.Upload(1, 5, noon), 0, time.Hour, 401},
		{"when a key has become too old", midnight.Add(9*time.Minute + 50*time.Second), append(entest.Upload(1, 2, noon), ageing), 0, 15 * time.Second, 200},
		{"when all keys have", midnight.Add(9*time.Minute + 50*time.Second), []exposure.Submitted{ageing}, 0, 15 * time.Second, 200},
		{"when a day has begun, the onset not told", midnight.Add(-5 * time.Second), entest.Upload(1, 14, noon), 0, 15 * time.Second, 200},
		{"when the onset has become too old to count", midnight.Add(-5 * time.Second), entest.Upload(1, 14, noon), entest.DaysAgo(midnight, 29) + 143, 15 * time.Second, 200},
		{"when a key of tomorrow has begun", midnight.Add(-5 * time.Second), append(entest.Upload(1, 2, noon), entest.Submitted(50, midnight, 0)), 0, 15 * time.Second, 200},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.clock.Store(tc.at.Add(-3 * time.Minute).UnixNano())
			up := d.upload(tc.keys, func(c *certificate.SignRequest) { c.Expires = tc.at.Add(15 * time.Minute) })
			up.SymptomOnset = int32(tc.onset)
			d.clock.Store(tc.at.UnixNano())
			d.accept(up)
			stored := d.count(`SELECT count(*)::int FROM arrival`)

			d.pass(tc.again)
			again := d.send(up)
			if again.Status != tc.status {
				t.Fatalf("got status %d, code %q (%s); want %d", again.Status, again.Code, again.Error, tc.status)
			}
			if again.Status == 200 && (again.RevisionToken == "" || again.InsertedExposures != 0) {
				t.Errorf("got token %t, %d keys inserted; want a token and none", again.RevisionToken != "", again.InsertedExposures)
			}
			if n := d.count(`SELECT count(*)::int FROM arrival`); n != stored {
				t.Errorf("%d keys are stored, %d before", n, stored)
			}
			if n := d.count(`SELECT count(*)::int FROM upload_fact`); n != 1 {
				t.Errorf("%d uploads are counted, want 1", n)
			}
		})
	}
}

// The token that a retry earns is as good as the one that was lost.
func TestRetryEarnsAToken(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		d := newDesk(t)
		keys := entest.Upload(1, 3, d.now())
		up := d.upload(keys, report(exposure.Likely))
		d.accept(up)
		if sealed {
			d.seal()
		}
		token := d.accept(up).RevisionToken
		d.accept(d.upload(keys).withToken(token))
		if n := d.count(`SELECT count(*)::int FROM arrival WHERE event = 1`); n != 3 {
			t.Errorf("sealed %t: %d keys are revised, want 3", sealed, n)
		}
	}
}

// Only a repetition of what was stored earns a token: somebody who saw another
// one's key published, and smuggles it past the first try, gets none for it.
func TestRetryEarnsNoTokenForMore(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	theirs := entest.Submitted(1, d.now(), 1)
	d.accept(d.upload([]exposure.Submitted{theirs}, report(exposure.Likely)))

	own := entest.Submitted(2, d.now(), 12)
	up := d.upload([]exposure.Submitted{theirs, own})
	up.SymptomOnset = int32(entest.DaysAgo(d.now(), 20)) // leaves theirs out
	if a := d.accept(up); len(a.Warnings) != 1 {
		t.Fatalf("got warnings %q, want one", a.Warnings)
	}
	up.SymptomOnset = int32(entest.DaysAgo(d.now(), 3))
	if a := d.send(up); a.Code != apiv1.CodeMissingRevisionToken {
		t.Errorf("got status %d, code %q; want that their key needs a token", a.Status, a.Code)
	}
}

// The same upload many times at the same instant is one upload.
func TestRetriesAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	up := d.upload(entest.Upload(1, 14, d.now()))
	answers := make([]answer, 8)
	var tries errgroup.Group
	for i := range answers {
		tries.Go(func() error {
			answers[i] = d.send(up)
			return nil
		})
	}
	_ = tries.Wait() // each answer tells
	inserted := 0
	for _, a := range answers {
		if a.Status != 200 || a.RevisionToken == "" {
			t.Errorf("got status %d, code %q (%s)", a.Status, a.Code, a.Error)
		}
		inserted += a.InsertedExposures
	}
	if inserted != 14 || d.count(`SELECT count(*)::int FROM arrival`) != 14 {
		t.Errorf("%d keys inserted, want 14", inserted)
	}
	if n := d.count(`SELECT count(*)::int FROM upload_fact`); n != 1 {
		t.Errorf("%d uploads are counted, want 1", n)
	}
}

// A phone that hangs up has its upload stored all the same, and may ask again.
func TestHangUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	up := d.upload(entest.Upload(1, 3, d.now()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out, err := d.service.Publish(ctx, up.request(d.secret))
	if err != nil || out.Inserted != 3 {
		t.Errorf("got %d keys, %v; want 3 and no error", out.Inserted, err)
	}
}

// PostgreSQL dies and comes back: "try again" at once, and then all is well,
// without a restart of the service. Nothing is refused for good meanwhile.
func TestDatabaseDies(t *testing.T) {
	t.Parallel()
	server, d := privateDesk(t)
	up := d.upload(entest.Upload(1, 5, d.now()), report(exposure.Likely))
	token := d.accept(up).RevisionToken

	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.pass(time.Hour) // everything that is remembered is old
	revised := d.upload(entest.Upload(1, 5, d.now())).withToken(token)
	expired := d.upload(entest.Upload(20, 5, d.now()), func(c *certificate.SignRequest) { c.Expires = d.now().Add(-time.Hour) })
	for _, tc := range []struct {
		why    string
		up     upload
		status int
	}{
		{"an upload", d.upload(entest.Upload(10, 5, d.now())), 500},
		{"a revision", revised, 500},
		{"a wrong certificate needs no database to be wrong", expired, 401},
	} {
		began := time.Now()
		a := d.send(tc.up)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s was answered after %v, want within 2s", tc.why, took)
		}
		if a.Status != tc.status {
			t.Errorf("%s: got status %d, code %q; want %d", tc.why, a.Status, a.Code, tc.status)
		}
		checkEnvelope(t, a)
	}
	if a := d.post("/v1/publish", []byte("{}"), "X-Chaff", "1"); a.Status != 200 {
		t.Errorf("chaff got status %d", a.Status)
	}

	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.accept(revised)
	d.accept(revised)
	if n := d.count(`SELECT count(*)::int FROM arrival`); n != 10 {
		t.Errorf("%d events are stored, want 5 keys and 5 revisions", n)
	}
}

// A service that starts while the database is down says "try again" until it
// is up.
func TestDatabaseComesLate(t *testing.T) {
	t.Parallel()
	server, configured := privateDesk(t)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, server.DSN("postgres"))
	d.authority = configured.authority
	up := d.upload(entest.Upload(1, 5, d.now()))
	if a := d.send(up); a.Status != 500 || a.Code != apiv1.CodeAuthorityNotLoaded {
		t.Errorf("got status %d, code %q", a.Status, a.Code)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.accept(up)
}

// A database that takes the connection and says nothing is as good as none.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := openDesk(t, "postgres://u@"+silent.Addr().String()+"/none?sslmode=disable")
	up := d.upload(entest.Upload(1, 5, d.now()))
	began := time.Now()
	a := d.send(up)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("answered after %v, want within 2s", took)
	}
	if a.Status != 500 || a.Code != apiv1.CodeAuthorityNotLoaded {
		t.Errorf("got status %d, code %q", a.Status, a.Code)
	}
}

// A table that somebody has locked makes no upload wait for long, or fail for
// good.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	up := d.upload(entest.Upload(1, 5, d.now()))
	tx, err := d.store.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE arrival IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a := d.send(up)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("answered after %v, want within 2s", took)
	}
	if a.Status != http.StatusInternalServerError || a.Code != apiv1.CodeInternal {
		t.Errorf("got status %d, code %q; want 500 internal_error", a.Status, a.Code)
	}
	checkEnvelope(t, a)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := d.accept(up); a.InsertedExposures != 5 {
		t.Errorf("%d keys inserted, want 5", a.InsertedExposures)
	}
}

// privateDesk is a service over a PostgreSQL server of its own.
func privateDesk(t *testing.T) (*cluster.Cluster, *desk) {
	t.Helper()
	server := dbtest.Server(t, cluster.Settings{})
	migrator, err := schema.Open(t.Context(), database.Settings{URL: server.DSN("postgres")}, migrations.Files, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer migrator.Close()
	if err := migrator.Up(); err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, server.DSN("postgres"))
	d.configure()
	return server, d
}
