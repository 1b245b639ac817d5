package store_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// usShare is told the keys of the region US, whoever sent them.
func usShare() store.Share { return store.Share{Regions: []string{"US"}} }

// toldPage is one of SharedKeys or SharedRevisions.
type toldPage func(l *ledger, s store.Share, from, thru store.Position, limit int) ([]store.SharedKey, store.Position)

func keysPage(l *ledger, s store.Share, from, thru store.Position, limit int) ([]store.SharedKey, store.Position) {
	l.t.Helper()
	keys, reached, err := l.SharedKeys(l.t.Context(), s, from, thru, limit)
	if err != nil {
		l.t.Fatal(err)
	}
	return keys, reached
}

func revisionsPage(l *ledger, s store.Share, from, thru store.Position, limit int) ([]store.SharedKey, store.Position) {
	l.t.Helper()
	keys, reached, err := l.SharedRevisions(l.t.Context(), s, from, thru, limit)
	if err != nil {
		l.t.Fatal(err)
	}
	return keys, reached
}

func (l *ledger) log() store.Log {
	l.t.Helper()
	log, err := l.Log(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return log
}

// told pages through the whole log.
func (l *ledger) told(page toldPage, s store.Share, limit int) (all []exposure.Exposure) {
	l.t.Helper()
	end := l.log().End()
	for from := (store.Position{}); from.Before(end); {
		keys, reached := page(l, s, from, end, limit)
		if len(keys) > limit || !from.Before(reached) {
			l.t.Fatalf("a page of %d came from %v to %v with %d keys", limit, from, reached, len(keys))
		}
		for _, k := range keys {
			if !from.Before(k.At) || reached.Before(k.At) {
				l.t.Fatalf("a page from %v to %v has a key at %v", from, reached, k.At)
			}
			from = k.At
			all = append(all, k.Exposure)
		}
		from = reached
	}
	return all
}

var anyOrder = cmpopts.SortSlices(func(a, b exposure.Exposure) bool { return slices.Compare(a.Key[:], b.Key[:]) < 0 })

func TestNeighboursAreToldWhatBecameOfKeys(t *testing.T) {
	t.Parallel()
	now := entest.Noon()
	likely := entest.Exposures(1, 3, now, report(exposure.Likely))
	confirmed := entest.Exposures(1, 3, now)
	negative := entest.Exposures(1, 3, now, report(exposure.Revoked))
	for _, tc := range []struct {
		why           string
		then          []exposure.Exposure // revises likely
		between       bool                // seal before the revision
		keys, revised []exposure.Exposure
	}{
		{"unchanged", nil, true, likely, nil},
		{"revised in the same epoch: the outcome, once", confirmed, false, confirmed, nil},
		{"withdrawn in the same epoch: nothing", negative, false, nil, nil},
		{"revised later: as it was first, and then the revision", confirmed, true, likely, confirmed},
		{"withdrawn later: as it was first, and then the revision", negative, true, likely, negative},
	} {
		for _, limit := range []int{1, 500} {
			t.Run(tc.why, func(t *testing.T) {
				t.Parallel()
				l := newLedger(t)
				l.addExport("us", "US")
				l.options.MinRecords, l.options.MinRevised = 20, 5 // padding is never told
				l.add(l.upload(likely))
				if tc.between {
					l.seal()
				}
				if tc.then != nil {
					l.add(l.upload(tc.then, withToken(likely)))
				}
				l.seal()
				if l.count(`SELECT count(*) FROM exposure WHERE padding`) == 0 && tc.keys != nil {
					t.Fatal("there is no padding that could be told")
				}
				if diff := cmp.Diff(tc.keys, l.told(keysPage, usShare(), limit), anyOrder); diff != "" {
					t.Errorf("keys (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tc.revised, l.told(revisionsPage, usShare(), limit), anyOrder); diff != "" {
					t.Errorf("revisions (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestNeighboursAreToldTheirShare(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	traveler := func(e *exposure.Exposure) { e.Traveler = true }
	ours := []exposure.Exposure{
		entest.Exposure(1, l.now, regions("US")),
		entest.Exposure(2, l.now, regions("CA", "US")),
		entest.Exposure(3, l.now, regions("CA")),
		entest.Exposure(4, l.now, regions("MX", "US"), traveler),
	}
	for _, e := range ours {
		l.add(l.upload([]exposure.Exposure{e}))
	}
	canada, mexico := l.neighbour("ca"), l.neighbour("mx")
	l.addForeign(store.ForeignPage{Origin: canada, Keys: []exposure.Exposure{entest.Exposure(5, l.now, regions("CA", "US"))}})
	l.addForeign(store.ForeignPage{Origin: mexico, Keys: []exposure.Exposure{entest.Exposure(6, l.now, regions("MX"), traveler)}})
	l.seal()

	key := func(n int, regions ...string) exposure.Exposure {
		return entest.Exposure(n, l.now, func(e *exposure.Exposure) { e.Regions, e.Traveler = regions, n == 4 || n == 6 })
	}
	for _, tc := range []struct {
		why   string
		share store.Share
		want  []exposure.Exposure
	}{
		{"one region, and no other is told", store.Share{Regions: []string{"US"}}, []exposure.Exposure{key(1, "US"), key(2, "US"), key(4, "US"), key(5, "US")}},
		{
			"two regions",
			store.Share{Regions: []string{"CA", "MX"}},
			[]exposure.Exposure{key(2, "CA"), key(3, "CA"), key(4, "MX"), key(5, "CA"), key(6, "MX")},
		},
		{"what is excluded wins", store.Share{Regions: []string{"US"}, Excluded: []string{"CA"}}, []exposure.Exposure{key(1, "US"), key(4, "US")}},
		{"also over the very region", store.Share{Regions: []string{"US"}, Excluded: []string{"US"}}, nil},
		{"no region, no key", store.Share{}, nil},
		{"only travellers", store.Share{Regions: []string{"MX", "US"}, OnlyTravelers: true}, []exposure.Exposure{key(4, "MX", "US"), key(6, "MX")}},
		{"only our own apps'", store.Share{Regions: []string{"MX", "US"}, OnlyLocal: true}, []exposure.Exposure{key(1, "US"), key(2, "US"), key(4, "MX", "US")}},
		{"not what the neighbour sent", store.Share{Regions: []string{"CA", "MX"}, NotFrom: canada}, []exposure.Exposure{key(2, "CA"), key(3, "CA"), key(4, "MX"), key(6, "MX")}},
		{"a region of nobody", store.Share{Regions: []string{"AQ"}}, nil},
	} {
		t.Run(tc.why, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, l.told(keysPage, tc.share, 2), anyOrder); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

// A filter that lets little through must not make a page take long.
func TestPageLooksAtABoundedPartOfTheLog(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.arrive(25_000)
	l.seal()
	nobody, end := store.Share{Regions: []string{"AQ"}}, l.log().End()
	var steps []store.Position
	for from := (store.Position{}); from.Before(end); {
		keys, reached := keysPage(l, nobody, from, end, 500)
		if len(keys) != 0 {
			t.Fatal("there is a key of nobody's region")
		}
		steps, from = append(steps, reached), reached
	}
	want := []store.Position{{1, 10_000}, {1, 20_000}, {2, 0}}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("positions (-want +got):\n%s", diff)
	}
}

// Nothing between two pages moves a position: not an epoch that is sealed, not a
// day that is forgotten.
func TestPositionsStay(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	old := entest.Exposures(1, 10, l.now, func(e *exposure.Exposure) { e.Start = entest.DaysAgo(l.now, 10) })
	young := entest.Exposures(11, 10, l.now)
	l.add(l.upload(old))
	l.add(l.upload(young))
	l.seal()

	first, from := keysPage(l, usShare(), store.Position{}, l.log().End(), 4)
	l.now = l.now.Add(8 * 24 * time.Hour)
	if dropped := l.drop(); dropped == 0 {
		t.Fatal("no day was forgotten")
	}
	later := entest.Exposures(21, 3, l.now)
	if _, err := l.EnsurePartitions(t.Context(), l.now, retention); err != nil {
		t.Fatal(err)
	}
	l.add(l.upload(later))
	l.seal()

	var rest []exposure.Exposure
	for end := l.log().End(); from.Before(end); {
		var keys []store.SharedKey
		keys, from = keysPage(l, usShare(), from, end, 4)
		for _, k := range keys {
			rest = append(rest, k.Exposure)
		}
	}
	if diff := cmp.Diff(slices.Concat(young, later), rest, anyOrder); len(first) != 4 || diff != "" {
		t.Errorf("after a first page of %d (-want +got):\n%s", len(first), diff)
	}
}

func TestPositionAt(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	at := func(hour int) time.Time { return entest.Noon().Add(time.Duration(hour) * time.Hour) }
	check := func(why string, when time.Time, want store.Position) {
		t.Helper()
		got, err := l.PositionAt(t.Context(), when)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", why, diff)
		}
	}
	check("a log without epochs", at(0), store.Position{})

	l.exec(`INSERT INTO epoch SELECT n, $1::timestamptz + n * interval '1 hour', 1, 0, 0, 0 FROM generate_series(3, 8) AS n`, at(0))
	l.exec(`UPDATE epoch SET sealed_at = $1 WHERE epoch = 7`, at(4)) // by a clock that was slow
	for _, tc := range []struct {
		why  string
		hour int
		want store.Position
	}{
		{"between two epochs", 5, store.Position{Epoch: 5}},
		{"the very time", 4, store.Position{Epoch: 4}},
		{"a later epoch with an earlier time lies ahead", 6, store.Position{Epoch: 6}},
		{"older than what is remembered: everything, for keys outlive their epochs' times", 2, store.Position{}},
		{"as old as what is remembered", 3, store.Position{}},
		{"after everything", 9, store.Position{Epoch: 9}},
	} {
		check(tc.why, at(tc.hour), tc.want)
	}
}

func TestSealedAt(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.exec(`INSERT INTO epoch SELECT n, $1::timestamptz + n * interval '1 hour', 1, 0, 0, 0 FROM generate_series(3, 4) AS n`, entest.Noon())
	for _, tc := range []struct {
		why  string
		at   store.Position
		want time.Time
	}{
		{"the beginning", store.Position{}, time.Time{}},
		{"an epoch that is forgotten", store.Position{Epoch: 2, Ordinal: 7}, time.Time{}},
		{"in an epoch", store.Position{Epoch: 3, Ordinal: 1}, entest.Noon().Add(3 * time.Hour)},
		{"before an epoch: the one that is behind", store.Position{Epoch: 4}, entest.Noon().Add(3 * time.Hour)},
		{"the end", store.Position{Epoch: 5}, entest.Noon().Add(4 * time.Hour)},
	} {
		got, err := l.SealedAt(t.Context(), tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(tc.want) {
			t.Errorf("%s: sealed at %v, want %v", tc.why, got, tc.want)
		}
	}
}

func TestPeers(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.neighbour("mx")
	canada := l.neighbour("ca")
	l.exec(`UPDATE neighbour SET ended_at = $1 WHERE name = 'ca'`, l.now)
	l.exec(`INSERT INTO neighbour (kind, name) VALUES ('import', 'nz')`)
	l.exec(`
		INSERT INTO federation_allow (name, issuer, subject, audience, include_regions, exclude_regions)
		VALUES ('nz', 'https://idp.nz', 's', 'a', '{US}', '{CA,MX}'), ('ca', 'https://idp.ca', 's', 'a', '{}', '{}')`)
	got, err := l.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Peer{
		{AllowConfig: store.AllowConfig{Name: "ca", Issuer: "https://idp.ca", Subject: "s", Audience: "a"}, Origin: canada}, // what it sent is still there
		{AllowConfig: store.AllowConfig{Name: "nz", Issuer: "https://idp.nz", Subject: "s", Audience: "a", IncludeRegions: []string{"US"}, ExcludeRegions: []string{"CA", "MX"}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A page finds its rows by index, also when its statements were planned while
// the log was empty: else the first to ask after a deployment would make all
// that follow read the whole log, page for page.
func TestPagesAreReadByIndex(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	db, err := store.OpenForNeighbours(t.Context(), database.Settings{URL: l.url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	reader := &ledger{DB: db, t: t, url: l.url}
	ask := func() {
		end := store.Position{Epoch: 9}
		keysPage(reader, usShare(), store.Position{}, end, 500)
		revisionsPage(reader, usShare(), store.Position{}, end, 500)
	}
	ask()
	checkPlans(t, "planned while the log was empty", reader)

	l.arrive(20_000)
	l.exec(`
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		SELECT key, 1, start_interval, period, risk, 5, onset, traveler, regions, due_at FROM arrival WHERE get_byte(key, 0) < 64`)
	l.seal()
	l.exec(`ANALYZE exposure`)
	ask()
	checkPlans(t, "planned for what is there", reader)
}

// checkPlans looks at the plans that a pool's idle connection remembers.
func checkPlans(t *testing.T, why string, l *ledger) {
	t.Helper()
	conn, err := l.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	names, err := database.All[string](t.Context(), conn, `SELECT name FROM pg_prepared_statements WHERE statement ~ '^\s*WITH scanned' ORDER BY name`)
	if err != nil || len(names) != 2 {
		t.Fatalf("%d statements (%v), want that for keys and that for revisions", len(names), err)
	}
	for i, name := range names {
		index := []string{"epoch_ordinal_idx", "epoch_ordinal_idx1"}[i] // the second one knows revisions alone
		lines, err := database.All[string](t.Context(), conn, `EXPLAIN EXECUTE `+name+` (0, 0, 9, 0, 500, '{US}', '{}', false, false, 0, 10000)`)
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if wrong := regexp.MustCompile(`Seq Scan|Sort  |Bitmap|Hash|Materialize`).FindString(plan); wrong != "" {
			t.Errorf("%s: the plan has a %s:\n%s", why, wrong, plan)
		}
		scanned := regexp.MustCompile(`using exposure_\d+_`+index+` on exposure_\d+ exposure_`).FindAllString(plan, -1)
		joined := regexp.MustCompile(`using exposure_\d+_pkey on exposure_\d+ [rk]_`).FindAllString(plan, -1)
		if want := l.count(partitionCount); len(scanned) != want || len(joined) != want {
			t.Errorf("%s: %d days are read in order and %d by key, want %d:\n%s", why, len(scanned), len(joined), want, plan)
		}
	}
}
