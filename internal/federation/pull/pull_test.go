package pull_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation"
	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/pull"
	"enkeyserver/internal/job"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// world is our database, an issuer of tokens, and a service that pulls.
type world struct {
	t      *testing.T
	db     *store.DB
	url    string
	issuer *federationtest.Issuer
	now    time.Time

	settings pull.Settings
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, url: dbtest.URL(t), now: entest.Noon(),
		settings: pull.Settings{
			Timeout: 30 * time.Second, PageKeys: 500, MaxMessage: 1 << 20, Parallel: 4, MaxAge: 360 * time.Hour, MaxOnsetDistance: 14,
		},
	}
	w.db = w.open()
	if _, err := w.db.EnsurePartitions(t.Context(), w.now, 16*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	w.issuer = federationtest.NewIssuer(t, func() time.Time { return w.now })
	w.issuer.AddClient("us-puller", "the-secret")
	w.settings.TokenCAFile = w.issuer.CA.File(t)
	return w
}

func (w *world) open() *store.DB {
	w.t.Helper()
	db, err := store.Open(w.t.Context(), database.Settings{URL: w.url, PoolMax: 6})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(db.Close)
	return db
}

// service is a new one, as if the process had just started.
func (w *world) service() *pull.Service {
	w.t.Helper()
	s, err := pull.New(w.settings, pull.Deps{
		Store: w.db, Now: func() time.Time { return w.now },
		Resolve: func(_ context.Context, reference string) (string, error) {
			if reference != "secret://test/client" {
				return "", errors.New("there is no such secret")
			}
			return "the-secret", nil
		},
		DevelopmentOnly: func(string, bool) error { return nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// neighbour puts a server into the configuration; edits change what a test is
// about.
func (w *world) neighbour(name string, s *federationtest.Server, edits ...func(*store.PullConfig)) {
	w.t.Helper()
	p := store.PullConfig{
		Name: name, Server: s.Addr(), CA: s.CA.PEM(), Audience: name + ".federation", IncludeRegions: []string{"US"}, ExcludeRegions: []string{},
		TokenKind: store.TokenFromClient, TokenURL: w.issuer.TokenURL(), ClientID: "us-puller", ClientSecret: "secret://test/client",
	}
	for _, edit := range edits {
		edit(&p)
	}
	w.exec(`INSERT INTO neighbour (kind, name) VALUES ('federation', $1)`, name)
	w.exec(`
		INSERT INTO federation_pull (origin, server, ca, cert_file, key_file, audience, include_regions, exclude_regions,
		                             only_travelers, only_local_provenance, token_kind, token_file, token_url, client_id, client_secret)
		SELECT origin, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
		FROM   neighbour
		WHERE  name = $1`,
		name, p.Server, p.CA, p.CertFile, p.KeyFile, p.Audience, p.IncludeRegions, p.ExcludeRegions,
		p.OnlyTravelers, p.OnlyLocalProvenance, string(p.TokenKind), p.TokenFile, p.TokenURL, p.ClientID, p.ClientSecret)
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(sql string) int {
	w.t.Helper()
	n, _, err := database.One[int](w.t.Context(), w.db, sql)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// keys are the numbers of entest.Key that are stored, up to a last one.
func (w *world) keys(last int) (stored []int) {
	w.t.Helper()
	rows, err := database.All[[]byte](w.t.Context(), w.db, `SELECT key FROM arrival WHERE event = 0 UNION ALL SELECT key FROM exposure WHERE event = 0`)
	if err != nil {
		w.t.Fatal(err)
	}
	there := map[exposure.Key]bool{}
	for _, raw := range rows {
		if there[exposure.Key(raw)] {
			w.t.Error("a key is stored twice")
		}
		there[exposure.Key(raw)] = true
	}
	for n := range last + 1 {
		if there[entest.Key(n)] {
			stored = append(stored, n)
		}
	}
	if len(stored) != len(rows) {
		w.t.Errorf("%d keys are stored, of which %d are known to the test", len(rows), len(stored))
	}
	return stored
}

// state is how it stands with a neighbour.
func (w *world) state(name string) store.Neighbour {
	w.t.Helper()
	all, err := w.db.Neighbours(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(n store.Neighbour) bool { return n.Name == name })
	if i < 0 {
		w.t.Fatalf("there is no neighbour %s", name)
	}
	return all[i]
}

func (w *world) run(s *pull.Service) map[string]pull.Outcome {
	w.t.Helper()
	pulled, err := s.Run(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return byName(pulled)
}

func byName(pulled pull.Pulled) map[string]pull.Outcome {
	all := map[string]pull.Outcome{}
	for _, o := range pulled.Neighbours {
		all[o.Name] = o
	}
	return all
}

// book is a neighbour's log, out of which it answers page by page. Its cursors
// are the number of what was sent.
type book struct {
	mu        sync.Mutex
	keys      []*federationpb.ExposureKey
	revisions []*federationpb.ExposureKey
	page      int // the size of its pages, when smaller than what is asked for
	stamp     int64
}

// from and to are numbers of entest.Key.
func bookOf(from, to int, now time.Time, edits ...func(*exposure.Exposure)) *book {
	b := &book{stamp: now.Unix()}
	for n := from; n <= to; n++ {
		e := entest.Exposure(n, now, edits...)
		b.keys = append(b.keys, federation.ToWire(e, e.Regions))
	}
	return b
}

func wire(all ...exposure.Exposure) (sent []*federationpb.ExposureKey) {
	for _, e := range all {
		sent = append(sent, federation.ToWire(e, e.Regions))
	}
	return sent
}

func (b *book) answer(_ context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := int(ask.GetMaxExposureKeys())
	if b.page > 0 {
		size = min(size, b.page)
	}
	first, err := strconv.Atoi(ask.GetState().GetKeyCursor().GetNextToken())
	if err != nil {
		first = 0
	}
	last := min(first+size, len(b.keys))
	resp := &federationpb.FederationFetchResponse{Keys: b.keys[first:last], PartialResponse: last < len(b.keys)}
	if !resp.PartialResponse {
		resp.RevisedKeys = b.revisions
	}
	resp.NextFetchState = &federationpb.FetchState{
		KeyCursor:        &federationpb.Cursor{Timestamp: b.stamp, NextToken: strconv.Itoa(last)},
		RevisedKeyCursor: &federationpb.Cursor{Timestamp: b.stamp - 1, NextToken: "r" + strconv.Itoa(last)},
	}
	return resp, nil
}

func numbers(from, to int) (all []int) {
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

// A neighbour is asked for what the configuration says, with a token for its
// audience, from where the last run ended.
func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	likely := func(e *exposure.Exposure) { e.Report = exposure.Likely }
	b := bookOf(1, 1200, w.now, likely)
	b.revisions = wire(entest.Exposures(1, 3, w.now)...)
	server := federationtest.NewForeignServer(t, b.answer)
	w.neighbour("ca", server, func(p *store.PullConfig) {
		p.IncludeRegions, p.ExcludeRegions, p.OnlyLocalProvenance = []string{"US", "CA"}, []string{"MX"}, true
	})
	s := w.service()

	want := pull.Outcome{Name: "ca", Pages: 3, Received: 1203, ForeignAdded: store.ForeignAdded{Inserted: 1200, Revised: 3}, Complete: true}
	if diff := cmp.Diff(want, w.run(s)["ca"], cmp.FilterPath(unexported, cmp.Ignore())); diff != "" {
		t.Errorf("first run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(numbers(1, 1200), w.keys(1200)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	asked := server.Asked()
	for i, a := range asked {
		if !strings.HasPrefix(a.Authorization, "Bearer ey") {
			t.Errorf("question %d came without a token", i+1)
		}
	}
	got := asked[2].Request
	if got.GetMaxExposureKeys() != 500 || !got.GetOnlyLocalProvenance() || got.GetOnlyTravelers() ||
		!slices.Equal(got.GetIncludeRegions(), []string{"US", "CA"}) || !slices.Equal(got.GetExcludeRegions(), []string{"MX"}) ||
		got.GetState().GetKeyCursor().GetNextToken() != "1000" || got.GetState().GetRevisedKeyCursor().GetNextToken() != "r1000" {
		t.Errorf("asked %v", got)
	}

	b.mu.Lock()
	b.keys, b.revisions = append(b.keys, wire(entest.Exposures(1201, 2, w.now)...)...), nil
	b.mu.Unlock()
	want = pull.Outcome{Name: "ca", Pages: 1, Received: 2, ForeignAdded: store.ForeignAdded{Inserted: 2}, Complete: true}
	if diff := cmp.Diff(want, w.run(w.service())["ca"], cmp.FilterPath(unexported, cmp.Ignore())); diff != "" {
		t.Errorf("second run (-want +got):\n%s", diff)
	}
	state := w.state("ca")
	if !state.Succeeded.Equal(w.now) || !state.Newest.Equal(w.now) || state.Failure != "" || state.Counts["keys"] != 1202 || state.Counts["revisions"] != 3 {
		t.Errorf("its state is %+v", state)
	}
	if got := w.count(`SELECT count(*) FROM arrival WHERE origin = 0`); got != 0 {
		t.Errorf("%d of its keys look like ours", got)
	}
}

// Who is asked for more than before, or told to, begins anew; otherwise a
// neighbour goes on where it was, and never tells of older keys.
func TestBeginAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := bookOf(1, 700, w.now)
	server := federationtest.NewServer(t, b.answer)
	w.neighbour("ca", server)
	s := w.service()
	states := func() (all []string) {
		before := len(server.Asked())
		w.run(s)
		for _, a := range server.Asked()[before:] {
			all = append(all, a.Request.GetState().GetKeyCursor().GetNextToken())
		}
		return all
	}
	for _, tc := range []struct {
		why, change string
		want        []string
	}{
		{"at first", `SELECT`, []string{"", "500"}},
		{"nothing changed", `SELECT`, []string{"700"}},
		{"another address, another token", `UPDATE federation_pull SET audience = 'another'`, []string{"700"}},
		{"more regions", `UPDATE federation_pull SET include_regions = '{US,CA}'`, []string{"", "500"}},
		{"the same in another order", `UPDATE federation_pull SET include_regions = '{CA,US}'`, []string{"700"}},
		{"keys of others too", `UPDATE federation_pull SET only_local_provenance = NOT only_local_provenance`, []string{"", "500"}},
		{"an operator says so", `UPDATE neighbour SET cursor = NULL`, []string{"", "500"}},
	} {
		w.exec(tc.change)
		if diff := cmp.Diff(tc.want, states()); diff != "" {
			t.Errorf("%s: asked from (-want +got):\n%s", tc.why, diff)
		}
	}
	if diff := cmp.Diff(numbers(1, 700), w.keys(700)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func unexported(p cmp.Path) bool { return p.Last().String() == ".err" }

// However small or large its pages are, all is taken, once.
func TestPageSizes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why             string
		keys, page, ask int
		pages           int
	}{
		{"a server that gives one key at a time", 120, 1, 500, 120},
		{"many in an instant page", 12_000, 0, 12_000, 1},
		{"the last page is full", 1000, 500, 500, 2},
		{"nothing", 0, 0, 500, 1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.settings.PageKeys = tc.ask
			b := bookOf(1, tc.keys, w.now)
			b.page = tc.page
			w.neighbour("ca", federationtest.NewServer(t, b.answer))
			if got := w.run(w.service())["ca"]; got.Pages != tc.pages || got.Inserted != tc.keys || !got.Complete {
				t.Errorf("got %+v, want %d keys in %d pages", got, tc.keys, tc.pages)
			}
			if diff := cmp.Diff(numbers(1, tc.keys), w.keys(tc.keys)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

// What a neighbour must not do to us, and what we tell our people then. The
// neighbour beside it is none the worse for it, and what was good is kept.
func TestMisbehaviour(t *testing.T) {
	t.Parallel()
	const secret = "eyJ"
	cursor := func(text string, at time.Time) *federationpb.FetchState {
		return &federationpb.FetchState{KeyCursor: &federationpb.Cursor{Timestamp: at.Unix(), NextToken: text}}
	}
	now := entest.Noon()
	sends := func(resp *federationpb.FederationFetchResponse) federationtest.Answer {
		return func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
			return resp, nil
		}
	}
	fails := func(code codes.Code, text string) federationtest.Answer {
		return func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
			return nil, status.Error(code, text)
		}
	}
	broken := func(edit func(*federationpb.ExposureKey)) (all []*federationpb.ExposureKey) {
		for _, k := range wire(entest.Exposures(10, 8, now)...) {
			edit(k)
			all = append(all, k)
		}
		return append(all, wire(entest.Exposures(1, 2, now)...)...)
	}
	var calls atomic.Int64
	endless := func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
		return &federationpb.FederationFetchResponse{PartialResponse: true, NextFetchState: cursor(fmt.Sprint(calls.Add(1)), now)}, nil
	}
	for _, tc := range []struct {
		why      string
		answer   federationtest.Answer
		failure  string // a part of it
		complete bool
		kept     int
	}{
		{"it never ends", endless, "more than there was time for", false, 0},
		{"it gives the same cursor", sends(&federationpb.FederationFetchResponse{PartialResponse: true, NextFetchState: cursor("x", now)}), "does not advance", false, 0},
		{"it gives the same keys and cursor", sends(&federationpb.FederationFetchResponse{PartialResponse: true, NextFetchState: cursor("x", now), Keys: wire(entest.Exposures(1, 2, now)...)}), "does not advance", false, 2},
		{"it gives no cursor", sends(&federationpb.FederationFetchResponse{PartialResponse: true}), "does not advance", false, 0},
		{"it sends a huge message", sends(&federationpb.FederationFetchResponse{NextFetchState: cursor(strings.Repeat("x", 2<<20), now)}), "more than 1048576 bytes at once", false, 0},
		{"it sends nothing at all", sends(&federationpb.FederationFetchResponse{}), "", true, 0},
		{"long keys", sends(&federationpb.FederationFetchResponse{Keys: broken(func(k *federationpb.ExposureKey) { k.ExposureKey = make([]byte, 17) })}), "8 of 10 keys that it sent break the rules", true, 2},
		{"keys of tomorrow", sends(&federationpb.FederationFetchResponse{Keys: broken(func(k *federationpb.ExposureKey) { k.IntervalNumber += 400 })}), "8 of 10 keys", true, 2},
		{"keys for regions that it was not asked for", sends(&federationpb.FederationFetchResponse{Keys: broken(func(k *federationpb.ExposureKey) { k.Regions = []string{"XX"} })}), "8 of 10 keys", true, 2},
		{"old keys are nothing to complain of", sends(&federationpb.FederationFetchResponse{Keys: broken(func(k *federationpb.ExposureKey) { k.IntervalNumber -= 40 * 144 })}), "", true, 2},
		{"its clock is far ahead", sends(&federationpb.FederationFetchResponse{Keys: broken(func(*federationpb.ExposureKey) {}), NextFetchState: cursor("x", now.AddDate(200, 0, 0))}), "its clock is ahead of ours by 8760h0m0s", true, 10},
		{"it does not know us, and repeats our token", func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
			return nil, status.Error(codes.Unauthenticated, "no client for "+secret)
		}, "does not accept our token", false, 0},
		{"it does not let us in", fails(codes.PermissionDenied, secret), "does not let us in", false, 0},
		{"it is another server", fails(codes.Unimplemented, secret), "does not know /Federation/Fetch", false, 0},
		{"it is down for a while", fails(codes.Unavailable, secret), "answered with an error (Unavailable)", false, 0},
		{"it has had enough", fails(codes.ResourceExhausted, secret), "come less often", false, 0},
		{"it gave up", fails(codes.DeadlineExceeded, secret), "did not answer in time", false, 0},
		{"it says something new", fails(codes.Code(77), secret), "answered with an error (Code(77))", false, 0},
		{"it stumbles over a nil", func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
			return &federationpb.FederationFetchResponse{Keys: []*federationpb.ExposureKey{{}}, RevisedKeys: []*federationpb.ExposureKey{{}}}, nil
		}, "2 of 2 keys", true, 0},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.settings.Timeout, w.settings.Parallel = 10*time.Second, 1
			w.neighbour("bad", federationtest.NewServer(t, tc.answer))
			w.neighbour("good", federationtest.NewServer(t, bookOf(101, 130, w.now).answer))
			pulled, err := w.service().Run(t.Context(), "")
			if (err == nil) != tc.complete {
				t.Errorf("the run gave %v, want an error: %t", err, !tc.complete)
			}
			bad, good := byName(pulled)["bad"], byName(pulled)["good"]
			if !good.Complete || good.Inserted != 30 {
				t.Errorf("the neighbour beside it: %+v, want its 30 keys", good)
			}
			if bad.Complete != tc.complete || bad.Inserted != tc.kept || !strings.Contains(bad.Failure, tc.failure) || (bad.Failure == "") != (tc.failure == "") {
				t.Errorf("got %+v, want %d keys and to be told %q", bad, tc.kept, tc.failure)
			}
			state := w.state("bad")
			if state.Failure != bad.Failure || state.Succeeded.IsZero() == tc.complete {
				t.Errorf("its state is %+v, want the failure of the run", state)
			}
			if strings.Contains(state.Failure, secret) {
				t.Error("what the other side wrote is repeated")
			}
			if state.Newest.After(w.now) {
				t.Errorf("its cursor is said to be at %s, after now", state.Newest)
			}
		})
	}
}

// Whatever breaks, and whenever, a later run takes what is missing, and no key
// twice.
func TestInterruptions(t *testing.T) {
	t.Parallel()
	const keys = 3000
	for _, tc := range []struct {
		why   string
		spoil func(t *testing.T, w *world, server *federationtest.Server, b *book) context.Context
	}{
		{"the server fails after each page", func(_ *testing.T, _ *world, server *federationtest.Server, b *book) context.Context {
			var n atomic.Int64
			server.Say(func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
				if n.Add(1) == 2 {
					return nil, status.Error(codes.Unavailable, "going down")
				}
				return b.answer(ctx, ask)
			})
			return context.Background()
		}},
		{"the process ends while it asks", func(t *testing.T, _ *world, server *federationtest.Server, b *book) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			var n atomic.Int64
			server.Say(func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
				if n.Add(1) == 3 {
					cancel()
				}
				return b.answer(ctx, ask)
			})
			return ctx
		}},
		{"the database cuts the connections", func(_ *testing.T, w *world, server *federationtest.Server, b *book) context.Context {
			var n atomic.Int64
			server.Say(func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
				if n.Add(1) == 3 {
					if _, err := w.db.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
						return nil, err
					}
				}
				return b.answer(ctx, ask)
			})
			return context.Background()
		}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.settings.PageKeys = 300
			b := bookOf(1, keys, w.now)
			server := federationtest.NewServer(t, b.answer)
			w.neighbour("ca", server)
			complete := false
			for run := 0; run < 40 && !complete; run++ {
				ctx := tc.spoil(t, w, server, b)
				if run > 20 { // let it come to the end
					server.Say(b.answer)
				}
				pulled, err := w.service().Run(ctx, "")
				if err == nil {
					complete = byName(pulled)["ca"].Complete
				}
				w.now = w.now.Add(2 * time.Minute) // the lease of a run that could not return it
			}
			if !complete {
				t.Fatal("it never came to the end")
			}
			if diff := cmp.Diff(numbers(1, keys), w.keys(keys)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if got := w.count(`SELECT n::integer FROM neighbour_count WHERE what = 'keys'`); got != keys {
				t.Errorf("%d keys are counted, want each once", got)
			}
		})
	}
}

// While one instance asks, another that is told to run at once leaves the
// neighbour to it. When both believe that the lease is theirs, the cursor lets
// only one store each page.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	for _, leased := range []bool{true, false} {
		t.Run(fmt.Sprintf("leased %t", leased), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.settings.PageKeys = 50
			b := bookOf(1, 2000, w.now)
			var other errgroup.Group
			var once sync.Once
			second := w.service()
			w.neighbour("ca", federationtest.NewServer(t, func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
				once.Do(func() {
					if !leased {
						w.exec(`DELETE FROM lease WHERE name = 'federation-in/ca'`)
						other.Go(func() error {
							_, err := second.Run(t.Context(), "")
							return err
						})
						return
					}
					if got := w.run(second)["ca"]; !got.Busy || got.Pages != 0 {
						t.Errorf("beside another instance: got %+v, want it busy", got)
					}
				})
				return b.answer(ctx, ask)
			}))
			_, err := w.service().Run(t.Context(), "")
			otherErr := other.Wait()
			if err != nil && (leased || otherErr != nil) {
				t.Errorf("got %v and %v, want at least one to come to the end", err, otherErr)
			}
			if diff := cmp.Diff(numbers(1, 2000), w.keys(2000)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if got := w.count(`SELECT n::integer FROM neighbour_count WHERE what = 'keys'`); got != 2000 {
				t.Errorf("%d keys are counted, want each once", got)
			}
		})
	}
}

// The scheduler names a neighbour, or none for all.
func TestHandler(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.neighbour("ca", federationtest.NewServer(t, bookOf(1, 3, w.now).answer))
	w.neighbour("mx", federationtest.NewServer(t, bookOf(4, 8, w.now).answer))
	handler := w.service().Handler(job.Runner{Store: w.db, Now: func() time.Time { return w.now }})
	for _, tc := range []struct {
		why, method, query string
		status             int
		want               map[string]int // keys by neighbour
	}{
		{"one by its name", http.MethodPost, "?query-id=mx", 200, map[string]int{"mx": 5}},
		{"nobody has that name", http.MethodPost, "?query-id=nz", 404, map[string]int{}},
		{"all, by an old scheduler", http.MethodGet, "", 200, map[string]int{"ca": 3, "mx": 0}},
		{"another method", http.MethodPut, "", 405, map[string]int{}},
	} {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), tc.method, "/sync"+tc.query, nil))
		var answer struct {
			Neighbours []struct {
				Name     string `json:"name"`
				Inserted int    `json:"inserted"`
			} `json:"neighbours"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, n := range answer.Neighbours {
			got[n.Name] = n.Inserted
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || rec.Code != tc.status {
			t.Errorf("%s: status %d, want %d (-want +got):\n%s", tc.why, rec.Code, tc.status, diff)
		}
	}
	w.exec(`UPDATE federation_pull SET ca = 'nonsense' WHERE origin = (SELECT origin FROM neighbour WHERE name = 'mx')`)
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sync", nil))
	if rec.Code != http.StatusInternalServerError {
		t.Errorf("with one that fails: status %d, want 500", rec.Code)
	}
}
