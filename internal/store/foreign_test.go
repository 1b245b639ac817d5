package store_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// neighbour makes one, and gives its origin.
func (l *ledger) neighbour(name string) int {
	l.t.Helper()
	l.exec(`INSERT INTO neighbour (kind, name) VALUES ('federation', $1)`, name)
	return l.count(`SELECT origin FROM neighbour WHERE name = $1`, name)
}

func (l *ledger) tryForeign(p store.ForeignPage) (store.ForeignAdded, error) {
	p.Keys, p.Revisions = slices.Clone(p.Keys), slices.Clone(p.Revisions)
	return l.AddForeign(l.t.Context(), l.now, p, entest.Rules().Release)
}

func (l *ledger) addForeign(p store.ForeignPage) store.ForeignAdded {
	l.t.Helper()
	added, err := l.tryForeign(p)
	if err != nil {
		l.t.Fatal(err)
	}
	return added
}

// stored is a row of a key, wherever it is.
type stored struct {
	Key    int // number of entest.Key
	Event  int16
	Origin int
	Report exposure.Report
}

// stored gives all rows, of the keys from 1 to last.
func (l *ledger) stored(last int) []stored {
	l.t.Helper()
	numbers := map[exposure.Key]int{}
	for n := range last + 1 {
		numbers[entest.Key(n)] = n
	}
	type row struct {
		Key    []byte
		Event  int16
		Origin int
		Report exposure.Report
	}
	rows, err := database.All[row](l.t.Context(), l, `
		SELECT key, event, origin, report FROM arrival
		UNION ALL
		SELECT key, event, origin, report FROM exposure WHERE NOT padding`)
	if err != nil {
		l.t.Fatal(err)
	}
	var all []stored
	for _, r := range rows {
		all = append(all, stored{numbers[exposure.Key(r.Key)], r.Event, r.Origin, r.Report})
	}
	slices.SortFunc(all, func(a, b stored) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Event, b.Event)) })
	return all
}

// What becomes of a page after what came before it, whether that still waits
// or is sealed.
func TestAddForeign(t *testing.T) {
	t.Parallel()
	now := entest.Noon()
	key := func(edits ...func(*exposure.Exposure)) []exposure.Exposure {
		return entest.Exposures(1, 1, now, edits...)
	}
	likely, confirmed, revoked := report(exposure.Likely), report(exposure.Confirmed), report(exposure.Revoked)
	elsewhen := func(e *exposure.Exposure) { e.Start -= 144 }
	shorter := func(e *exposure.Exposure) { e.Period-- }

	const nobody, us, they, others = -1, 0, 1, 2 // origins
	rows := []struct {
		why       string
		by        int // who sent the likely key 1 before
		keys      []exposure.Exposure
		revisions []exposure.Exposure
		want      store.ForeignAdded
		stored    []stored // after all
	}{
		{"a new key", nobody, key(), nil, store.ForeignAdded{Inserted: 1}, []stored{{1, 0, they, exposure.Confirmed}}},
		{"the same again", they, key(likely), nil, dropped("known"), []stored{{1, 0, they, exposure.Likely}}},
		{"our own key stays ours", us, key(likely), nil, dropped("ours"), []stored{{1, 0, us, exposure.Likely}}},
		{"another neighbour's stays theirs", others, key(likely), nil, dropped("another's"), []stored{{1, 0, others, exposure.Likely}}},
		{"as a key it changes nothing", they, key(confirmed), nil, dropped("known"), []stored{{1, 0, they, exposure.Likely}}},

		{"a revision", they, nil, key(confirmed), store.ForeignAdded{Revised: 1}, []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Confirmed}}},
		{"a withdrawal", they, nil, key(revoked), store.ForeignAdded{Revised: 1}, []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Revoked}}},
		{"of our key", us, nil, key(revoked), dropped("ours"), []stored{{1, 0, us, exposure.Likely}}},
		{"of another neighbour's", others, nil, key(revoked), dropped("another's"), []stored{{1, 0, others, exposure.Likely}}},
		{"that changes nothing", they, nil, key(likely), dropped("known"), []stored{{1, 0, they, exposure.Likely}}},
		{"to what is not allowed", they, nil, key(report(exposure.Self)), dropped("change"), []stored{{1, 0, they, exposure.Likely}}},
		{"with another period", they, nil, key(confirmed, shorter), dropped("different"), []stored{{1, 0, they, exposure.Likely}}},

		{"with its key", nobody, key(likely), key(confirmed), store.ForeignAdded{Inserted: 1, Revised: 1}, []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Confirmed}}},
		{"with a key that is known", they, key(likely), key(confirmed), store.ForeignAdded{Revised: 1, Dropped: map[string]int{"known": 1}}, []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Confirmed}}},
		{"before its key", nobody, nil, key(confirmed), store.ForeignAdded{Held: 1}, nil},
		{"with its key under another start", nobody, key(likely), key(confirmed, elsewhen), store.ForeignAdded{Inserted: 1, Dropped: map[string]int{"different": 1}}, []stored{{1, 0, they, exposure.Likely}}},
	}
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed %t", sealed), func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			l.neighbour("ca")
			l.neighbour("mx")
			for i, row := range rows {
				before := entest.Exposures(i+1, 1, now, likely)
				if row.by == us {
					l.add(l.upload(before))
				} else if row.by != nobody {
					l.addForeign(store.ForeignPage{Origin: row.by, Keys: before})
				}
			}
			if sealed {
				l.seal()
			}
			var want []stored
			for i, row := range rows {
				got := l.addForeign(store.ForeignPage{Origin: they, Keys: numbered(i+1, row.keys), Revisions: numbered(i+1, row.revisions)})
				if diff := gocmp.Diff(row.want, got); diff != "" {
					t.Errorf("%s: added (-want +got):\n%s", row.why, diff)
				}
				for _, one := range row.stored {
					one.Key = i + 1
					want = append(want, one)
				}
			}
			for _, when := range []string{"at once", "in the log"} {
				if diff := gocmp.Diff(want, l.stored(len(rows))); diff != "" {
					t.Errorf("stored %s (-want +got):\n%s", when, diff)
				}
				l.seal()
			}
		})
	}
}

// numbered are exposures with Key(n).
func numbered(n int, all []exposure.Exposure) []exposure.Exposure {
	all = slices.Clone(all)
	for i := range all {
		all[i].Key = entest.Key(n)
	}
	return all
}

func dropped(reason string) store.ForeignAdded {
	return store.ForeignAdded{Dropped: map[string]int{reason: 1}}
}

// Nothing of a key is lost on the way into the log.
func TestAddForeignKeepsAllOfAKey(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US", `Q"U\O`)
	want := []exposure.Exposure{
		entest.Exposure(1, l.now, regions("CA", "US")),
		entest.Exposure(2, l.now, regions(`Q"U\O`, "US"), func(e *exposure.Exposure) { e.Traveler = true }),
		entest.Exposure(3, l.now, func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = false, 0 }),
		entest.Exposure(4, l.now, func(e *exposure.Exposure) { e.Risk, e.Period, e.DaysSinceOnset = 8, 1, -14 }),
	}
	l.addForeign(store.ForeignPage{Origin: l.neighbour("ca"), Keys: want})
	l.seal()
	for _, e := range want {
		trace, err := l.Trace(t.Context(), l.now, e.Key)
		if err != nil {
			t.Fatal(err)
		}
		if trace.Key == nil {
			t.Fatal("a key is not in the log")
		}
		if diff := gocmp.Diff(e, trace.Key.Exposure); diff != "" {
			t.Errorf("in the log (-want +got):\n%s", diff)
		}
	}
}

// A revision that comes before its key waits for it, of this neighbour and with
// this start, and counts once.
func TestHeldRevision(t *testing.T) {
	t.Parallel()
	now := entest.Noon()
	likely := entest.Exposures(1, 1, now, report(exposure.Likely))
	for _, tc := range []struct {
		why    string
		key    func(l *ledger, they, others int)
		stored []stored
		held   int // afterwards
	}{
		{"its key comes", func(l *ledger, they, _ int) {
			if got := l.addForeign(store.ForeignPage{Origin: they, Keys: likely}); got.Inserted != 1 || got.Revised != 1 {
				l.t.Errorf("got %+v, want the key and its revision", got)
			}
		}, []stored{{1, 0, 1, exposure.Likely}, {1, 1, 1, exposure.Revoked}}, 0},
		{"its key comes with another revision: the first counts", func(l *ledger, they, _ int) {
			l.addForeign(store.ForeignPage{Origin: they, Keys: likely, Revisions: entest.Exposures(1, 1, now)})
		}, []stored{{1, 0, 1, exposure.Likely}, {1, 1, 1, exposure.Revoked}}, 0},
		{"another neighbour sends the key", func(l *ledger, _, others int) {
			l.addForeign(store.ForeignPage{Origin: others, Keys: likely})
		}, []stored{{1, 0, 2, exposure.Likely}}, 1},
		{"a phone of ours uploads the key", func(l *ledger, _, _ int) {
			l.add(l.upload(likely))
		}, []stored{{1, 0, 0, exposure.Likely}}, 1},
		{"a phone of ours had uploaded it by then", func(l *ledger, they, _ int) {
			l.add(l.upload(likely))
			l.addForeign(store.ForeignPage{Origin: they, Keys: likely})
		}, []stored{{1, 0, 0, exposure.Likely}}, 0},
		{"the key comes under another start", func(l *ledger, they, _ int) {
			l.addForeign(store.ForeignPage{Origin: they, Keys: entest.Exposures(1, 1, now, report(exposure.Likely), func(e *exposure.Exposure) { e.Start -= 144 })})
		}, []stored{{1, 0, 1, exposure.Likely}}, 1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			they, others := l.neighbour("ca"), l.neighbour("mx")
			early := store.ForeignPage{Origin: they, Revisions: entest.Exposures(1, 1, now, report(exposure.Revoked))}
			if got := l.addForeign(early); got.Held != 1 {
				t.Errorf("got %+v, want it held", got)
			}
			if got := l.addForeign(early); got.Held != 0 || got.Dropped["known"] != 1 {
				t.Errorf("again: got %+v, want it known", got)
			}
			tc.key(l, they, others)
			if diff := gocmp.Diff(tc.stored, l.stored(1)); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
			if got := l.count(`SELECT count(*) FROM held_revision`); got != tc.held {
				t.Errorf("%d revisions are held, want %d", got, tc.held)
			}
		})
	}
}

// A revision whose key never comes goes with the day of the key.
func TestForgetHeldRevisions(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addForeign(store.ForeignPage{Origin: l.neighbour("ca"), Revisions: []exposure.Exposure{
		entest.Exposure(1, l.now, report(exposure.Revoked)),
		entest.Exposure(2, l.now, report(exposure.Revoked), func(e *exposure.Exposure) { e.Start -= 144 }),
	}})
	day := entest.DaysAgo(l.now, 1).Time()
	for _, tc := range []struct {
		why    string
		before time.Time
		want   int64
	}{
		{"the older day has not ended", day, 0},
		{"it has", day.Add(time.Second), 1},
		{"the last second of the newer", day.Add(24 * time.Hour), 0},
		{"over", day.Add(24*time.Hour + time.Second), 1},
	} {
		if got, err := l.ForgetHeldRevisions(t.Context(), tc.before); err != nil || got != tc.want {
			t.Errorf("%s: %d revisions went, %v, want %d", tc.why, got, err, tc.want)
		}
	}
}

// Whoever publishes a copy of a neighbour's key under another start, and even
// revises that, must keep neither the neighbour's revision out nor its other
// keys waiting.
func TestAnotherStartDoesNotForbidANeighboursRevision(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	they := l.neighbour("ca")
	elsewhen := entest.Exposures(1, 1, l.now, report(exposure.Likely), func(e *exposure.Exposure) { e.Start -= 144 })
	l.addForeign(store.ForeignPage{Origin: they, Keys: entest.Exposures(1, 1, l.now, report(exposure.Likely))})
	l.seal()
	l.add(l.upload(elsewhen))
	l.add(l.upload(entest.Exposures(1, 1, l.now, func(e *exposure.Exposure) { e.Start -= 144 }), withToken(elsewhen)))

	got := l.addForeign(store.ForeignPage{Origin: they, Keys: entest.Exposures(2, 1, l.now), Revisions: entest.Exposures(1, 1, l.now, report(exposure.Revoked))})
	if diff := gocmp.Diff(store.ForeignAdded{Inserted: 1, Revised: 1}, got); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	l.seal()
	want := []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Revoked}, {2, 0, they, exposure.Confirmed}}
	if diff := gocmp.Diff(want, l.stored(2)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// Embargo by our own clock: a key that phones still accept is not sealed, nor
// is its revision before it.
func TestForeignKeysAreEmbargoed(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	today := entest.Exposures(1, 1, l.now, report(exposure.Likely), func(e *exposure.Exposure) { e.Start = exposure.IntervalOf(l.now) - 6 })
	withdrawn := slices.Clone(today)
	withdrawn[0].Report = exposure.Revoked
	l.addForeign(store.ForeignPage{Origin: l.neighbour("ca"), Keys: today, Revisions: withdrawn})

	if got := l.seal(); got.Keys+got.Revisions != 0 {
		t.Errorf("sealed %+v, want nothing while phones accept the key", got)
	}
	l.now = today[0].Release()
	if got := l.seal(); got.Keys != 1 || got.Revisions != 1 {
		t.Errorf("sealed %+v, want both at the end of the embargo", got)
	}
}

// The cursor moves with the page, and only from where the page began.
func TestCursor(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	they := l.neighbour("ca")
	page := func(n int, from, to string) store.ForeignPage {
		p := store.ForeignPage{Origin: they, Keys: entest.Exposures(10*n, 3, l.now), To: []byte(to), Newest: l.now.Add(time.Duration(n) * time.Minute)}
		if from != "" {
			p.From = []byte(from)
		}
		return p
	}
	conflict := func(p store.ForeignPage, why string) {
		t.Helper()
		if _, err := l.tryForeign(p); errs.KindOf(err) != errs.KindConflict {
			t.Errorf("%s: got %v, want a conflict", why, err)
		}
	}
	conflict(page(1, "a", "b"), "there is no cursor yet")
	l.addForeign(page(1, "", "a"))
	conflict(page(2, "", "a"), "from the beginning once more")
	l.addForeign(page(2, "a", "b"))
	conflict(page(3, "a", "c"), "the page was taken by somebody else")
	l.addForeign(page(3, "b", "b"))
	l.addForeign(store.ForeignPage{Origin: they, Keys: entest.Exposures(40, 3, l.now)})

	if got, err := l.Cursor(t.Context(), they); err != nil || string(got) != "b" {
		t.Errorf("the cursor is %q, %v, want b", got, err)
	}
	if got := l.count(`SELECT count(*) FROM arrival`); got != 12 {
		t.Errorf("%d keys are stored, want the 12 of the pages that were taken", got)
	}
	l.exec(`UPDATE neighbour SET ended_at = now()`)
	conflict(page(5, "b", "c"), "nobody wants them any more")
	if _, err := l.Cursor(t.Context(), they); errs.KindOf(err) != errs.KindNotFound {
		t.Errorf("the cursor of a neighbour that is gone gives %v", err)
	}
}

// Two that pull the same neighbour at once share its pages: each is stored once.
func TestTwoPullsAtOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	they := l.neighbour("ca")
	const pages = 20
	var stored atomic.Int64
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			for n := range pages {
				p := store.ForeignPage{Origin: they, Keys: entest.Exposures(10*n, 10, l.now), To: []byte{byte(n + 1)}}
				if n > 0 {
					p.From = []byte{byte(n)}
				}
				added, err := l.tryForeign(p)
				if err != nil && errs.KindOf(err) != errs.KindConflict {
					return err
				}
				stored.Add(int64(added.Inserted))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := l.count(`SELECT n FROM neighbour_count WHERE what = 'keys'`); got != 10*pages || stored.Load() != 10*pages {
		t.Errorf("%d keys are counted and %d were told, want %d once", got, stored.Load(), 10*pages)
	}
}

// Neighbours and phones bring the same keys in opposite orders, with seals in
// between: nobody deadlocks, no key is stored twice, and each has one owner.
func TestForeignAndUploadsAndSealsTogether(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	origins := []int{l.neighbour("ca"), l.neighbour("mx")}
	const rounds, keys = 30, 40
	pages := entest.Exposures(1, keys, l.now, report(exposure.Likely))
	var g errgroup.Group
	for _, origin := range origins {
		g.Go(func() error {
			for i := range rounds {
				mine := slices.Clone(pages)
				rand.Shuffle(keys, func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
				revised := entest.Exposures(1+i, 5, l.now)
				if _, err := l.tryForeign(store.ForeignPage{Origin: origin, Keys: mine[:20], Revisions: revised}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ups := make([]store.Upload, rounds)
	for i := range ups {
		ups[i] = l.upload(slices.Clone(pages[i : i+10]))
	}
	g.Go(func() error {
		for _, up := range ups {
			slices.Reverse(up.Keys)
			if _, err := l.try(up); err != nil && errs.KindOf(err) != errs.KindInvalid {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		for range rounds {
			if _, err := l.Seal(t.Context(), l.now, l.options); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	l.seal()
	if got := l.count(`SELECT count(*) - count(DISTINCT (key, event)) FROM exposure`); got != 0 {
		t.Errorf("%d rows are in the log twice", got)
	}
	if got := l.count(`SELECT count(*) FROM exposure r JOIN exposure k USING (key) WHERE r.event = 1 AND k.event = 0 AND (r.origin <> k.origin OR r.origin = 0)`); got != 0 {
		t.Errorf("%d revisions are not of who sent the key", got)
	}
	sum := l.count(`SELECT coalesce(sum(n), 0)::integer FROM neighbour_count WHERE what = 'keys'`)
	if got := l.count(`SELECT count(*) FROM exposure WHERE event = 0 AND origin > 0`); got != sum {
		t.Errorf("%d keys of neighbours are in the log, %d were counted", got, sum)
	}
}

// A page that repeats a key whose revision still waits brings another revision:
// the waiting one counts, and the page is stored.
func TestRevisionOfASealedKeyWaits(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	they := l.neighbour("ca")
	likely := entest.Exposures(1, 1, l.now, report(exposure.Likely))
	l.addForeign(store.ForeignPage{Origin: they, Keys: likely})
	l.seal()
	l.addForeign(store.ForeignPage{Origin: they, Revisions: entest.Exposures(1, 1, l.now)})
	got := l.addForeign(store.ForeignPage{Origin: they, Keys: likely, Revisions: entest.Exposures(1, 1, l.now, report(exposure.Revoked))})
	if diff := gocmp.Diff(store.ForeignAdded{Dropped: map[string]int{"known": 1, "revised": 1}}, got); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	want := []stored{{1, 0, they, exposure.Likely}, {1, 1, they, exposure.Confirmed}}
	if diff := gocmp.Diff(want, l.stored(1)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// A context that ends, or a connection that is cut, at any moment: the page is
// there whole with its cursor, or not at all.
func TestAddForeignCutOff(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	they := l.neighbour("ca")
	seen := map[int]bool{}
	for n := 0; n < 40 || len(seen) < 2 && n < 400; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*200*time.Microsecond)
		before := l.count(`SELECT count(*) FROM arrival`)
		p := store.ForeignPage{
			Origin: they, To: []byte(fmt.Sprint(n)),
			Keys:      entest.Exposures(100*n, 50, l.now, report(exposure.Likely)),
			Revisions: entest.Exposures(100*n+25, 50, l.now),
		}
		var err error
		if p.From, err = l.Cursor(t.Context(), they); err != nil {
			t.Fatal(err)
		}
		_, err = l.AddForeign(ctx, l.now, p, entest.Rules().Release)
		cancel()
		added := l.count(`SELECT count(*) FROM arrival`) - before
		cursor, cursorErr := l.Cursor(t.Context(), they)
		if cursorErr != nil {
			t.Fatal(cursorErr)
		}
		moved := slices.Equal(cursor, p.To)
		if added != 0 && added != 75 || (added == 75) != moved || err == nil && !moved {
			t.Fatalf("after %v: %d rows are stored and the cursor moved is %t, want both or neither", err, added, moved)
		}
		seen[added] = true
	}
}

// Any sequence of pages and uploads ends as the plain rules say: the first who
// sends a key has it, only they revise it, once, and not beyond what is allowed.
func TestAddForeignAgainstAModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	l := newLedger(t)
	m := model{keys: map[int]stored{}, revisions: map[int]stored{}, held: map[[2]int]exposure.Report{}}
	origins := []int{l.neighbour("ca"), l.neighbour("mx")}
	reports := []exposure.Report{exposure.Confirmed, exposure.Likely, exposure.Self}
	const keys = 40
	for range 150 {
		switch n := random.IntN(10); {
		case n == 0:
			l.seal()
		case n == 1:
			k := 1 + random.IntN(keys)
			if _, err := l.try(l.upload(entest.Exposures(k, 1, l.now, report(exposure.Likely)))); err == nil {
				m.key(k, 0, exposure.Likely)
			}
		default:
			p := store.ForeignPage{Origin: origins[random.IntN(2)]}
			for _, k := range random.Perm(keys)[:random.IntN(8)] {
				p.Keys = append(p.Keys, entest.Exposure(k+1, l.now, report(reports[random.IntN(3)])))
			}
			for _, k := range random.Perm(keys)[:random.IntN(8)] {
				p.Revisions = append(p.Revisions, entest.Exposure(k+1, l.now, report(append(reports, exposure.Revoked)[random.IntN(4)])))
			}
			m.page(p)
			l.addForeign(p)
		}
		if diff := gocmp.Diff(m.stored(), l.stored(keys)); diff != "" {
			t.Fatalf("stored (-want +got):\n%s", diff)
		}
		if got := l.count(`SELECT count(*) FROM held_revision`); got != len(m.held) {
			t.Fatalf("%d revisions are held, want %d", got, len(m.held))
		}
	}
}

// model is what AddForeign should do, in maps.
type model struct {
	keys, revisions map[int]stored
	held            map[[2]int]exposure.Report // by origin and key
}

func (m *model) page(p store.ForeignPage) {
	for _, e := range p.Keys {
		m.key(number(e), p.Origin, e.Report)
	}
	for _, e := range p.Revisions {
		m.revise(number(e), p.Origin, e.Report)
	}
}

// number finds the n of entest.Key(n).
func number(e exposure.Exposure) int {
	n := 0
	for entest.Key(n) != e.Key {
		n++
	}
	return n
}

func (m *model) key(k, origin int, r exposure.Report) {
	if _, known := m.keys[k]; !known {
		m.keys[k] = stored{k, 0, origin, r}
	}
	early, held := m.held[[2]int{origin, k}]
	if held {
		delete(m.held, [2]int{origin, k})
		m.revise(k, origin, early)
	}
}

func (m *model) revise(k, origin int, to exposure.Report) {
	old, known := m.keys[k]
	if !known {
		if _, held := m.held[[2]int{origin, k}]; !held {
			m.held[[2]int{origin, k}] = to
		}
		return
	}
	if _, again := m.revisions[k]; again || old.Origin != origin || old.Report == to || old.Report == exposure.Confirmed {
		return
	}
	if to == exposure.Self {
		return
	}
	m.revisions[k] = stored{k, 1, origin, to}
}

func (m *model) stored() (all []stored) {
	for _, k := range slices.Sorted(maps.Keys(m.keys)) {
		all = append(all, m.keys[k])
		if r, ok := m.revisions[k]; ok {
			all = append(all, r)
		}
	}
	return all
}

// BenchmarkAddForeign stores pages of new keys, beside -speed.keys that are
// retained.
func BenchmarkAddForeign(b *testing.B) {
	for _, size := range []int{500, 5_000, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newLedger(b)
			l.arrive(*speedKeys)
			l.seal()
			they := l.neighbour("ca")
			keys := 0
			for b.Loop() {
				b.StopTimer()
				page := make([]exposure.Exposure, size)
				for i := range page {
					keys++
					page[i] = entest.Exposure(keys, l.now, func(e *exposure.Exposure) { e.Start -= exposure.Interval(144 * (keys % 14)) })
				}
				b.StartTimer()
				if _, err := l.AddForeign(b.Context(), l.now, store.ForeignPage{Origin: they, Keys: page}, entest.Rules().Release); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(keys)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
