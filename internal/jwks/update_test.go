package jwks_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"enkeyserver/internal/job"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/store"
)

// A year in the life of an authority's keys.
func TestKeysComeAndGo(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	a, b, c := newKey(t), newKey(t), newKey(t)
	o.configure(o.authority(issuer, "/set"), o.authority(other, ""))

	o.publishText("/set", set(published(t, "v1", a)))
	o.looks(jwks.Look{Issuer: issuer, Keys: 1, KeySetChange: store.KeySetChange{Added: []string{"v1"}}})
	o.accepted("v1", a)
	o.refused("v2", a)
	o.refused("v1", b)
	if o.accepts(other, "v1", a) {
		t.Error("the key counts for another authority too")
	}

	o.looks(jwks.Look{Issuer: issuer, Keys: 1})
	o.accepted("v1", a)

	o.publishText("/set", text([]entry{published(t, "v1", a), published(t, "v2", b), rsa("v3")}))
	o.looks(jwks.Look{
		Issuer: issuer, Keys: 2, Ignored: map[string]int{"another type": 1},
		KeySetChange: store.KeySetChange{Added: []string{"v2"}},
	})
	o.accepted("v1", a)
	o.accepted("v2", b)

	o.publishText("/set", set(published(t, "v2", b)))
	o.looks(jwks.Look{Issuer: issuer, Keys: 1, KeySetChange: store.KeySetChange{Revoked: []string{"v1"}}})
	o.refused("v1", a)
	o.accepted("v2", b)

	o.publishText("/set", set(published(t, "v1", a), published(t, "v2", c)))
	o.looks(jwks.Look{Issuer: issuer, Keys: 2, KeySetChange: store.KeySetChange{Added: []string{"v1"}, Replaced: []string{"v2"}}})
	o.accepted("v1", a)
	o.refused("v2", b)
	o.accepted("v2", c)

	audit, err := o.db.AuditLog(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range audit {
		if e.Who == "jwks" {
			told = append(told, fmt.Sprintf("%s: %d of %s", e.Action, strings.Count(e.Detail, "discovered key"), e.Detail[:17]))
		}
	}
	o.same("audit log", []string{
		"change health authority " + issuer + ": 2 of discovered key v1",
		"change health authority " + issuer + ": 1 of discovered key v1",
		"change health authority " + issuer + ": 1 of discovered key v2",
		"change health authority " + issuer + ": 1 of discovered key v1",
	}, told)
	o.same("status", store.AuthorityStatus{
		Issuer: issuer, KeySet: o.server.URL + "/set?token=secret", Discovered: []string{"v1", "v2"}, ReadAt: o.time(),
	}, o.statuses()[issuer])
}

func write(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// drip never ends, and is fast enough for no clock.
func drip(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.Context().Err() == nil {
		<-tick.C
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
	}
}

func cut(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		_, _ = io.WriteString(w, text[:len(text)/2])
	}
}

// Whatever one authority publishes instead of a set, its keys stay, and others
// get theirs.
func TestNoKeyIsLost(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	good := set(published(t, "v1", a), published(t, "v2", b))
	for _, tc := range []struct {
		why  string
		page http.HandlerFunc
		want string // in the failure
	}{
		{"gone", http.NotFound, "says 404"},
		{"stumbling", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "says 503"},
		{"a slow drip", drip, "too slow"},
		{"cut", cut(good), "cut"},
		{"huge", write(strings.Repeat(" ", 64<<10) + good), "more than is read"},
		{"redirected in circles", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/set", http.StatusFound) }, "redirects more than 3 times"},
		{"redirected to http", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1/", http.StatusFound)
		}, "away from https"},
		{"a page to sign in at", write("<!DOCTYPE html>"), "not a key set"},
		{"nothing", write(""), "not a key set"},
		{"an empty set", write(`{"keys":[]}`), "no public key that can be accepted"},
		{"only keys for others", write(set(rsa("v1"))), "no public key that can be accepted"},
		{"two keys of a name", write(set(published(t, "v1", a), published(t, "v1", b))), "the same kid"},
		{"a damaged key", write(set(published(t, "v1", a), published(t, "v2", b, with("x", "AAAA")))), "damaged"},
		{"too many keys", write(set(append(make([]entry, 101), published(t, "v1", a))...)), "more than 100 keys"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.configure(o.authority(issuer, "/set"), o.authority(other, "/other"))
			o.publishText("/set", good)
			o.publishText("/other", set(published(t, "v1", a)))
			if _, err := o.run(); err != nil {
				t.Fatal(err)
			}
			read := o.time()
			o.publish("/set", tc.page)
			o.publishText("/other", set(published(t, "v1", b)))

			looks, err := o.run()
			o.accepted("v1", a)
			o.accepted("v2", b)
			if !o.accepts(other, "v1", b) || o.accepts(other, "v1", a) {
				t.Error("another authority's set was not taken over")
			}
			s := o.statuses()[issuer]
			for _, told := range []string{fmt.Sprint(err), failure(looks, issuer), s.Failure} {
				if !strings.Contains(told, tc.want) || strings.Contains(told, "token=") {
					t.Errorf("told as %q, want %q and no query", told, tc.want)
				}
			}
			if !s.ReadAt.Equal(read) || !s.FailedAt.Equal(o.time()) {
				t.Errorf("read %s, failed %s; want %s, %s", s.ReadAt, s.FailedAt, read, o.time())
			}

			o.publishText("/set", set(published(t, "v2", b)))
			if _, err := o.run(); err != nil {
				t.Error(err)
			}
			o.refused("v1", a)
		})
	}
}

func failure(looks []jwks.Look, issuer string) string {
	for _, l := range looks {
		if l.Issuer == issuer {
			return l.Failure
		}
	}
	return ""
}

// Whoever has seen a private key can make certificates, so it is the one key
// that a damaged set takes away, and the one whose loss may lock phones out.
func TestExposedKeysAreRevoked(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	for _, tc := range []struct {
		why      string
		set      string
		accepted map[string]*ecdsa.PrivateKey
		refused  map[string]*ecdsa.PrivateKey
	}{
		{"beside a good one", set(published(t, "v1", a, exposed), published(t, "v2", b)), map[string]*ecdsa.PrivateKey{"v2": b}, map[string]*ecdsa.PrivateKey{"v1": a}},
		{"alone", set(published(t, "v1", a, exposed)), map[string]*ecdsa.PrivateKey{"v2": b}, map[string]*ecdsa.PrivateKey{"v1": a}},
		{"under another name", set(published(t, "v9", a, exposed)), map[string]*ecdsa.PrivateKey{"v2": b}, map[string]*ecdsa.PrivateKey{"v1": a, "v9": a}},
		{"in a set that makes no sense", set(published(t, "v1", a, exposed), published(t, "v2", a), published(t, "v2", b)), map[string]*ecdsa.PrivateKey{"v2": b}, map[string]*ecdsa.PrivateKey{"v1": a}},
		{"all of them", set(published(t, "v1", a, exposed), published(t, "v2", b, exposed)), nil, map[string]*ecdsa.PrivateKey{"v1": a, "v2": b}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.configure(o.authority(issuer, "/set"))
			o.publishText("/set", set(published(t, "v1", a), published(t, "v2", b)))
			if _, err := o.run(); err != nil {
				t.Fatal(err)
			}
			o.publishText("/set", tc.set)
			if _, err := o.run(); err == nil || !strings.Contains(err.Error(), "private half") || !strings.Contains(o.statuses()[issuer].Failure, "private half") {
				t.Errorf("told as %v, and as %q", err, o.statuses()[issuer].Failure)
			}
			for kid, key := range tc.accepted {
				o.accepted(kid, key)
			}
			for kid, key := range tc.refused {
				o.refused(kid, key)
			}
		})
	}
}

func configured(t *testing.T, kid string, key *ecdsa.PrivateKey, edits ...func(*store.AuthorityKeyConfig)) store.AuthorityKeyConfig {
	t.Helper()
	k := store.AuthorityKeyConfig{Version: kid, PublicKey: pem(t, key)}
	for _, edit := range edits {
		edit(&k)
	}
	return k
}

// What an operator wrote counts, and is not changed by what is discovered.
func TestTheConfigurationWins(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	a, b, c := newKey(t), newKey(t), newKey(t)
	ended := func(k *store.AuthorityKeyConfig) { k.Thru = o.now }
	o.configure(o.authority(issuer, "/set", configured(t, "v1", a), configured(t, "v3", c, ended), configured(t, "v4", c)))
	o.publishText("/set", set(published(t, "v1", b), published(t, "v2", b), published(t, "v3", b), published(t, "v4", c)))
	o.looks(jwks.Look{Issuer: issuer, Keys: 4, KeySetChange: store.KeySetChange{
		Added: []string{"v1", "v2", "v3", "v4"}, Overruled: []string{"v1", "v3"},
	}})
	o.accepted("v1", a)
	o.refused("v1", b)
	o.accepted("v2", b)
	o.refused("v3", b) // whoever ended a name wants it to have ended
	o.refused("v3", c)
	o.accepted("v4", c)

	o.publishText("/set", set(published(t, "v2", b)))
	o.looks(jwks.Look{Issuer: issuer, Keys: 1, KeySetChange: store.KeySetChange{Revoked: []string{"v1", "v3", "v4"}}})
	o.accepted("v1", a)
	o.accepted("v4", c)

	o.publishText("/set", set(published(t, "v1", b)))
	if _, err := o.run(); err != nil {
		t.Fatal(err)
	}
	o.configure(o.authority(issuer, "/set"))
	o.refused("v1", a)
	o.accepted("v1", b)
}

// For whoever applies a configuration, discovered keys are not there; they go
// when the place goes where they were found.
func TestConfigurationAsCode(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	start := func(t *testing.T) (*office, store.AuthorityConfig) {
		t.Helper()
		o := newOffice(t)
		ours := o.authority(issuer, "/set", configured(t, "v1", a))
		o.configure(ours)
		o.publishText("/set", set(published(t, "v2", b)))
		if _, err := o.run(); err != nil {
			t.Fatal(err)
		}
		o.accepted("v2", b)
		return o, ours
	}
	t.Run("shown as it was written", func(t *testing.T) {
		t.Parallel()
		o, ours := start(t)
		got, err := o.db.Configuration(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o.same("authorities", []store.AuthorityConfig{ours}, got.Authorities)
	})
	for _, tc := range []struct {
		why  string
		edit func(o *office, a *store.AuthorityConfig)
		want bool
		read bool
	}{
		{"the same again", func(*office, *store.AuthorityConfig) {}, true, true},
		{"another name", func(_ *office, a *store.AuthorityConfig) { a.Name = "Example Health" }, true, true},
		{"another key", func(_ *office, a *store.AuthorityConfig) { a.Keys = nil }, true, true},
		{"another place", func(o *office, a *store.AuthorityConfig) { a.JWKSURI = o.server.URL + "/elsewhere" }, false, false},
		{"no place", func(_ *office, a *store.AuthorityConfig) { a.JWKSURI = "" }, false, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o, ours := start(t)
			tc.edit(o, &ours)
			o.configure(ours)
			if got := o.accepts(issuer, "v2", b); got != tc.want {
				t.Errorf("the discovered key is accepted: %t, want %t", got, tc.want)
			}
			if s := o.statuses()[issuer]; s.ReadAt.IsZero() == tc.read || len(s.Discovered) == 1 != tc.want {
				t.Errorf("status %+v", s)
			}
		})
	}
	t.Run("no authority", func(t *testing.T) {
		t.Parallel()
		o, ours := start(t)
		o.configure()
		if o.accepts(issuer, "v2", b) {
			t.Error("its discovered key is still accepted")
		}
		o.configure(ours) // as new
		o.refused("v2", b)
	})
	t.Run("back at the old place", func(t *testing.T) {
		t.Parallel()
		o, ours := start(t)
		moved := ours
		moved.JWKSURI = ""
		o.configure(moved)
		o.configure(ours)
		o.refused("v2", b) // until its set is read again
	})
}

// A look that was overtaken knows nothing: it changes nothing, whatever it found.
func TestOvertakenLooks(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	for _, tc := range []struct {
		why      string
		overtake func(o *office)
		want     bool // that v1 is still accepted
	}{
		{"by another run", func(o *office) {
			if _, err := o.run(); err != nil {
				o.t.Error(err)
			}
		}, true},
		{"by an operator who moved the set", func(o *office) { o.configure(o.authority(issuer, "/elsewhere")) }, false},
		{"by an operator who moved it and wrote the key down", func(o *office) {
			o.configure(o.authority(issuer, "/elsewhere", configured(o.t, "v1", a)))
		}, true},
		{"by an operator who removed the authority", func(o *office) { o.configure() }, false},
		{"by an operator who removed and added it", func(o *office) {
			o.configure()
			o.configure(o.authority(issuer, "/set"))
		}, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.configure(o.authority(issuer, "/set"))
			good := set(published(t, "v1", a))
			o.publishText("/set", good)
			if _, err := o.run(); err != nil {
				t.Fatal(err)
			}
			o.pass(time.Minute)
			// The set that is read while something happens is another one.
			o.publish("/set", func(w http.ResponseWriter, _ *http.Request) {
				o.publishText("/set", good)
				tc.overtake(o)
				_, _ = io.WriteString(w, set(published(t, "v1", b), published(t, "v2", b)))
			})
			looks, err := o.runNow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			o.same("looks", []jwks.Look{{Issuer: issuer, Keys: 2, Outdated: true}}, looks)
			if got := o.accepts(issuer, "v1", a); got != tc.want {
				t.Errorf("the first key is accepted: %t, want %t", got, tc.want)
			}
			o.refused("v1", b)
			o.refused("v2", b)
		})
	}
}

// The first look of all is overtaken, too.
func TestSetThatMovesBeforeItIsRead(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	a := newKey(t)
	o.configure(o.authority(issuer, "/set"))
	o.publish("/set", func(w http.ResponseWriter, _ *http.Request) {
		o.configure(o.authority(issuer, "/elsewhere"))
		_, _ = io.WriteString(w, set(published(t, "v1", a)))
	})
	o.looks(jwks.Look{Issuer: issuer, Keys: 1, Outdated: true})
	o.refused("v1", a)
	if s := o.statuses()[issuer]; !s.ReadAt.IsZero() {
		t.Errorf("the set at the new place counts as read: %+v", s)
	}
}

// Whatever order things happened in: a key counts where it was found.
func TestKeyOfAnotherPlace(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	a := newKey(t)
	o.configure(o.authority(issuer, "/set"))
	o.exec(`
		INSERT INTO health_authority_key (authority_id, version, public_key, source)
		SELECT authority_id, 'v1', $1, 'https://example.org/another' FROM health_authority`, pem(t, a))
	o.refused("v1", a)
	if s := o.statuses()[issuer]; len(s.Discovered)+len(s.Configured) > 0 {
		t.Errorf("it is shown: %+v", s)
	}
	o.exec(`UPDATE health_authority_key SET source = jwks_uri FROM health_authority`)
	o.accepted("v1", a)
}

// Runs at the same time never mix two sets.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.configure(o.authority(issuer, "/set"))
	var mu sync.Mutex
	served := 0
	sets := []string{
		set(published(t, "v1", newKey(t)), published(t, "v2", newKey(t))),
		set(published(t, "v2", newKey(t)), published(t, "v3", newKey(t))),
	}
	o.publish("/set", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		served++
		mine := sets[served%2]
		mu.Unlock()
		_, _ = io.WriteString(w, mine)
	})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 5 {
				if _, err := o.run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	found := o.statuses()[issuer].Discovered
	if got := strings.Join(found, " "); got != "v1 v2" && got != "v2 v3" {
		t.Errorf("after all runs there are %v: no set says so", found)
	}
}

// The database dies in the middle of a change: after it, the keys are the old
// ones, all of them, and the next run makes the change.
func TestDatabaseDiesInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ why, does string }{
		{"with an error", `RAISE EXCEPTION 'disk full'`},
		{"without a word", `PERFORM pg_terminate_backend(pg_backend_pid())`},
	} {
		for _, table := range []string{"health_authority_key", "audit_log"} { // each after the deletion
			t.Run(tc.why+", at "+table, func(t *testing.T) {
				t.Parallel()
				o := newOffice(t)
				a, b, c := newKey(t), newKey(t), newKey(t)
				o.configure(o.authority(issuer, "/set"))
				o.publishText("/set", set(published(t, "v1", a), published(t, "v2", b)))
				if _, err := o.run(); err != nil {
					t.Fatal(err)
				}
				before := o.statuses()[issuer]
				o.exec(`CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + tc.does + `; RETURN NULL; END $$`)
				o.exec(`CREATE TRIGGER die AFTER INSERT ON ` + table + ` EXECUTE FUNCTION die()`)
				o.publishText("/set", set(published(t, "v2", c), published(t, "v3", a)))

				if _, err := o.run(); err == nil {
					t.Error("nothing is told")
				}
				o.accepted("v1", a)
				o.accepted("v2", b)
				o.refused("v2", c)
				o.refused("v3", a)
				o.same("status", before, o.statuses()[issuer])

				o.exec(`DROP TRIGGER die ON ` + table)
				if _, err := o.run(); err != nil {
					t.Error(err)
				}
				o.refused("v1", a)
				o.accepted("v2", c)
				o.accepted("v3", a)
			})
		}
	}
}

func TestNoDatabase(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.db.Close()
	if looks, err := o.run(); err == nil {
		t.Errorf("without a database: %+v", looks)
	}
}

// Some are read at once, but not all.
func TestFewAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const atOnce = 4
	var all []store.AuthorityConfig
	arrived, release := make(chan struct{}, atOnce+1), make(chan struct{})
	for i := range atOnce + 1 {
		path := fmt.Sprintf("/%02d", i)
		all = append(all, o.authority("org.example"+path, path))
		body := set(published(t, "v1", newKey(t)))
		o.publish(path, func(w http.ResponseWriter, _ *http.Request) {
			arrived <- struct{}{}
			<-release
			_, _ = io.WriteString(w, body)
		})
	}
	o.configure(all...)
	ended := make(chan error, 1)
	go func() {
		_, err := o.run()
		ended <- err
	}()
	for n := range atOnce {
		select {
		case <-arrived:
		case err := <-ended:
			close(release)
			t.Fatalf("with %d read at the same time: %v", n, err)
		}
	}
	select {
	case <-arrived:
		t.Error("a fifth is read at the same time")
	case <-time.After(50 * time.Millisecond): // long, for what is on this machine
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// When our own time is up, that is no failure of an authority.
func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.configure(o.authority(issuer, "/set"))
	ctx, cancel := context.WithCancel(t.Context())
	o.publish("/set", func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := o.runNow(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("told as %v", err)
	}
	if s := o.statuses()[issuer]; s.Failure != "" || !s.FailedAt.IsZero() {
		t.Errorf("noted as the failure %q", s.Failure)
	}
}

// As the scheduler sees it.
func TestJob(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.configure(o.authority(issuer, "/set"), o.authority(other, ""))
	o.publishText("/set", set(published(t, "v1", newKey(t)), rsa("v2")))
	runner := job.Runner{Store: o.db, Now: o.time}
	handler := runner.Exclusive("jwks", time.Minute, o.updater.Run)
	for _, tc := range []struct{ method, want string }{
		{http.MethodPost, `{"authorities":[{"issuer":"org.example.verification","keys":1,"ignored":{"another type":1},"added":["v1"]}]}`},
		{http.MethodGet, `{"authorities":[{"issuer":"org.example.verification","keys":1,"ignored":{"another type":1}}]}`},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(tc.method, "/update", http.NoBody))
		if w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != tc.want {
			t.Errorf("%s: %d %s, want %s", tc.method, w.Code, w.Body, tc.want)
		}
	}
	o.publish("/set", http.NotFound)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/update", http.NoBody))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("a failure is answered with %d", w.Code)
	}
}
