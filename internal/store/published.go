package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Filter says which keys belong to an export.
type Filter struct {
	InputRegions, ExcludeRegions []string
	Travelers                    Travelers
	Provenance                   Provenance
}

// Travelers is an export's rule for travellers' keys.
type Travelers string

// The rules.
const (
	TravelersInclude   Travelers = "include"    // also travellers' keys of any region
	TravelersOwnRegion Travelers = "own-region" // only with an input region, like everyone
	TravelersExclude   Travelers = "exclude"    // none
)

// Provenance is an export's rule for keys that neighbours sent.
type Provenance string

// The rules.
const (
	ProvenanceAny   Provenance = "any"   // whoever sent them
	ProvenanceLocal Provenance = "local" // only those of our own apps
)

// audience is a kind of key as far as exports care: its regions, whether a
// traveller had it, and whether a neighbour sent it.
type audience struct {
	Regions  []string
	Traveler bool
	Foreign  bool
}

func (a audience) equal(b audience) bool {
	return a.Traveler == b.Traveler && a.Foreign == b.Foreign && slices.Equal(a.Regions, b.Regions)
}

// Covers tells whether keys of these regions belong to the export; origin is 0
// for those of our own apps, else a neighbour's number.
func (f Filter) Covers(regions []string, traveler bool, origin int) bool {
	return f.covers(audience{regions, traveler, origin != 0})
}

// covers is Covers for a kind of key. The same rule in SQL is covered, below.
func (f Filter) covers(a audience) bool {
	if a.Foreign && f.Provenance == ProvenanceLocal ||
		a.Traveler && f.Travelers == TravelersExclude || overlap(a.Regions, f.ExcludeRegions) {
		return false
	}
	return overlap(a.Regions, f.InputRegions) || a.Traveler && f.Travelers == TravelersInclude
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(region string) bool { return slices.Contains(b, region) })
}

// published is what the epochs $1..$2 publish of the keys that start in
// $3..$4 (the end excluded), before any filter.
//
// A key that was revised in the same epochs counts once, with its outcome; one
// that was withdrawn in them does not count, for nobody has seen it. A revision
// whose key is older counts as revised.
//
// The join is a full one, and told from coalesce, so that PostgreSQL can only
// hash it: it has no idea how many revisions there are among the newest rows,
// takes them for one, and would go through all of them for each key.
const published = `
	SELECT    coalesce(p.key, r.key) AS key,
	          coalesce(p.start_interval, r.start_interval) AS start_interval,
	          coalesce(p.period, r.period) AS period,
	          coalesce(r.report, p.report) AS report,
	          coalesce(r.risk, p.risk) AS risk,
	          CASE WHEN r.event IS NULL THEN p.onset ELSE r.onset END AS onset,
	          coalesce(p.regions, r.regions) AS regions,
	          coalesce(p.traveler, r.traveler) AS traveler,
	          coalesce(p.padding, r.padding) AS padding,
	          coalesce(p.origin, r.origin) AS origin,
	          coalesce(p.event, 1) = 1 AS revised
	FROM      (
		SELECT key, event, start_interval, period, report, risk, onset, regions, traveler, padding, origin
		FROM   exposure
		WHERE  event = 0
		AND    epoch BETWEEN $1 AND $2
		AND    start_interval >= $3 AND start_interval < $4
	) AS p
	FULL JOIN (
		SELECT key, event, start_interval, period, report, risk, onset, regions, traveler, padding, origin
		FROM   exposure
		WHERE  event = 1
		AND    epoch BETWEEN $1 AND $2
		AND    start_interval >= $3 AND start_interval < $4
	) AS r ON r.key = p.key AND r.start_interval = p.start_interval
	WHERE     coalesce(p.event, 1) = 1 OR coalesce(r.report, p.report) <> 5`

// covered is Filter.covers in SQL, for input regions $5, excluded regions $6 and
// the rules for travellers $7 and provenance $8.
const covered = `(
	(regions && $5::text[] OR traveler AND $7 = 'include')
	AND NOT regions && $6::text[]
	AND NOT (traveler AND $7 = 'exclude')
	AND NOT (origin <> 0 AND $8 = 'local')
)`

// contentOrder is the order of files and of the log: start, period, report,
// risk and days since onset (none first), packed into one number because
// PostgreSQL sorts by one column three times faster than by five. What follows
// it is the key.
const contentOrder = `(start_interval::bigint << 24) + (period::integer << 16) + (report << 12) + (risk << 8) + coalesce(onset + 15, 0)`

// stretch is a range of epochs and key days: what published asks for.
type stretch struct {
	firstEpoch, lastEpoch int
	from, to              exposure.Interval // start intervals, the end excluded
	filter                Filter
}

// always are the bounds of a stretch that leaves no key day out.
const (
	firstInterval exposure.Interval = 0
	lastInterval  exposure.Interval = math.MaxInt32
)

func (s stretch) args(more ...any) []any {
	f := s.filter
	return append([]any{s.firstEpoch, s.lastEpoch, s.from, s.to, f.InputRegions, f.ExcludeRegions, string(f.Travelers), string(f.Provenance)}, more...)
}

// BatchKeys streams what a file publishes as first seen: each key with its
// outcome, ordered by start, period, report, risk, days since onset and key.
func (db *DB) BatchKeys(ctx context.Context, b Batch, number int) iter.Seq2[exposure.Exposure, error] {
	return db.streamPart(ctx, b, number, `NOT revised`)
}

// BatchRevisions streams the revisions that a file publishes, in the same order.
func (db *DB) BatchRevisions(ctx context.Context, b Batch, number int) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		// Many batches have none, and this is known without reading their keys.
		some, _, err := database.One[bool](ctx, db, `
			SELECT EXISTS (SELECT FROM exposure WHERE event = 1 AND epoch BETWEEN $1 AND $2)`, b.FirstEpoch, b.LastEpoch)
		if err != nil {
			yield(exposure.Exposure{}, fmt.Errorf("BatchRevisions(batch %d, file %d): %w", b.ID, number, err))
			return
		}
		if some {
			db.streamPart(ctx, b, number, `revised`)(yield)
		}
	}
}

// streamPart asks day by day: the days follow one another in the order of the
// file, and a day is sorted in the database's working memory where a fortnight
// would spill. Sealed rows never change, so that no snapshot need hold the
// questions together.
func (db *DB) streamPart(ctx context.Context, b Batch, number int, which string) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		from, to := b.bounds(number)
		for day := max(b.FirstDay, from.FromStart.Day()); day <= min(b.LastDay, to.FromStart.Day()); day++ {
			s := stretch{b.FirstEpoch, b.LastEpoch, day.Start(), (day + 1).Start(), b.Filter}
			for e, err := range db.streamDay(ctx, s, from, to, which) {
				errs.Wrap(&err, "streamPart(batch %d, file %d)", b.ID, number)
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// bounds are the beginning of a part and of the next.
func (b Batch) bounds(number int) (from, to Part) {
	if number == len(b.Parts) {
		return b.Parts[number-1], Part{FromStart: lastInterval}
	}
	return b.Parts[number-1], b.Parts[number]
}

func (db *DB) streamDay(ctx context.Context, s stretch, from, to Part, which string) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		rows, err := db.Query(ctx, `
			SELECT   key, start_interval, period, report, risk, onset
			FROM     (`+published+`) AS p
			WHERE    `+which+`
			AND      `+covered+`
			AND      (start_interval, key) >= ($9, $10::bytea)
			AND      (start_interval, key) < ($11, $12::bytea)
			ORDER BY `+contentOrder+`, key`,
			s.args(from.FromStart, from.key(), to.FromStart, to.key())...)
		if err != nil {
			yield(exposure.Exposure{}, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			e, err := decodeExposure(rows.RawValues())
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(exposure.Exposure{}, err)
		}
	}
}

// key is the part's first key, never NULL.
func (p Part) key() []byte {
	if p.FromKey == nil {
		return []byte{}
	}
	return p.FromKey
}

// decodeExposure reads the binary columns key, start, period, report, risk and
// onset. A million rows go through here, too many for reflection.
func decodeExposure(raw [][]byte) (e exposure.Exposure, err error) {
	if len(raw) != 6 || len(raw[0]) != exposure.KeySize || len(raw[1]) != 4 {
		return e, fmt.Errorf("a row of %d columns is not an exposure", len(raw))
	}
	for _, column := range raw[2:5] {
		if len(column) != 2 {
			return e, fmt.Errorf("a column of %d bytes is not a smallint", len(column))
		}
	}
	e.Key = exposure.Key(raw[0])
	e.Start = exposure.Interval(binary.BigEndian.Uint32(raw[1]))
	e.Period = int32(binary.BigEndian.Uint16(raw[2]))
	e.Report = exposure.Report(binary.BigEndian.Uint16(raw[3]))
	e.Risk = int32(binary.BigEndian.Uint16(raw[4]))
	if e.HasOnset = raw[5] != nil; e.HasOnset {
		e.DaysSinceOnset = int32(int16(binary.BigEndian.Uint16(raw[5])))
	}
	return e, nil
}
