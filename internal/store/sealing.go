package store

import (
	"context"
	"math"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// SealOptions are the batcher's settings as sealing sees them.
type SealOptions struct {
	Period     time.Duration // between epochs, when no export asks for one earlier
	MinUploads int           // the smallest crowd worth an epoch
	MaxWait    time.Duration // after which a smaller crowd will do
	Always     bool          // development: seal, and cut every export, on each call
	Retention  time.Duration // how long after its end a key day's partition is kept

	MinRecords   int // of a cell of exports that a real key reaches
	PaddingRange int // random addition, 0..PaddingRange
	MaxRecords   int // of a file, where the export names no other number
	MinRevised   int // of revisions, where there is one
}

// Sealed tells what Seal did.
type Sealed struct {
	Busy      bool     `json:"busy"`   // another instance seals
	Epochs    int      `json:"epochs"` // 0 or 1
	Keys      int      `json:"keys"`
	Revisions int      `json:"revisions"`
	Padding   int      `json:"padding"`
	Discarded int      `json:"discarded"` // no partition any more, or known under another start
	Waiting   int      `json:"waiting"`   // uploads that are due, but too small a crowd
	Batches   int      `json:"batches"`
	Cells     int      `json:"cells"`    // cells that got padding
	Unsigned  []string `json:"unsigned"` // exports that wait for a signing key
}

// Seal moves every arrival whose embargo has ended into a new epoch, pads it
// and cuts the batches that are due, in one transaction: a kill at any line
// leaves everything as it was.
func (db *DB) Seal(ctx context.Context, now time.Time, o SealOptions) (result Sealed, err error) {
	defer errs.Wrap(&err, "Seal")
	err = db.InTx(ctx, func(tx database.Tx) error {
		head, ok, err := lockHead(ctx, tx)
		if err != nil || !ok {
			result.Busy = !ok
			return err
		}
		s := sealing{tx: tx, now: now, SealOptions: o, head: head, result: &result}
		return s.run(ctx)
	})
	return result, err
}

// head is the end of the log.
type head struct {
	LastEpoch int
	SealedAt  pgtime
}

// lockHead takes the lock that makes its holder the only sealer. It reports
// false when somebody else has it.
func lockHead(ctx context.Context, tx database.Tx) (head, bool, error) {
	return database.One[head](ctx, tx, `
		SELECT last_epoch, sealed_at
		FROM   log_head
		FOR UPDATE SKIP LOCKED`)
}

// sealing is one run of the sealer, inside its transaction.
type sealing struct {
	SealOptions
	tx      database.Tx
	now     time.Time
	head    head
	epoch   int // the epoch that this run writes; 0: none yet
	exports []exportRow
	result  *Sealed
}

func (s *sealing) run(ctx context.Context) error {
	// Sorting a big epoch must not spill in pieces of the default size.
	if err := s.exec(ctx, `SET LOCAL work_mem = '64MB'`); err != nil {
		return err
	}
	if err := s.readExports(ctx); err != nil {
		return err
	}
	if !s.sealIsDue() {
		return nil
	}
	if err := s.seal(ctx); err != nil {
		return err
	}
	if err := s.cut(ctx); err != nil {
		return err
	}
	return s.closeEpoch(ctx)
}

func (s *sealing) sealIsDue() bool {
	if s.Always || newWindow(s.now, s.head.SealedAt.Time, s.Period) {
		return true
	}
	for _, x := range s.exports {
		// An export that cannot be signed waits; it must not make an epoch, and
		// so a crowd, of each call.
		if x.Signed && x.due(s.now, s.Always) {
			return true
		}
	}
	return false
}

// newWindow tells whether a period has begun since something was done last.
// What was done a whole period ahead of now was done by a clock that was wrong,
// and must not keep everyone waiting for that time; two clocks that differ a
// little may stand on both sides of a beginning.
func newWindow(now, last time.Time, period time.Duration) bool {
	ahead := windowOf(last, period) - windowOf(now, period)
	return ahead < 0 || ahead > 1
}

// windowOf numbers the stretches of a period since 1970, so that epochs and
// batches fall on the same hours whatever the scheduler's whims.
func windowOf(t time.Time, period time.Duration) int64 {
	return int64(math.Floor(float64(t.Unix()) / period.Seconds()))
}

// seal takes what is due and writes it to the log. The facts of uploads do not
// wait for a crowd: as sums they tell less.
func (s *sealing) seal(ctx context.Context) error {
	if err := foldFacts(ctx, s.tx, s.now); err != nil {
		return err
	}
	enough, err := s.crowdIsEnough(ctx)
	if err != nil || !enough {
		return err
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	if err := s.discard(ctx); err != nil {
		return err
	}
	return s.write(ctx)
}

// crowdIsEnough holds an epoch back that would hold too few uploads for its
// keys to be anonymous, until MaxWait has passed. Each upload is one
// transaction, so their number is counted without storing which keys came
// together.
func (s *sealing) crowdIsEnough(ctx context.Context) (bool, error) {
	if s.MinUploads <= 1 || s.Always {
		return true, nil
	}
	crowd, _, err := database.One[struct {
		Uploads int
		Oldest  *time.Time
	}](ctx, s.tx, `
		SELECT count(DISTINCT xmin::text) AS uploads, min(due_at) AS oldest
		FROM   arrival
		WHERE  due_at <= $1
		AND    origin = 0   -- a neighbour's keys come in pages, and are no company`, s.now)
	if err != nil || crowd.Uploads == 0 || crowd.Uploads >= s.MinUploads {
		return true, err
	}
	if s.now.Sub(*crowd.Oldest) >= s.MaxWait {
		return true, nil
	}
	s.result.Waiting = crowd.Uploads
	return false, nil
}

// take moves all that is due out of arrivals by one statement. Whoever uploads
// the same keys again waits for the commit, and then finds them in the log.
func (s *sealing) take(ctx context.Context) error {
	if _, err := s.tx.Exec(ctx, `CREATE TEMPORARY TABLE take (LIKE arrival) ON COMMIT DROP`); err != nil {
		return err
	}
	if _, err := s.tx.Exec(ctx, `
		WITH due AS (
			DELETE FROM arrival a
			WHERE  a.due_at <= $1
			-- A revision never goes before its key, which another instance,
			-- with another clock, may have dated later.
			AND    (a.event = 0 OR NOT EXISTS (
				SELECT FROM arrival k
				WHERE  k.key = a.key AND k.event = 0 AND k.start_interval = a.start_interval AND k.due_at > $1
			))
			RETURNING key, event, start_interval, period, risk, report, onset, traveler, regions, origin, due_at
		)
		INSERT INTO take (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, due_at)
		SELECT   key, event, start_interval, period, risk, report, onset, traveler, regions, origin, due_at
		FROM     due
		ORDER BY key   -- so that looking all of them up goes through an index once, from its left to its right
		`, s.now); err != nil {
		return err
	}
	// The questions that follow are planned for what was really taken.
	return s.exec(ctx, `CREATE INDEX ON take (key)`, `ANALYZE take`)
}

// exec runs statements without parameters.
func (s *sealing) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := s.tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// discard drops, and counts, what must not enter the log.
func (s *sealing) discard(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.discarding(outOfDays),
		// The log may be twenty times what was taken, and would be read into a
		// hash table whole: its indexes, in the order of the keys, are cheaper.
		s.setting(`SET LOCAL enable_hashjoin = off`),
		s.discarding(inLog),
		s.setting(`SET LOCAL enable_hashjoin = on`),
		s.discarding(revisedBefore),
		s.discarding(revisesNothing),
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealing) setting(sql string) func(context.Context) error {
	return func(ctx context.Context) error { return s.exec(ctx, sql) }
}

func (s *sealing) discarding(sql string) func(context.Context) error {
	return func(ctx context.Context) error {
		n, err := database.Exec(ctx, s.tx, sql)
		s.result.Discarded += int(n)
		return err
	}
}

const (
	// outOfDays is too old or too new: there is no partition for its day.
	outOfDays = `
		DELETE FROM take t
		WHERE  t.start_interval / 144 <> ALL (ARRAY (` + attachedDays + `))`

	// inLog is in the log already, under whatever start, so that any partition
	// may hold it: no key is published twice.
	inLog = `
		WITH known AS MATERIALIZED (
			SELECT k.key
			FROM   take k
			JOIN   exposure e ON e.key = k.key AND e.event = 0
			WHERE  k.event = 0
		)
		DELETE FROM take t
		USING  known
		WHERE  t.event = 0 AND t.key = known.key`

	// revisedBefore is a second revision.
	revisedBefore = `
		DELETE FROM take t
		WHERE  t.event = 1
		AND    EXISTS (
			SELECT FROM exposure e
			WHERE  e.key = t.key AND e.start_interval = t.start_interval AND e.event = 1
		)`

	// revisesNothing is a revision of a key that is neither taken nor in the
	// log. The two are asked one after the other, for the planner believes that
	// hardly a revision fails the first, and would read all that was taken once
	// for each that does.
	revisesNothing = `
		WITH alone AS MATERIALIZED (
			SELECT t.key, t.start_interval
			FROM   take t
			WHERE  t.event = 1
			AND    NOT EXISTS (
				SELECT FROM take k
				WHERE  k.key = t.key AND k.start_interval = t.start_interval AND k.event = 0
			)
		)
		DELETE FROM take t
		USING  alone a
		WHERE  t.event = 1 AND t.key = a.key
		AND    NOT EXISTS (
			SELECT FROM exposure e
			WHERE  e.key = a.key AND e.start_interval = a.start_interval AND e.event = 0
		)`
)

// write puts what was taken into the log in the order of its content, so that
// nothing tells which keys came together.
func (s *sealing) write(ctx context.Context) error {
	n, _, err := database.One[struct{ Keys, Revisions int }](ctx, s.tx, `
		SELECT count(*) FILTER (WHERE event = 0) AS keys, count(*) FILTER (WHERE event = 1) AS revisions
		FROM   take`)
	if err != nil || n.Keys+n.Revisions == 0 {
		return err
	}
	if err := s.openEpoch(ctx); err != nil {
		return err
	}
	s.result.Keys, s.result.Revisions = n.Keys, n.Revisions
	_, err = s.tx.Exec(ctx, `
		INSERT INTO exposure (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, epoch, padding, ordinal)
		SELECT   key, event, start_interval, period, risk, report, onset, traveler, regions, origin, $1, false,
		         row_number() OVER (ORDER BY `+contentOrder+`, key, event)
		FROM     take
		ORDER BY 13`, s.epoch)
	return err
}

// openEpoch numbers the epoch of this run, once.
func (s *sealing) openEpoch(ctx context.Context) error {
	if s.epoch != 0 {
		return nil
	}
	s.epoch = s.head.LastEpoch + 1
	s.head.LastEpoch = s.epoch
	s.result.Epochs = 1
	_, err := s.tx.Exec(ctx, `UPDATE log_head SET last_epoch = $1`, s.epoch)
	return err
}

// closeEpoch notes that it was time to seal, whether anything was there or not
// (who comes a minute later waits for company until the next time), and records
// what the epoch holds, padding included.
func (s *sealing) closeEpoch(ctx context.Context) error {
	if _, err := s.tx.Exec(ctx, `UPDATE log_head SET sealed_at = $1`, s.now); err != nil || s.epoch == 0 {
		return err
	}
	r := s.result
	_, err := s.tx.Exec(ctx, `
		INSERT INTO epoch (epoch, sealed_at, keys, revisions, padding, discarded)
		VALUES ($1, $2, $3, $4, $5, $6)`, s.epoch, s.now, r.Keys, r.Revisions, r.Padding, r.Discarded)
	return err
}

// exportRow is an export as the sealer sees it.
type exportRow struct {
	ExportID                     int
	Name, Region                 string
	InputRegions, ExcludeRegions []string
	Travelers, Provenance        string
	Period                       float64 // seconds
	ValidFrom, ValidThru         pgtime
	Backfill                     bool
	MaxRecords                   int
	CreatedAt                    time.Time
	LastEpoch                    *int
	LastEnd                      *time.Time
	CutAt                        pgtime
	Signed                       bool // a signing key of it is valid
}

func (x exportRow) filter() Filter {
	return Filter{InputRegions: x.InputRegions, ExcludeRegions: x.ExcludeRegions, Travelers: Travelers(x.Travelers), Provenance: Provenance(x.Provenance)}
}

// due tells whether a batch should be cut now: at each new window of the
// period, and once more when the export has ended.
func (x exportRow) due(now time.Time, always bool) bool {
	if x.ended(now) {
		return x.CutAt.Before(x.ValidThru.Time) || x.CutAt.After(now)
	}
	return always || newWindow(now, x.CutAt.Time, time.Duration(x.Period*float64(time.Second)))
}

func (x exportRow) ended(now time.Time) bool { return !x.ValidThru.After(now) }

// readExports reads the exports that have begun, gives new ones their cursor,
// and leaves out those that were over before they began. It notes which should
// be cut and cannot be signed.
func (s *sealing) readExports(ctx context.Context) error {
	rows, err := database.All[exportRow](ctx, s.tx, `
		SELECT   export_id, name, region, input_regions, exclude_regions, travelers, provenance,
		         extract(epoch FROM period)::float8 AS period, valid_from, valid_thru, backfill, max_records, created_at,
		         last_epoch, last_end, cut_at,
		         EXISTS (
		             SELECT FROM export_signing_key l
		             JOIN   signing_key k USING (name)
		             WHERE  l.export_id = export.export_id AND k.valid_from <= $1 AND k.valid_thru > $1
		         ) AS signed
		FROM     export
		WHERE    valid_from <= $1
		ORDER BY export_id`, s.now)
	if err != nil {
		return err
	}
	for _, x := range rows {
		if x.LastEpoch == nil && !x.ended(s.now) {
			if err := s.begin(ctx, &x); err != nil {
				return err
			}
		}
		if x.LastEpoch == nil {
			continue
		}
		s.exports = append(s.exports, x)
		if !x.Signed && x.due(s.now, s.Always) {
			s.result.Unsigned = append(s.result.Unsigned, x.Name)
		}
	}
	return nil
}

// begin sets the cursor of a new export: at the end of the log, or before all
// that is retained when it is to be filled back.
func (s *sealing) begin(ctx context.Context, x *exportRow) error {
	epoch, end, cut := s.head.LastEpoch, latest(x.ValidFrom.Time, x.CreatedAt), pgtime{s.now}
	if x.Backfill {
		epoch, end, cut = 0, s.now.Add(-s.Retention), pgtime{beginning}
	}
	end = end.Truncate(time.Second)
	x.LastEpoch, x.LastEnd, x.CutAt = &epoch, &end, cut
	return s.move(ctx, *x)
}

// move writes the cursor of an export.
func (s *sealing) move(ctx context.Context, x exportRow) error {
	_, err := s.tx.Exec(ctx, `
		UPDATE export
		SET    last_epoch = $2, last_end = $3, cut_at = $4
		WHERE  export_id = $1`, x.ExportID, *x.LastEpoch, *x.LastEnd, x.CutAt.Time)
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wholeRange is everything that an export has not published yet.
func (s *sealing) wholeRange(x exportRow) stretch {
	return stretch{*x.LastEpoch + 1, s.head.LastEpoch, firstInterval, lastInterval, x.filter()}
}

// dueExport is an export of which a batch is to be cut.
type dueExport struct {
	exportRow
	counts  []tally
	counted bool
	padding int // how much padding this run had made when it was counted
}

// cut cuts the batches that are due: padding first, for all of them, since a
// padding key of one export belongs to every other that covers it.
func (s *sealing) cut(ctx context.Context) error {
	var due []*dueExport
	for _, x := range s.exports {
		if x.due(s.now, s.Always) {
			due = append(due, &dueExport{exportRow: x})
		}
	}
	for _, kind := range s.fillings() {
		for _, x := range due {
			if err := s.count(ctx, x); err != nil {
				return err
			}
			if err := s.pad(ctx, x.exportRow, x.counts, kind); err != nil {
				return err
			}
		}
	}
	for _, x := range due {
		if err := s.count(ctx, x); err != nil {
			return err
		}
		if err := s.cutExport(ctx, x.exportRow, x.counts); err != nil {
			return err
		}
	}
	return nil
}

// count tallies what an export publishes, unless nothing has come to it since
// it was counted.
func (s *sealing) count(ctx context.Context, x *dueExport) (err error) {
	if x.counted && x.padding == s.result.Padding {
		return nil
	}
	x.counts, err = s.tally(ctx, s.wholeRange(x.exportRow))
	x.counted, x.padding = true, s.result.Padding
	return err
}

// cutExport freezes a batch of everything that the export has not published
// yet. Without a real key in it there is no file; what padding there is then
// waits for company.
func (s *sealing) cutExport(ctx context.Context, x exportRow, counts []tally) error {
	days, real := byDay(counts)
	x.CutAt = pgtime{s.now}
	if real == 0 {
		return s.move(ctx, x)
	}
	keys, err := signingKeys(ctx, s.tx, x.ExportID, s.now)
	if err != nil || len(keys) == 0 {
		return err // cut without a key, the batch could never be finished
	}
	parts, err := s.split(ctx, x, days)
	if err != nil {
		return err
	}
	return s.addBatch(ctx, x, days, parts, keys)
}

func (s *sealing) addBatch(ctx context.Context, x exportRow, days []dayCount, parts []Part, keys []SigningKey) error {
	// Every file has an end of its own, after the previous batch's.
	start := *x.LastEnd
	end := latest(s.now.Truncate(time.Second), start.Add(time.Duration(len(parts))*time.Second))
	_, err := s.tx.Exec(ctx, `
		INSERT INTO export_batch (export_id, first_epoch, last_epoch, first_day, last_day, start_at, end_at,
		                          region, input_regions, exclude_regions, travelers, provenance, parts, signing_keys, cut_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		x.ExportID, *x.LastEpoch+1, s.head.LastEpoch, days[0].Day, days[len(days)-1].Day, start, end,
		x.Region, x.InputRegions, x.ExcludeRegions, x.Travelers, x.Provenance, marshal(parts), marshal(keys), s.now)
	if err != nil {
		return err
	}
	s.result.Batches++
	x.LastEpoch, x.LastEnd = &s.head.LastEpoch, &end
	return s.move(ctx, x)
}

// dayCount says how many records of a key day are published.
type dayCount struct {
	Day   exposure.Day
	Total int
}

// byDay adds a tally up by key day, in order, and over all that is real.
func byDay(counts []tally) (days []dayCount, real int) {
	for _, t := range counts {
		if len(days) == 0 || days[len(days)-1].Day != t.Day {
			days = append(days, dayCount{Day: t.Day})
		}
		days[len(days)-1].Total += t.Real + t.Padding
		real += t.Real
	}
	return days, real
}

// split finds where each file of a batch begins, so that they are of one size
// and none is larger than allowed.
func (s *sealing) split(ctx context.Context, x exportRow, days []dayCount) ([]Part, error) {
	limit := x.MaxRecords
	if limit <= 0 {
		limit = s.MaxRecords
	}
	total := 0
	for _, d := range days {
		total += d.Total
	}
	files := (total + limit - 1) / limit
	parts := []Part{{FromStart: firstInterval, FromKey: []byte{}}}
	for n := 1; n < files; n++ {
		part, err := s.partAt(ctx, x, days, n*total/files)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// partAt finds the record with this number in the order of (start, key).
func (s *sealing) partAt(ctx context.Context, x exportRow, days []dayCount, number int) (Part, error) {
	i := 0
	for number >= days[i].Total {
		number -= days[i].Total
		i++
	}
	r := s.wholeRange(x)
	r.from, r.to = days[i].Day.Start(), (days[i].Day + 1).Start()
	row, _, err := database.One[struct {
		StartInterval exposure.Interval
		Key           []byte
	}](ctx, s.tx, `
		SELECT   start_interval, key
		FROM     (`+published+`) AS p
		WHERE    `+covered+`
		ORDER BY start_interval, key
		OFFSET   $9   -- counted just now, under the same lock
		LIMIT    1`, r.args(number)...)
	return Part{FromStart: row.StartInterval, FromKey: row.Key}, err
}
