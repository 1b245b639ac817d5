package publish_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/publish"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
	"enkeyserver/internal/web"
)

const (
	appID    = "org.example.app"
	issuer   = "org.example.verification"
	audience = "org.example.keyserver"
	// statsAudience is what the server calls itself in requests for statistics.
	statsAudience = "org.example.stats"
	retention     = 16 * 24 * time.Hour
)

// desk is a whole service over a database, with an authority, an app, and a
// clock.
type desk struct {
	t         testing.TB
	url       string // of the database
	store     *store.DB
	service   *publish.Service
	handler   http.Handler
	authority *certtest.Authority
	clock     *atomic.Int64 // nanoseconds since 1970
	secret    []byte
}

func newDesk(t testing.TB, edits ...func(*publish.Settings, *publish.Deps)) *desk {
	t.Helper()
	d := openDesk(t, dbtest.URL(t), edits...)
	d.configure()
	return d
}

// openDesk is a service over any database, or over none.
func openDesk(t testing.TB, url string, edits ...func(*publish.Settings, *publish.Deps)) *desk {
	t.Helper()
	db, err := store.Open(context.Background(), database.Settings{URL: url, PoolMax: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	d := &desk{
		t: t, url: url, store: db, clock: new(atomic.Int64), secret: []byte("0123456789abcdef"),
		authority: certtest.New(t, issuer, audience),
	}
	d.clock.Store(entest.Noon().UnixNano())
	s, err := defaults()
	if err != nil {
		t.Fatal(err)
	}
	deps := publish.Deps{Store: db, Now: d.now, DevelopmentOnly: func(string, bool) error { return nil }}
	deps.Tokens = revision.NewKeyring(revision.KeyringDeps{
		Store: db, Wrapping: revision.NewWrapping(wrapper(t), nil, []byte("test")), Now: d.now, Retention: s.TokenRetention(),
	})
	if deps.Devices, err = attestation.New(attestation.Settings{}, attestation.Deps{DevelopmentOnly: deps.DevelopmentOnly}); err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		edit(&s, &deps)
	}
	if d.service, err = publish.NewService(s, deps); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/publish", d.service.PublishHandler())
	mux.Handle("/v1/stats", d.service.StatsHandler())
	mux.Handle("/{$}", d.service.V1Alpha1Handler())
	mux.Handle("/", d.service.UnknownHandler())
	d.handler = web.Record(slog.New(slog.DiscardHandler), mux)
	return d
}

// defaults are the settings of an empty environment.
var defaults = sync.OnceValues(func() (s publish.Settings, err error) {
	return s, config.Read(context.Background(), &s, nil)
})

func wrapper(t testing.TB) keys.Wrapper {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wrapping.key")
	if err := keys.CreateWrappingKey(path); err != nil {
		t.Fatal(err)
	}
	w, err := keys.OpenWrapper(context.Background(), "file://"+path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// configure lets the app send certificates of the authority.
func (d *desk) configure() {
	d.t.Helper()
	d.exec(`INSERT INTO health_authority (issuer, audience, name, stats_api) VALUES ($1, $2, 'Example Health', true)`, issuer, audience)
	d.exec(`
		INSERT INTO health_authority_key (authority_id, version, public_key)
		SELECT authority_id, 'v1', $1 FROM health_authority`, d.authority.PEM(d.t))
	d.addApp(appID, "us")
	d.refresh()
}

func (d *desk) addApp(id string, regions ...string) {
	d.t.Helper()
	d.exec(`INSERT INTO authorized_app (app_id, regions) VALUES ($1, $2)`, id, append([]string{}, regions...))
	d.exec(`
		INSERT INTO authorized_app_authority (app_id, authority_id)
		SELECT $1, authority_id FROM health_authority WHERE issuer = $2`, id, issuer)
}

func (d *desk) refresh() {
	d.t.Helper()
	if err := d.service.Refresh(context.Background()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.store.Exec(context.Background(), sql, args...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) count(sql string, args ...any) int {
	d.t.Helper()
	n, _, err := database.One[int](context.Background(), d.store, sql, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

func (d *desk) now() time.Time { return time.Unix(0, d.clock.Load()).UTC() }

func (d *desk) pass(by time.Duration) { d.clock.Add(int64(by)) }

// upload is what a phone is about to send.
type upload struct {
	apiv1.Publish
	keys []exposure.Submitted
}

// upload makes a valid upload of a confirmed diagnosis; edits change the
// certificate.
func (d *desk) upload(sent []exposure.Submitted, edits ...func(*certificate.SignRequest)) upload {
	d.t.Helper()
	up := upload{keys: sent}
	up.HealthAuthorityID = appID
	up.HMACKey = base64.StdEncoding.EncodeToString(d.secret)
	up.Certificate = d.authority.Certificate(d.t, sent, d.secret, d.now(), edits...)
	up.SymptomOnset = int32(entest.DaysAgo(d.now(), 3))
	for _, k := range sent {
		up.Keys = append(up.Keys, apiv1.ExposureKey{Key: k.Text, StartNumber: k.Start, Period: k.Period, TransmissionRisk: k.Risk})
	}
	return up
}

func report(r exposure.Report) func(*certificate.SignRequest) {
	return func(c *certificate.SignRequest) { c.Report = r }
}

func (up upload) withToken(token string) upload {
	up.RevisionToken = token
	return up
}

func (up upload) body() []byte {
	body, err := json.Marshal(up.Publish)
	if err != nil {
		panic(err)
	}
	return body
}

// answer is what a phone gets.
type answer struct {
	Status int
	Header http.Header
	Size   int
	apiv1.PublishResponse
}

func (d *desk) send(up upload) answer {
	d.t.Helper()
	return d.post("/v1/publish", up.body())
}

func (d *desk) post(path string, body []byte, headers ...string) answer {
	d.t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return d.do(r)
}

func (d *desk) do(r *http.Request) answer {
	d.t.Helper()
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	a := answer{Status: w.Code, Header: w.Header(), Size: w.Body.Len()}
	if err := json.Unmarshal(w.Body.Bytes(), &a.PublishResponse); err != nil {
		d.t.Errorf("an answer with status %d is no JSON: %v", w.Code, err)
	}
	return a
}

// accept sends an upload that must be accepted.
func (d *desk) accept(up upload) answer {
	d.t.Helper()
	a := d.send(up)
	if a.Status != http.StatusOK || a.RevisionToken == "" {
		d.t.Fatalf("got status %d, code %q (%s); want 200 with a token", a.Status, a.Code, a.Error)
	}
	return a
}

// seal publishes what may be published now, and counts the keys.
func (d *desk) seal() store.Sealed {
	d.t.Helper()
	if _, err := d.store.EnsurePartitions(context.Background(), d.now(), retention); err != nil {
		d.t.Fatal(err)
	}
	sealed, err := d.store.Seal(context.Background(), d.now(), store.SealOptions{
		Period: time.Hour, MinUploads: 1, MaxWait: 24 * time.Hour, Always: true, Retention: retention, MaxRecords: 1000,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return sealed
}

// macWithoutRisk is the three-part form of the HMAC, of one key.
func macWithoutRisk(secret []byte, k exposure.Submitted) []byte {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%s.%d.%d", k.Text, k.Start, k.Period)
	return h.Sum(nil)
}

// request is the upload without its HTTP.
func (up upload) request(secret []byte) publish.Request {
	return publish.Request{
		App:         up.HealthAuthorityID,
		Keys:        up.keys,
		Certificate: up.Certificate,
		HMACKey:     secret,
		Onset:       exposure.Interval(up.SymptomOnset),
		Traveler:    up.Traveler,
		Token:       up.RevisionToken,

		DeclaredPlatform: up.Platform,
		DeviceProof:      up.DeviceProof,
	}
}
