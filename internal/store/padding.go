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

// audience is a kind of key as far as exports care: its regions and whether a
// traveller had it.
type audience struct {
	Regions  []string
	Traveler bool
}

func (a audience) equal(b audience) bool {
	return a.Traveler == b.Traveler && slices.Equal(a.Regions, b.Regions)
}

// cell is the set of audiences that reach the same exports. Whoever compares
// the files of two exports sees cells, so each needs a crowd of its own.
type cell struct {
	audiences []audience
	real      int
	padding   int
}

// args turns the audiences on their side, for unnest. A set of
// regions becomes its text, since arrays of arrays must be of one length.
func (c cell) args() (regions []string, travelers []bool) {
	for _, a := range c.audiences {
		regions = append(regions, arrayText(a.Regions))
		travelers = append(travelers, a.Traveler)
	}
	return regions, travelers
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

// inCell selects the rows of a cell, given as $8 and $9.
const inCell = `EXISTS (
	SELECT FROM unnest($8::text[], $9::boolean[]) AS a (regions, traveler)
	WHERE  a.regions::text[] = p.regions AND a.traveler = p.traveler
)`

// pad fills up what an export is about to publish: each cell that holds a real
// key to its minimum, and likewise for revisions.
func (s *sealing) pad(ctx context.Context, x exportRow, counts []tally) error {
	for _, kind := range []struct {
		revised bool
		min     int
		fill    func(ctx context.Context, r stretch, c cell, need int) error
	}{
		{false, s.MinRecords, s.padKeys},
		{true, s.MinRevised, s.padRevisions},
	} {
		for _, c := range s.cells(counts, kind.revised) {
			have := c.real + c.padding
			if have >= kind.min {
				continue
			}
			extra, err := randomUpTo(s.PaddingRange)
			if err != nil {
				return err
			}
			if err := kind.fill(ctx, s.wholeRange(x), c, kind.min+extra-have); err != nil {
				return err
			}
			s.result.Cells++
		}
	}
	return nil
}

// tally counts records of a kind and a key day in a stretch.
type tally struct {
	Day      exposure.Day
	Regions  []string
	Traveler bool
	Revised  bool
	Real     int
	Padding  int
}

// tally counts what a stretch publishes.
func (s *sealing) tally(ctx context.Context, r stretch) ([]tally, error) {
	if r.firstEpoch > r.lastEpoch {
		return nil, nil
	}
	return database.All[tally](ctx, s.tx, `
		SELECT   start_interval / 144 AS day, regions, traveler, revised,
		         count(*) FILTER (WHERE NOT padding) AS real, count(*) FILTER (WHERE padding) AS padding
		FROM     (`+published+`) AS p
		WHERE    `+covered+`
		GROUP BY 1, regions, traveler, revised
		ORDER BY 1`, r.args()...)
}

// cells adds a tally up by cell, and leaves those out that hold no real key.
func (s *sealing) cells(counts []tally, revised bool) []cell {
	byReach := map[string]*cell{}
	for _, t := range counts {
		if t.Revised != revised {
			continue
		}
		a := audience{t.Regions, t.Traveler}
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
		if !x.ended(s.now) && x.filter().Covers(a.Regions, a.Traveler) {
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
}

// padKeys adds generated keys that look like the real ones of their cell: each
// real one's company at least once, then any one's.
func (s *sealing) padKeys(ctx context.Context, r stretch, c cell, need int) error {
	regions, travelers := c.args()
	models, err := database.All[record](ctx, s.tx, `
		SELECT start_interval, period, report, risk, onset, regions, traveler
		FROM   (`+published+`) AS p
		WHERE  NOT revised AND NOT padding
		AND    `+covered+`
		AND    `+inCell+`
		ORDER BY random()`, r.args(regions, travelers)...)
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

// padRevisions revises earlier padding keys as real keys of the cell were
// revised: the same change of report, with the key's own days. There may be
// fewer such keys than wanted; then all of them it is.
func (s *sealing) padRevisions(ctx context.Context, r stretch, c cell, need int) error {
	type change struct {
		Was, Report, Risk int16
	}
	regions, travelers := c.args()
	changes, err := database.All[change](ctx, s.tx, `
		SELECT o.report AS was, p.report, p.risk
		FROM   (
			SELECT key, start_interval, report, risk, regions, traveler
			FROM   (`+published+`) AS q
			WHERE  revised AND NOT padding
			AND    `+covered+`
		) AS p
		JOIN   exposure o ON o.key = p.key AND o.start_interval = p.start_interval AND o.event = 0
		WHERE  `+inCell+`
		ORDER BY random()`, r.args(regions, travelers)...)
	if err != nil {
		return err
	}
	byReport := map[int16][]change{}
	for _, ch := range changes {
		byReport[ch.Was] = append(byReport[ch.Was], ch)
	}
	var made []record
	for was, models := range byReport {
		share := (need*len(models) + len(changes) - 1) / len(changes)
		keys, err := s.revisablePadding(ctx, r, c, was, share)
		if err != nil {
			return err
		}
		for i, k := range keys {
			k.Report, k.Risk = models[i%len(models)].Report, models[i%len(models)].Risk
			made = append(made, k)
		}
	}
	return s.insertPadding(ctx, 1, made)
}

// revisablePadding picks padding keys of a cell that were published with this
// report before the stretch, and never revised.
func (s *sealing) revisablePadding(ctx context.Context, r stretch, c cell, report int16, limit int) ([]record, error) {
	regions, travelers := c.args()
	return database.All[record](ctx, s.tx, `
		SELECT p.key, p.start_interval, p.period, p.risk, p.report, p.onset, p.regions, p.traveler
		FROM   exposure p
		WHERE  p.padding AND p.event = 0
		AND    p.epoch < $1
		AND    p.report = $2
		AND    NOT EXISTS (
			SELECT FROM exposure r
			WHERE  r.key = p.key AND r.start_interval = p.start_interval AND r.event = 1
		)
		AND    EXISTS (
			SELECT FROM unnest($3::text[], $4::boolean[]) AS a (regions, traveler)
			WHERE  a.regions::text[] = p.regions AND a.traveler = p.traveler
		)
		ORDER BY random()
		LIMIT  $5`, r.firstEpoch, report, regions, travelers, limit)
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
			return []any{m.Key, kind, int32(m.StartInterval), m.Period, m.Risk, m.Report, m.Onset, m.Traveler, m.Regions, int32(0), int32(s.epoch), true}, nil
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
