package store

import (
	"cmp"
	"context"
	"slices"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
)

// change is what a revision made of a real key. Whoever has kept the file in
// which the key was first published sees all of it.
type change struct {
	StartInterval         exposure.Interval
	Period                int16
	WasReport, WasRisk    int16
	WasOnset              *int16
	Report, Risk          int16
	Onset                 *int16
	FirstEpoch, LastEpoch int // of the batch that published the key; 0: none did
}

// origin is where the keys of some changes come from: padding keys of the same
// origin are their company.
type origin struct {
	report, risk          int16
	firstEpoch, lastEpoch int
}

func (ch change) origin() origin {
	return origin{ch.WasReport, ch.WasRisk, ch.FirstEpoch, ch.LastEpoch}
}

// padRevisions revises earlier padding keys as real keys of the cell were
// revised: keys of the same batches, report and risk, and of the same days
// where there are enough, by the same change. Else the real ones would stand
// out as those that came together, or as those whose onset moved. There may be
// fewer such keys than wanted; then all of them it is.
func (s *sealing) padRevisions(ctx context.Context, x exportRow, c cell, need int) error {
	changes, err := s.changes(ctx, x, c)
	if err != nil || len(changes) == 0 {
		return err
	}
	r := reviser{sealing: s, cell: c, before: s.wholeRange(x).firstEpoch, picked: map[string]bool{}}
	groups := byOrigin(changes)
	for _, models := range groups {
		from := models[0].origin()
		share := (need*len(models) + len(changes) - 1) / len(changes)
		if err := r.revise(ctx, models, from, min(share, need-len(r.made))); err != nil {
			return err
		}
	}
	for _, models := range groups {
		anywhere := origin{models[0].WasReport, models[0].WasRisk, 0, r.before - 1}
		if err := r.revise(ctx, models, anywhere, need-len(r.made)); err != nil {
			return err
		}
	}
	return s.insertPadding(ctx, 1, r.made)
}

// changes are the real revisions of a cell that an export is about to publish,
// in random order.
func (s *sealing) changes(ctx context.Context, x exportRow, c cell) ([]change, error) {
	return database.All[change](ctx, s.tx, `
		SELECT    o.start_interval, o.period, o.report AS was_report, o.risk AS was_risk, o.onset AS was_onset,
		          p.report, p.risk, p.onset,
		          coalesce(b.first_epoch, 0) AS first_epoch, coalesce(b.last_epoch, 0) AS last_epoch
		FROM      (
			SELECT key, start_interval, report, risk, onset, regions, traveler, origin
			FROM   (`+published+`) AS q
			WHERE  revised AND NOT padding
			AND    `+covered+`
		) AS p
		JOIN      exposure o ON o.key = p.key AND o.start_interval = p.start_interval AND o.event = 0
		LEFT JOIN export_batch b ON b.export_id = $12 AND o.epoch BETWEEN b.first_epoch AND b.last_epoch
		WHERE     `+inCell+`
		ORDER BY  random()`, s.wholeRange(x).args(append(c.args(), x.ExportID)...)...)
}

// byOrigin groups changes, the larger groups first.
func byOrigin(changes []change) (groups [][]change) {
	place := map[origin]int{}
	for _, ch := range changes {
		i, ok := place[ch.origin()]
		if !ok {
			i, groups = len(groups), append(groups, nil)
			place[ch.origin()] = i
		}
		groups[i] = append(groups[i], ch)
	}
	slices.SortStableFunc(groups, func(a, b []change) int { return cmp.Compare(len(b), len(a)) })
	return groups
}

// reviser collects revised padding keys of one cell.
type reviser struct {
	*sealing
	cell   cell
	before int // the first epoch that is not published yet
	picked map[string]bool
	made   []record
}

// revise revises padding keys of an origin by the changes of models, at most
// so many.
func (r *reviser) revise(ctx context.Context, models []change, from origin, limit int) error {
	if limit <= 0 {
		return nil
	}
	// Those that were picked already come up again.
	keys, err := r.candidates(ctx, models, from, limit+len(r.picked))
	if err != nil {
		return err
	}
	for i, k := range keys {
		if limit == 0 {
			return nil
		}
		if r.picked[string(k.Key)] || !changeLike(&k, models, i) {
			continue
		}
		r.picked[string(k.Key)] = true
		r.made = append(r.made, k)
		limit--
	}
	return nil
}

// candidates picks padding keys of a cell and an origin that were never revised:
// first those that say what the key of a model said, then at random.
func (r *reviser) candidates(ctx context.Context, models []change, from origin, limit int) ([]record, error) {
	starts, periods, onsets := make([]int32, len(models)), make([]int16, len(models)), make([]*int16, len(models))
	for i, m := range models {
		starts[i], periods[i], onsets[i] = int32(m.StartInterval), m.Period, m.WasOnset
	}
	return database.All[record](ctx, r.tx, `
		SELECT p.key, p.start_interval, p.period, p.risk, p.report, p.onset, p.regions, p.traveler, p.origin
		FROM   exposure p
		WHERE  p.padding AND p.event = 0
		AND    p.epoch BETWEEN $1 AND $2
		AND    p.report = $3 AND p.risk = $4
		AND    NOT EXISTS (
			SELECT FROM exposure r
			WHERE  r.key = p.key AND r.start_interval = p.start_interval AND r.event = 1
		)
		AND    `+inCell+`
		ORDER BY EXISTS (
			SELECT FROM unnest($5::integer[], $6::smallint[], $7::smallint[]) AS m (start_interval, period, onset)
			WHERE  m.start_interval = p.start_interval AND m.period = p.period AND m.onset IS NOT DISTINCT FROM p.onset
		) DESC, random()
		LIMIT  $8`, append([]any{from.firstEpoch, from.lastEpoch, from.report, from.risk, starts, periods, onsets, limit}, r.cell.args()...)...)
}

// changeLike changes a padding key as a model of the same days was changed, or
// else as any other, beginning with the n-th. It reports false when no real
// key could have changed so.
func changeLike(k *record, models []change, n int) bool {
	for i := range models {
		m := models[(n+i)%len(models)]
		if m.StartInterval == k.StartInterval && m.Period == k.Period && same(m.WasOnset, k.Onset) {
			k.Report, k.Risk, k.Onset = m.Report, m.Risk, m.Onset
			return true
		}
	}
	for i := range models {
		m := models[(n+i)%len(models)]
		if onset, ok := m.onsetOf(*k); ok {
			k.Report, k.Risk, k.Onset = m.Report, m.Risk, onset
			return true
		}
	}
	return false
}

func same(a, b *int16) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// maxOnset is how many days from the onset a key may be (protocol, section 8).
const maxOnset = 14

// onsetOf moves the onset of a key by as many days as the change did. It
// reports false for a key that no revision would have kept.
func (ch change) onsetOf(k record) (*int16, bool) {
	if (ch.WasOnset == nil) != (k.Onset == nil) {
		return nil, false
	}
	if ch.WasOnset == nil || ch.Onset == nil {
		return ch.Onset, true
	}
	moved := *k.Onset + *ch.Onset - *ch.WasOnset
	return &moved, -maxOnset <= moved && moved <= maxOnset
}
