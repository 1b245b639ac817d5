package serve_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
)

var anyOrder = cmpopts.SortSlices(func(a, b exposure.Exposure) bool { return slices.Compare(a.Key[:], b.Key[:]) < 0 })

// naive is what a neighbour must have been told after it has read a log: worked
// out from the rows one by one, by what the agreement says.
func naive(log []sealed, include, exclude []string, ask *federationpb.FederationFetchRequest, peer int) (keys, revised []exposure.Exposure) {
	for _, row := range log {
		told, ok := may(row, include, exclude, ask, peer)
		if !ok {
			continue
		}
		other := slices.IndexFunc(log, func(o sealed) bool { return o.Key == row.Key && o.revision != row.revision })
		together := other >= 0 && log[other].epoch == row.epoch
		switch {
		case row.revision && !together:
			revised = append(revised, told)
		case row.revision:
		case together:
			told.Report, told.Risk = log[other].Report, log[other].Risk
			told.HasOnset, told.DaysSinceOnset = log[other].HasOnset, log[other].DaysSinceOnset
			if told.Report != exposure.Revoked {
				keys = append(keys, told)
			}
		default:
			keys = append(keys, told)
		}
	}
	return keys, revised
}

// may tells whether a neighbour may hear of a key, and with which regions.
func may(row sealed, include, exclude []string, ask *federationpb.FederationFetchRequest, peer int) (exposure.Exposure, bool) {
	told := row.Exposure
	told.Regions = nil
	for _, region := range row.Regions {
		if has(exclude, region) || has(ask.GetExcludeRegions(), region) {
			return told, false
		}
		if has(include, region) && (len(ask.GetIncludeRegions()) == 0 || has(ask.GetIncludeRegions(), region)) {
			told.Regions = append(told.Regions, region)
		}
	}
	return told, len(told.Regions) > 0 &&
		(row.Traveler || !ask.GetOnlyTravelers()) &&
		(row.origin == 0 || !ask.GetOnlyLocalProvenance()) &&
		(row.origin == 0 || row.origin != peer)
}

func has(list []string, region string) bool {
	return slices.ContainsFunc(list, func(r string) bool { return strings.EqualFold(r, region) })
}

// world draws logs and requests at random.
type world struct {
	*rand.Rand
	next int // number of the next key
}

func (w *world) some(from []string, chance float64) (list []string) {
	for _, x := range from {
		if w.Float64() < chance {
			list = append(list, x)
		}
	}
	return list
}

// epoch draws the rows of one: new keys, and revisions of these and of those
// that are there.
func (w *world) epoch(log []sealed, origins []int, epoch int32) (rows []sealed) {
	for range w.IntN(25) {
		w.next++
		e := entest.Exposure(w.next, entest.Noon(), func(e *exposure.Exposure) {
			e.Start -= exposure.Interval(144 * w.IntN(10))
			e.Report = []exposure.Report{exposure.Likely, exposure.Self, exposure.Confirmed}[w.IntN(3)]
			e.Traveler = w.IntN(3) == 0
			e.Regions = w.some([]string{"CA", "MX", "NZ", "US"}, 0.4)
			if len(e.Regions) == 0 {
				e.Regions = []string{"US"}
			}
			if e.HasOnset = w.IntN(4) > 0; !e.HasOnset {
				e.DaysSinceOnset = 0
			}
		})
		rows = append(rows, sealed{Exposure: e, origin: origins[w.IntN(len(origins))], epoch: epoch})
	}
	for _, row := range slices.Concat(log, rows) {
		revised := slices.ContainsFunc(log, func(o sealed) bool { return o.revision && o.Key == row.Key })
		if row.revision || revised || row.Report == exposure.Confirmed || w.IntN(4) > 0 {
			continue
		}
		row.revision, row.epoch = true, epoch
		row.Report = []exposure.Report{exposure.Confirmed, exposure.Revoked}[w.IntN(2)]
		row.HasOnset, row.DaysSinceOnset = true, int32(w.IntN(20)-10)
		rows = append(rows, row)
	}
	return rows
}

func (w *world) request() *federationpb.FederationFetchRequest {
	asked := []string{"CA", "mx", "Nz", "US", "AQ"}
	ask := &federationpb.FederationFetchRequest{
		ExcludeRegions: w.some(asked, 0.1), OnlyTravelers: w.IntN(4) == 0, OnlyLocalProvenance: w.IntN(4) == 0,
		MaxExposureKeys: []uint32{0, 1, 2, 3, 7, 1 << 31}[w.IntN(6)],
	}
	if w.IntN(2) == 0 {
		ask.IncludeRegions = w.some(asked, 0.5)
	}
	return ask
}

// Whatever is in the log, whoever asks for whatever, in pages of whatever size,
// while the log grows: in the end a neighbour has been told what it may know,
// each thing once, and of no revision before its key.
func TestPagesAddUp(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := &world{Rand: rand.New(rand.NewPCG(seed, 5))}
			s := newStation(t)
			s.export()
			origins := []int{0, 0, 0}
			for _, name := range []string{"a", "b"} {
				s.exec(`INSERT INTO neighbour (kind, name) VALUES ('federation', $1)`, name)
				origins = append(origins, len(origins)-2) // the first is 1
			}
			var readers []*reader
			for n := range 12 {
				readers = append(readers, newReader(s, w, n))
			}
			var log []sealed
			for range 8 {
				first := s.epochs()
				rows := w.epoch(log, origins, first+1)
				s.seal(rows...)
				if s.epochs() == first { // nothing came
					continue
				}
				log = append(log, rows...)
				for _, r := range readers {
					if w.IntN(2) == 0 {
						r.pull(1 + w.IntN(5)) // the others have more to catch up with
					}
				}
			}
			for _, r := range readers {
				r.pull(1 << 20)
				r.check(log)
			}
		})
	}
}

func (s *station) epochs() int32 {
	s.t.Helper()
	log, err := s.db.Log(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return log.LastEpoch
}

// reader is a neighbour with a state.
type reader struct {
	*station
	name             string
	peer             int // origin of what it sent us
	include, exclude []string
	ask              *federationpb.FederationFetchRequest

	keys, revised []exposure.Exposure
	known         map[exposure.Key]bool
}

func newReader(s *station, w *world, n int) *reader {
	all := []string{"CA", "MX", "NZ", "US"}
	r := &reader{
		station: s, name: fmt.Sprint("reader-", n), include: w.some(all, 0.7), exclude: w.some(all, 0.15),
		ask: w.request(), known: map[exposure.Key]bool{},
	}
	if n < 2 { // the same as those who sent keys
		r.name, r.peer = string(rune('a'+n)), n+1
	}
	s.allow(r.name, "subject-"+r.name, r.include, r.exclude)
	return r
}

// pull asks for so many pages, or until there is no more.
func (r *reader) pull(pages int) {
	r.t.Helper()
	ctx := r.as("subject-" + r.name)
	for range pages {
		answer := r.fetch(ctx, r.ask)
		if most := r.ask.GetMaxExposureKeys(); most > 0 && len(answer.GetKeys())+len(answer.GetRevisedKeys()) > int(most) {
			r.t.Errorf("%s: a page of %d has %d keys and %d revised ones", r.name, most, len(answer.GetKeys()), len(answer.GetRevisedKeys()))
		}
		for _, k := range r.read(answer.GetKeys()) {
			r.known[k.Key] = true
			r.keys = append(r.keys, k)
		}
		for _, k := range r.read(answer.GetRevisedKeys()) {
			if !r.known[k.Key] {
				r.t.Errorf("%s heard of a revision before its key", r.name)
			}
			r.revised = append(r.revised, k)
		}
		r.ask.State = answer.GetNextFetchState()
		if !answer.GetPartialResponse() {
			return
		}
	}
}

func (r *reader) check(log []sealed) {
	r.t.Helper()
	keys, revised := naive(log, r.include, r.exclude, r.ask, r.peer)
	if diff := gocmp.Diff(keys, r.keys, anyOrder, cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("%s, allowed %v without %v, asking %v, was told (-want +got):\n%s", r.name, r.include, r.exclude, r.ask, diff)
	}
	if diff := gocmp.Diff(revised, r.revised, anyOrder, cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("%s, allowed %v without %v, asking %v, was told as revised (-want +got):\n%s", r.name, r.include, r.exclude, r.ask, diff)
	}
}

func TestManyKeysOfOneInstant(t *testing.T) {
	t.Parallel()
	const many = 12_345
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.exec(`
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		SELECT decode(md5(n::text), 'hex'), 0, $2, 144, 2, 1, 3, false, '{US}', $3
		FROM   generate_series(1, $1) AS n`, many, int32(entest.DaysAgo(s.now(), 1)), s.now())
	s.sealArrivals()
	for _, tc := range []struct {
		why   string
		asked uint32
		pages int
	}{
		{"as many as we like", 0, 25},
		{"as many as there may be", 1 << 31, 2},
		{"a number", 1000, 13},
	} {
		got := s.pull(s.as(subject), &federationpb.FederationFetchRequest{MaxExposureKeys: tc.asked})
		distinct := map[exposure.Key]bool{}
		for _, k := range got.keys {
			distinct[k.Key] = true
		}
		if len(got.keys) != many || len(distinct) != many || got.pages != tc.pages {
			t.Errorf("%s: %d keys, %d of them distinct, in %d pages; want %d in %d", tc.why, len(got.keys), len(distinct), got.pages, many, tc.pages)
		}
	}
}

// A neighbour that keeps its old state gets the same page again and again; one
// that goes on after the end gets nothing, and then what is new.
func TestStatesThatComeAgain(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	s.seal(keys(entest.Exposures(1, 20, s.now()))...)
	ctx := s.as(subject)

	first := s.fetch(ctx, &federationpb.FederationFetchRequest{MaxExposureKeys: 8})
	ask := &federationpb.FederationFetchRequest{MaxExposureKeys: 8, State: first.GetNextFetchState()}
	second := s.fetch(ctx, ask)
	for range 5 {
		if again := s.fetch(ctx, ask); !proto.Equal(second, again) {
			t.Fatal("the same state gives another page")
		}
	}
	end := s.pull(ctx, ask)
	if got := len(first.GetKeys()) + len(end.keys); got != 20 {
		t.Errorf("%d keys, want 20", got)
	}
	for range 50 {
		answer := s.fetch(ctx, &federationpb.FederationFetchRequest{State: end.state})
		if len(answer.GetKeys()) > 0 || answer.GetPartialResponse() || !proto.Equal(answer.GetNextFetchState(), end.state) {
			t.Fatalf("after the end there are %d keys more, or another place", len(answer.GetKeys()))
		}
	}
	s.seal(keys(entest.Exposures(21, 3, s.now()))...)
	if diff := gocmp.Diff(entest.Exposures(21, 3, s.now()), s.pull(ctx, &federationpb.FederationFetchRequest{State: end.state}).keys, anyOrder); diff != "" {
		t.Errorf("what is new (-want +got):\n%s", diff)
	}
}

// A neighbour that is allowed nothing is led nowhere: the day it is allowed
// something it gets all of it.
func TestNothingAllowed(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, nil, nil)
	s.seal(keys(entest.Exposures(1, 5, s.now()))...)
	ctx := s.as(subject)
	none := s.pull(ctx, &federationpb.FederationFetchRequest{})
	if len(none.keys) > 0 || none.pages != 1 {
		t.Fatalf("who is allowed nothing got %d keys in %d pages", len(none.keys), none.pages)
	}
	s.exec(`UPDATE federation_allow SET include_regions = '{US}'`)
	s.pass(serve.PeersAge)
	if got := s.pull(ctx, &federationpb.FederationFetchRequest{State: none.state}); len(got.keys) != 5 {
		t.Errorf("later it got %d keys, want 5", len(got.keys))
	}
}

// Many regions make keys long; clients take 4 MiB.
func TestPagesHaveASizeThatClientsTake(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	var long []string
	for n := range 100 {
		long = append(long, fmt.Sprintf("%03d-%s", n, strings.Repeat("X", 36)))
	}
	s.allow("ca", subject, long, nil)
	s.exec(`
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		SELECT decode(md5(n::text), 'hex'), 0, $1, 144, 2, 1, 3, false, $2, $3
		FROM   generate_series(1, 2000) AS n`, int32(entest.DaysAgo(s.now(), 1)), long, s.now())
	s.sealArrivals()
	got := s.pull(s.as(subject), &federationpb.FederationFetchRequest{MaxExposureKeys: 10_000})
	if len(got.keys) != 2000 || got.pages != 3 {
		t.Errorf("%d keys in %d pages, want 2000 in 3", len(got.keys), got.pages)
	}
}
