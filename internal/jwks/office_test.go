package jwks_test

import (
	"context"
	"crypto/ecdsa"
	encodingpem "encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

const (
	issuer   = "org.example.verification"
	other    = "org.example.other"
	audience = "org.example.keyserver"
)

// office is an updater over a database, with a clock, and a server on which
// authorities publish whatever a test wants.
type office struct {
	t       *testing.T
	db      *store.DB
	updater *jwks.Updater
	server  *httptest.Server

	mu    sync.Mutex
	now   time.Time
	pages map[string]http.HandlerFunc // by path
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, db: &store.DB{DB: dbtest.New(t)}, now: entest.Noon(), pages: map[string]http.HandlerFunc{}}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(o.serve))
	o.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	o.server.StartTLS()
	t.Cleanup(o.server.Close)
	o.updater = jwks.New(jwks.Deps{Store: o.db, Remote: o.client(), Now: o.time})
	return o
}

func (o *office) client() *remote.Client {
	o.t.Helper()
	ca := filepath.Join(o.t.TempDir(), "ca.pem")
	block := encodingpem.EncodeToMemory(&encodingpem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		o.t.Fatal(err)
	}
	c, err := remote.New(
		remote.Settings{AllowPrivate: true, CAFile: ca, Timeout: 3 * time.Second},
		remote.Deps{DevelopmentOnly: func(string, bool) error { return nil }},
	)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o *office) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	page := o.pages[r.URL.Path]
	o.mu.Unlock()
	if page == nil {
		page = http.NotFound
	}
	page(w, r)
}

// publish puts something at a path.
func (o *office) publish(path string, page http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pages[path] = page
}

func (o *office) publishText(path, text string) {
	o.publish(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func (o *office) time() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *office) pass(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = o.now.Add(d)
}

// authority is one that publishes its set at a path named like itself; "" is
// one that publishes none.
func (o *office) authority(issuer, path string, configured ...store.AuthorityKeyConfig) store.AuthorityConfig {
	a := store.AuthorityConfig{Issuer: issuer, Audience: audience, Name: issuer, Keys: configured}
	if path != "" {
		a.JWKSURI = o.server.URL + path + "?token=secret"
	}
	return a
}

// configure makes these all authorities that there are, as an operator does.
func (o *office) configure(all ...store.AuthorityConfig) {
	o.t.Helper()
	err := configuration.Apply(o.t.Context(), o.db, configuration.Order{
		Wanted: store.Configuration{Authorities: all}, Others: configuration.RemoveOthers, Who: "a test", Now: o.time(),
	}, func(configuration.Plan) error { return nil })
	if err != nil {
		o.t.Fatal(err)
	}
}

// run looks at all sets, a minute later.
func (o *office) run() ([]jwks.Look, error) {
	o.t.Helper()
	o.pass(time.Minute)
	return o.runNow(o.t.Context())
}

func (o *office) runNow(ctx context.Context) ([]jwks.Look, error) {
	o.t.Helper()
	done, err := o.updater.Run(ctx)
	if done == nil {
		return nil, err
	}
	d, ok := done.(jwks.Done)
	if !ok {
		o.t.Fatalf("the answer is a %T", done)
	}
	return d.Authorities, err
}

// looks runs and wants this, and no error.
func (o *office) looks(want ...jwks.Look) {
	o.t.Helper()
	got, err := o.run()
	if err != nil {
		o.t.Fatal(err)
	}
	o.same("looks", want, got)
}

func (o *office) same(what string, want, got any) {
	o.t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		o.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// accepts tells whether a certificate counts now that an authority signs with a
// key, all the way through the database.
func (o *office) accepts(issuer, kid string, key *ecdsa.PrivateKey) bool {
	o.t.Helper()
	admission, err := o.db.Admission(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	trusted := map[string]certificate.Authority{}
	for _, a := range admission.Authorities {
		parsed := certificate.Authority{Issuer: a.Issuer, Audience: a.Audience}
		for _, k := range a.Keys {
			public, err := keys.ParsePublicPEM([]byte(k.PublicKey))
			if err != nil {
				o.t.Fatal(err)
			}
			parsed.Keys = append(parsed.Keys, certificate.Key{Version: k.Version, Public: public, From: k.From, Thru: k.Thru})
		}
		trusted[a.Issuer] = parsed
	}
	signer := certtest.Authority{Issuer: issuer, Audience: audience, Version: kid, Private: key}
	sent, secret, now := entest.Upload(1, 1, o.time()), []byte("0123456789abcdef"), o.time()
	_, err = certificate.Verify(signer.Certificate(o.t, sent, secret, now), trusted, sent, secret, now)
	return err == nil
}

func (o *office) accepted(kid string, key *ecdsa.PrivateKey) {
	o.t.Helper()
	if !o.accepts(issuer, kid, key) {
		o.t.Errorf("%s is refused, it should be accepted", kid)
	}
}

func (o *office) refused(kid string, key *ecdsa.PrivateKey) {
	o.t.Helper()
	if o.accepts(issuer, kid, key) {
		o.t.Errorf("%s is accepted, it should be refused", kid)
	}
}

// statuses are what an operator reads, by issuer.
func (o *office) statuses() map[string]store.AuthorityStatus {
	o.t.Helper()
	all, err := o.db.AuthorityStatuses(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	byIssuer := map[string]store.AuthorityStatus{}
	for _, a := range all {
		byIssuer[a.Issuer] = a
	}
	return byIssuer
}

func (o *office) exec(sql string, args ...any) {
	o.t.Helper()
	if _, err := o.db.Exec(o.t.Context(), sql, args...); err != nil {
		o.t.Fatal(err)
	}
}
