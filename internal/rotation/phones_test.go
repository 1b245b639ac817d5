package rotation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/config"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/job"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/publish"
	"enkeyserver/internal/rotation"
)

const (
	app      = "org.example.app"
	issuer   = "org.example.verification"
	audience = "org.example.keyserver"
)

// town is a house with whole instances of exposure in front, and phones.
type town struct {
	*house
	authority phone.Authority
	desks     []string // URLs
	scheduler string   // URL of the job
}

// patient is the owner of a phone whose test is likely positive, and confirmed
// later.
type patient struct {
	*phone.Phone
	since time.Time
}

func newTown(t *testing.T, desks int) *town {
	t.Helper()
	w := &town{house: newHouse(t)}
	if _, err := w.db.EnsurePartitions(t.Context(), w.clock(), tokenLife); err != nil {
		t.Fatal(err)
	}
	authority := certtest.New(t, issuer, audience)
	w.authority = phone.Authority{Issuer: issuer, Audience: audience, KeyID: "v1", Key: authority.Private, Lifetime: time.Hour}
	w.exec(`INSERT INTO health_authority (issuer, audience, name) VALUES ($1, $2, 'Example Health')`, issuer, audience)
	w.exec(`INSERT INTO health_authority_key (authority_id, version, public_key) SELECT authority_id, 'v1', $1 FROM health_authority`, authority.PEM(t))
	w.exec(`INSERT INTO authorized_app (app_id, regions) VALUES ($1, '{US}')`, app)
	w.exec(`INSERT INTO authorized_app_authority (app_id, authority_id) SELECT $1, authority_id FROM health_authority`, app)
	for range desks {
		w.desks = append(w.desks, w.open(w.desk()))
	}
	runner := job.Runner{Store: w.db, Now: w.clock}
	w.scheduler = w.open(runner.Exclusive("rotate-keys", time.Minute, w.rotator().RevisionKeys))
	return w
}

func (w *town) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *town) open(h http.Handler) string {
	server := httptest.NewServer(h)
	w.t.Cleanup(server.Close)
	return server.URL
}

// desk is an instance of exposure. It learns of new keys only when it is used.
func (w *town) desk() http.Handler {
	w.t.Helper()
	var settings publish.Settings
	if err := config.Read(context.Background(), &settings, nil); err != nil {
		w.t.Fatal(err)
	}
	settings.MaxAge = maxAge
	anything := func(string, bool) error { return nil }
	devices, err := attestation.New(attestation.Settings{}, attestation.Deps{DevelopmentOnly: anything})
	if err != nil {
		w.t.Fatal(err)
	}
	service, err := publish.NewService(settings, publish.Deps{
		Store: w.db, Tokens: w.keyring(), Devices: devices, Now: w.clock, DevelopmentOnly: anything,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return service.PublishHandler()
}

// server is the instance that the balancer chooses for the n-th request: most
// go to the first, and the last idles for days.
func (w *town) server(n int) phone.Server {
	chosen := 0
	if n%3 == 2 {
		chosen = 1
	}
	if n%31 == 30 {
		chosen = len(w.desks) - 1
	}
	return phone.Server{URL: w.desks[chosen], App: app}
}

// sends uploads a phone's keys with what it knows now.
func (w *town) sends(p *patient, report exposure.Report, n int) (phone.Answer, error) {
	own := p.Keys(p.since) // the same keys again
	upload, err := p.PrepareKeys(app, w.authority, phone.Diagnosis{Report: report, Risk: 4}, own, w.clock())
	if err != nil {
		return phone.Answer{}, err
	}
	return p.Send(w.t.Context(), w.server(n), upload)
}

func (w *town) rotateByScheduler() error {
	response, err := http.Post(w.scheduler, "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/rotate-keys answers %s", response.Status)
	}
	var did rotation.Rotated
	return json.NewDecoder(response.Body).Decode(&did)
}

// Phones upload and revise all the time, through instances that learn of new
// keys at different times, while keys turn over every three days.
func TestRotationWhilePhonesRevise(t *testing.T) {
	t.Parallel()
	const (
		tick   = 8 * time.Hour
		ticks  = 100 // 33 days
		oldest = 13 * day
	)
	w := newTown(t, 3)
	waiting, revised := []*patient(nil), 0
	for n := range ticks {
		newcomers := []*patient{w.newcomer(2 * n), w.newcomer(2*n + 1)}
		var due []*patient
		for i, p := range waiting {
			age := w.clock().Sub(p.since)
			if age > oldest || i%2 == 0 && age > day*time.Duration(i%13) {
				due = append(due, p)
			}
		}
		waiting = append(without(waiting, due), newcomers...)
		revised += len(due)

		var all errgroup.Group
		all.Go(w.rotateByScheduler)
		for i, p := range newcomers {
			all.Go(func() error { return w.wantAccepted(p, exposure.Likely, 5*n+i) })
		}
		for i, p := range due {
			all.Go(func() error { return w.wantAccepted(p, exposure.Confirmed, 5*n+2+i) })
		}
		if err := all.Wait(); err != nil {
			t.Fatalf("after %s: %v", time.Duration(n)*tick, err)
		}
		w.wait(tick)
	}
	if rows := w.rows(); revised < ticks || len(rows) < 5 || rows[len(rows)-1].RevisionKeyID < 3 {
		t.Errorf("%d revisions and %d keys, the oldest with number %d: the story is too short", revised, len(rows), rows[len(rows)-1].RevisionKeyID)
	}
}

func (w *town) newcomer(n int) *patient {
	p := &patient{Phone: phone.New(fmt.Sprint(n)), since: w.clock()}
	today := exposure.DayOf(p.since)
	p.Carry(today-1, today)
	return p
}

func without(all, gone []*patient) (rest []*patient) {
	is := map[*patient]bool{}
	for _, p := range gone {
		is[p] = true
	}
	for _, p := range all {
		if !is[p] {
			rest = append(rest, p)
		}
	}
	return rest
}

func (w *town) wantAccepted(p *patient, report exposure.Report, n int) error {
	answer, err := w.sends(p, report, n)
	if err == nil && !answer.Accepted() {
		err = fmt.Errorf("status %d, code %q", answer.Status, answer.Code)
	}
	if err != nil {
		return fmt.Errorf("%s of keys %s old: %w", report, w.clock().Sub(p.since), err)
	}
	return nil
}

// A token whose key is gone counts as absent, however long its keys may still
// be sent; a phone without it cannot revise.
func TestATokenOlderThanItsLimitIsRefused(t *testing.T) {
	t.Parallel()
	w := newTown(t, 2)
	p := w.newcomer(1)
	if err := w.wantAccepted(p, exposure.Likely, 0); err != nil {
		t.Fatal(err)
	}
	first := p.Token()
	w.wait(period)
	w.rotates()
	w.wait(keyLife + time.Second)
	w.rotate(rotation.Rotated{Made: 1, Destroyed: 1, Keys: 2})

	// The phone has kept keys that were uploaded with its old token to this
	// day: nobody else's rule refuses them before the token is looked at.
	p.since = w.clock()
	today := exposure.DayOf(p.since)
	p.Carry(today-1, today)
	kept := w.arrive(p)
	answer, err := w.sends(p, exposure.Confirmed, 0)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != http.StatusBadRequest || answer.Code != apiv1.CodeMissingRevisionToken {
		t.Errorf("with a token whose key is destroyed: status %d, code %q; want %s", answer.Status, answer.Code, apiv1.CodeMissingRevisionToken)
	}
	if p.Token() != first || kept == 0 {
		t.Errorf("the phone has another token (%t), or none of its %d keys was there", p.Token() != first, kept)
	}
}

// arrive puts the phone's keys into the database, as if they had come with the
// token that it has.
func (w *town) arrive(p *patient) int {
	w.t.Helper()
	regions, keys := []string{"US"}, p.Keys(p.since)
	for _, k := range keys {
		key, err := exposure.ParseKey(k.Text)
		if err != nil {
			w.t.Fatal(err)
		}
		w.exec(`
			INSERT INTO arrival (key, event, start_interval, period, risk, report, traveler, regions, due_at)
			VALUES ($1, 0, $2, $3, 4, 2, false, $4, $5)`, key[:], k.Start, k.Period, regions, w.clock().Add(2*day))
	}
	return len(keys)
}
