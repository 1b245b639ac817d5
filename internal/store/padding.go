package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"math/big"
	"slices"

	"github.com/jackc/pgx/v4"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
)

// maxCells bounds how many cells of one batch are padded each on its own: every
// phone downloads what they cost. The smallest beyond it share one minimum.
const maxCells = 32

// cell is the set of audiences that reach the same exports. Whoever compares
// the files of two exports sees cells, so each needs a crowd of its own.
type cell struct {
	audiences []audience
	real      int
	padding   int
}

// args turns the audiences on their side, for unnest. A set of
// regions becomes its text, since arrays of arrays must be of one length.
func (c cell) args() []any {
	var regions []string
	var travelers, foreign []bool
	for _, a := range c.audiences {
		regions = append(regions, arrayText(a.Regions))
		travelers = append(travelers, a.Traveler)
		foreign = append(foreign, a.Foreign)
	}
	return []any{regions, travelers, foreign}
}

func arrayText(regions []string) string {
	var b bytes.Buffer
	for i, r := range regions {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q", r)
	}
	return "{" + b.String() + "}"
}

// inCell selects the rows of a cell, given as $9 to $11.
const inCell = `EXISTS (
	SELECT FROM unnest($9::text[], $10::boolean[], $11::boolean[]) AS a (regions, traveler, is_foreign)
	WHERE  a.regions::text[] = p.regions AND a.traveler = p.traveler AND a.is_foreign = (p.origin <> 0)
)`

// filling is one kind of record that is filled up to a minimum.
type filling struct {
	of   func(t tally) bool // the kind
	lack func(c cell) int   // how many a cell needs
	fill func(ctx context.Context, x exportRow, c cell, need int) error
}

// fillings are the kinds, in their order: a revision may withdraw a padding key
// that another export has not published yet and counts on. Keys that can still
// be revised come last: of those, generated ones alone count, since they are
// the company of later revisions, also where the batch is large by itself.
func (s *sealing) fillings() []filling {
	return []filling{
		{
			of:   func(t tally) bool { return t.Revised },
			lack: func(c cell) int { return s.MinRevised - c.real - c.padding },
			fill: s.padRevisions,
		},
		{
			of:   func(t tally) bool { return !t.Revised },
			lack: func(c cell) int { return s.MinRecords - c.real - c.padding },
			fill: s.padKeys,
		},
		{
			of:   func(t tally) bool { return t.Revisable },
			lack: func(c cell) int { return s.MinRevised - c.padding },
			fill: s.padRevisable,
		},
	}
}

// pad fills up what an export is about to publish: each cell that holds a real
// record of the kind to its minimum.
func (s *sealing) pad(ctx context.Context, x exportRow, counts []tally, kind filling) error {
	for _, c := range s.cells(counts, kind.of) {
		lacking := kind.lack(c)
		if lacking <= 0 {
			continue
		}
		extra, err := randomUpTo(s.PaddingRange)
		if err != nil {
			return err
		}
		if err := kind.fill(ctx, x, c, lacking+extra); err != nil {
			return err
		}
		s.result.Cells++
	}
	return nil
}

// tally counts records of a kind and a key day in a stretch.
type tally struct {
	Day       exposure.Day
	Regions   []string
	Traveler  bool
	Foreign   bool
	Revised   bool
	Revisable bool // published first, with a report that may change
	Real      int
	Padding   int
}

// revisable selects keys that are published first, with a report that may
// change: likely, or a user's own (exposure.Decide).
const revisable = `NOT revised AND report IN (2, 3)`

// tally counts what a stretch publishes.
func (s *sealing) tally(ctx context.Context, r stretch) ([]tally, error) {
	if r.firstEpoch > r.lastEpoch {
		return nil, nil
	}
	return database.All[tally](ctx, s.tx, `
		SELECT   start_interval / 144 AS day, regions, traveler, origin <> 0 AS "foreign", revised, `+revisable+` AS revisable,
		         count(*) FILTER (WHERE NOT padding) AS real, count(*) FILTER (WHERE padding) AS padding
		FROM     (`+published+`) AS p
		WHERE    `+covered+`
		GROUP BY 1, 2, 3, 4, 5, 6
		ORDER BY 1`, r.args()...)
}

// cells adds a tally of a kind up by cell, and leaves those out that hold no
// real record.
func (s *sealing) cells(counts []tally, kind func(t tally) bool) []cell {
	byReach := map[string]*cell{}
	for _, t := range counts {
		if !kind(t) {
			continue
		}
		a := audience{t.Regions, t.Traveler, t.Foreign}
		c := byReach[s.reach(a)]
		if c == nil {
			c = &cell{}
			byReach[s.reach(a)] = c
		}
		if !slices.ContainsFunc(c.audiences, a.equal) {
			c.audiences = append(c.audiences, a)
		}
		c.real += t.Real
		c.padding += t.Padding
	}
	return boundCells(byReach)
}

// reach names the exports that a kind of key reaches.
func (s *sealing) reach(a audience) string {
	var reached []int
	for _, x := range s.exports {
		if !x.ended(s.now) && x.filter().covers(a) {
			reached = append(reached, x.ExportID)
		}
	}
	return fmt.Sprint(reached)
}

// boundCells orders cells by size, in a stable order, and merges the smallest
// beyond the bound.
func boundCells(byReach map[string]*cell) []cell {
	var cells []cell
	names := make([]string, 0, len(byReach))
	for name, c := range byReach {
		if c.real > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(byReach[b].real, byReach[a].real), cmp.Compare(a, b))
	})
	for i, name := range names {
		c := *byReach[name]
		if i < maxCells {
			cells = append(cells, c)
			continue
		}
		last := &cells[maxCells-1]
		last.audiences = append(last.audiences, c.audiences...)
		last.real += c.real
		last.padding += c.padding
	}
	return cells
}

// record is what a row says about a key, and the key where it matters.
type record struct {
	Key           []byte
	StartInterval exposure.Interval
	Period        int16
	Report        int16
	Risk          int16
	Onset         *int16
	Regions       []string
	Traveler      bool
	Origin        int32 // so that padding reaches those whom its model reaches
}

// padKeys adds generated keys that look like the real ones of their cell: each
// real one's company at least once, then any one's.
func (s *sealing) padKeys(ctx context.Context, x exportRow, c cell, need int) error {
	return s.padLike(ctx, x, c, need, `NOT revised`)
}

// padRevisable adds generated keys that look like real ones of their cell that
// can still be revised.
func (s *sealing) padRevisable(ctx context.Context, x exportRow, c cell, need int) error {
	return s.padLike(ctx, x, c, need, revisable)
}

// padLike adds copies of the real keys that a condition selects. It reads no
// more of them than it copies.
func (s *sealing) padLike(ctx context.Context, x exportRow, c cell, need int, which string) error {
	models, err := database.All[record](ctx, s.tx, `
		SELECT start_interval, period, report, risk, onset, regions, traveler, origin
		FROM   (`+published+`) AS p
		WHERE  `+which+`
		AND    NOT padding
		AND    `+covered+`
		AND    `+inCell+`
		ORDER BY random()
		LIMIT  $12`, s.wholeRange(x).args(append(c.args(), need)...)...)
	if err != nil {
		return err
	}
	made := make([]record, need)
	for i := range made {
		model := models[i%len(models)]
		if i >= len(models) {
			n, err := randomUpTo(len(models) - 1)
			if err != nil {
				return err
			}
			model = models[n]
		}
		model.Key = make([]byte, exposure.KeySize)
		if _, err := rand.Read(model.Key); err != nil {
			return err
		}
		made[i] = model
	}
	return s.insertPadding(ctx, 0, made)
}

// insertPadding stores generated events in this run's epoch, marked.
func (s *sealing) insertPadding(ctx context.Context, kind int16, made []record) error {
	if len(made) == 0 {
		return nil
	}
	if err := s.openEpoch(ctx); err != nil {
		return err
	}
	slices.SortFunc(made, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.StartInterval, b.StartInterval), bytes.Compare(a.Key, b.Key))
	})
	n, err := s.tx.CopyFrom(ctx, pgx.Identifier{"exposure"},
		[]string{"key", "event", "start_interval", "period", "risk", "report", "onset", "traveler", "regions", "origin", "epoch", "padding"},
		pgx.CopyFromSlice(len(made), func(i int) ([]any, error) {
			m := made[i]
			return []any{m.Key, kind, int32(m.StartInterval), m.Period, m.Risk, m.Report, m.Onset, m.Traveler, m.Regions, m.Origin, int32(s.epoch), true}, nil
		}))
	s.result.Padding += int(n)
	return err
}

// randomUpTo draws from 0..limit.
func randomUpTo(limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(limit)+1))
	if err != nil {
		return 0, err
	}
	return int(n.Int64()), nil
}
