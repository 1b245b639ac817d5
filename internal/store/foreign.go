package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// ForeignPage is what a neighbour sent at once. It is stored whole, with its
// cursor, or not at all.
type ForeignPage struct {
	Origin          int
	Keys, Revisions []exposure.Exposure // kept by exposure.Rules.Foreign and ForeignRevision; no key twice in each
	Dropped         map[string]int      // what these rules left out, by reason

	// The neighbour's cursor as it was, and as it shall be. Another one found
	// than From is a Conflict: somebody else was faster. Both nil: it has none.
	From, To []byte
	Newest   time.Time // how far To is, by the neighbour's clock; zero: it does not tell
}

// ForeignAdded tells what became of a page.
type ForeignAdded struct {
	Inserted int            `json:"inserted"`
	Revised  int            `json:"revised"`
	Held     int            `json:"held"`              // revisions that came before their key
	Dropped  map[string]int `json:"dropped,omitempty"` // by reason: see the Drop words of package exposure
}

// Add sums up.
func (a *ForeignAdded) Add(b ForeignAdded) {
	a.Inserted += b.Inserted
	a.Revised += b.Revised
	a.Held += b.Held
	for reason, n := range b.Dropped {
		a.drop(reason, n)
	}
}

func (a *ForeignAdded) drop(reason string, n int) {
	if n == 0 {
		return
	}
	if a.Dropped == nil {
		a.Dropped = map[string]int{}
	}
	a.Dropped[reason] += n
}

// AddForeign stores a page of a neighbour: keys that nobody sent before as
// arrivals; revisions of keys that this neighbour sent, once; revisions that
// came before their key, to wait for it. It is one transaction: an error means
// that nothing was stored, or, when the connection broke at its end, that the
// cursor tells.
//
// Locks are taken in the order of AddUpload: the row that tells a repetition
// (there the receipt, here the neighbour's own), then the keys, sorted.
func (db *DB) AddForeign(ctx context.Context, now time.Time, p ForeignPage, embargo Embargo) (added ForeignAdded, err error) {
	defer errs.Wrap(&err, "AddForeign(%d, %d keys, %d revisions)", p.Origin, len(p.Keys), len(p.Revisions))

	conn, err := db.Acquire(ctx)
	if err != nil {
		return ForeignAdded{}, err
	}
	defer conn.Release()
	slices.SortFunc(p.Keys, byKey)

	for range uploadAttempts {
		a := foreignAddition{ForeignPage: p, conn: conn, now: now, embargo: embargo}
		err = a.run(ctx)
		if err == nil {
			return a.added, nil
		}
		rollback(conn)
		if !errors.Is(err, errMoved) && !forgetOutdated(ctx, conn, err) {
			return ForeignAdded{}, err
		}
	}
	return ForeignAdded{}, err
}

func byKey(a, b exposure.Exposure) int { return bytes.Compare(a.Key[:], b.Key[:]) }

// foreignAddition is one attempt to store a page.
type foreignAddition struct {
	ForeignPage
	conn    *pgxpool.Conn
	now     time.Time
	embargo Embargo

	held        []exposure.Exposure // revisions that waited for a key of the page
	known       map[exposure.Key]*event
	superfluous [][]byte // just inserted as arrivals, though the log has them

	revisions, early []exposure.Exposure // to be stored, and to be held
	added            ForeignAdded
}

// run stores in three trips to the database, or four when there are revisions.
// On an error the transaction is open.
func (a *foreignAddition) run(ctx context.Context) error {
	inserted, err := a.insert(ctx)
	if err != nil {
		return err
	}
	if err := a.find(ctx, inserted); err != nil {
		return err
	}
	a.decide()
	if err := a.revise(ctx); err != nil {
		return err
	}
	return a.finish(ctx)
}

// insert opens the transaction, moves the cursor and inserts what does not wait
// already.
func (a *foreignAddition) insert(ctx context.Context) (inserted map[exposure.Key]bool, err error) {
	var trip pgx.Batch
	trip.Queue(`BEGIN`)
	trip.Queue(moveCursor, a.Origin, a.From, a.To, a.now, nullTime(a.Newest))
	trip.Queue(insertForeign, a.columnsOf(a.Keys).args(0, a.Origin)...)
	results := a.conn.SendBatch(ctx, &trip)
	defer func() { err = errors.Join(err, results.Close()) }()

	if _, err := results.Exec(); err != nil {
		return nil, err
	}
	moved, err := results.Exec()
	if err != nil {
		return nil, err
	}
	if moved.RowsAffected() != 1 {
		return nil, errCursorMoved
	}
	return readInserted(results, len(a.Keys))
}

// readInserted is readKeys for many.
func readInserted(results pgx.BatchResults, most int) (map[exposure.Key]bool, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	inserted := make(map[exposure.Key]bool, most)
	for rows.Next() {
		inserted[exposure.Key(rows.RawValues()[0])] = true
	}
	return inserted, rows.Err()
}

// find takes the revisions that waited for a key of the page, and looks up what
// others stored. Its statements are later ones, which see all that was committed
// while insert waited for it.
func (a *foreignAddition) find(ctx context.Context, inserted map[exposure.Key]bool) (err error) {
	cols := a.columnsOf(a.Keys)
	keys, starts := cols.keys(), cols.starts()
	var trip pgx.Batch
	// No partition may be read whole, whatever its statistics say of it: the
	// log grows, a page does not.
	trip.Queue(`SET LOCAL plan_cache_mode = force_generic_plan`)
	trip.Queue(`SET LOCAL enable_seqscan = off`)
	trip.Queue(takeHeld, a.Origin, keys, starts)
	keys.lists, starts.lists = append(keys.lists, a.Revisions), append(starts.lists, a.Revisions)
	trip.Queue(findForeign, a.waiting(inserted), keys, starts)
	results := a.conn.SendBatch(ctx, &trip)
	defer func() { err = errors.Join(err, results.Close()) }()

	for range 2 {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	if a.held, err = readHeld(results); err != nil {
		return err
	}
	events, err := readEvents(results)
	if err != nil {
		return err
	}
	return a.assemble(inserted, events)
}

// waiting are the keys of the page that others may have waiting: those that are
// not new, and those of revisions, for of a key that seemed new since it was
// sealed the revision may still wait.
func (a *foreignAddition) waiting(inserted map[exposure.Key]bool) (keys [][]byte) {
	for i := range a.Keys {
		if e := &a.Keys[i]; !inserted[e.Key] {
			keys = append(keys, e.Key[:])
		}
	}
	for i := range a.Revisions {
		keys = append(keys, a.Revisions[i].Key[:])
	}
	return keys
}

const (
	// moveCursor locks the neighbour's row, also when there is no cursor.
	moveCursor = `
		UPDATE neighbour
		SET    cursor    = coalesce($3, cursor),
		       cursor_at = CASE WHEN $3::bytea IS NULL THEN cursor_at ELSE $4 END,
		       newest_at = greatest(newest_at, $5)
		WHERE  origin = $1 AND ended_at IS NULL
		AND    ($3::bytea IS NULL OR cursor IS NOT DISTINCT FROM $2)`

	// insertForeign stores events unless the same key waits already.
	insertForeign = `
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, due_at, traveler, regions, origin)
		SELECT   u.key, $1::smallint, u.start_interval, u.period, u.risk, u.report, u.onset, u.due_at, g.traveler, g.regions::text[], $2::integer
		FROM     unnest($3::bytea[], $4::integer[], $5::smallint[], $6::smallint[], $7::smallint[], $8::smallint[], $9::timestamptz[], $10::integer[])
		         AS u(key, start_interval, period, risk, report, onset, due_at, audience)
		JOIN     unnest($11::boolean[], $12::text[]) WITH ORDINALITY AS g(traveler, regions, audience) USING (audience)
		ORDER BY u.key
		ON CONFLICT DO NOTHING
		RETURNING key`

	// findForeign is findKeys, but for fewer keys among the arrivals: those of
	// the page itself are many.
	findForeign = `
		SELECT a.key, a.event, a.start_interval, a.period, a.report, a.origin, a.traveler, a.regions, false AS sealed
		FROM   arrival a
		WHERE  a.key = ANY ($1::bytea[])
		AND    a.xmin <> pg_current_xact_id()::xid   -- not what this transaction inserted
		UNION ALL
		SELECT e.key, e.event, e.start_interval, e.period, e.report, e.origin, e.traveler, e.regions, true
		FROM   unnest($2::bytea[], $3::integer[]) AS u(key, start_interval)
		JOIN   exposure e ON e.key = u.key AND e.start_interval = u.start_interval`

	// takeHeld takes the revisions that waited for a key.
	takeHeld = `
		DELETE FROM held_revision h
		USING  unnest($2::bytea[], $3::integer[]) AS u(key, start_interval)
		WHERE  h.origin = $1 AND h.key = u.key AND h.start_interval = u.start_interval
		RETURNING h.key, h.start_interval, h.period, h.risk, h.report, h.onset`

	// removeDoomed makes room for revisions. Whoever has a certificate and knows a
	// key may have uploaded it under another start, and revised that. Since the
	// log has the key, sealing would discard both; here they would keep a whole
	// neighbour waiting for that. What the sealer has locked, it is taking now.
	removeDoomed = `
		DELETE FROM arrival
		WHERE  (key, event) IN (
			SELECT a.key, a.event
			FROM   unnest($1::bytea[], $2::integer[]) AS u(key, start_interval)
			JOIN   arrival a ON a.key = u.key AND a.start_interval <> u.start_interval
			FOR UPDATE OF a SKIP LOCKED
		)`

	// hold keeps revisions until their key comes. The first of a key counts.
	hold = `
		INSERT INTO held_revision (origin, key, start_interval, period, risk, report, onset)
		SELECT   $1, u.key, u.start_interval, u.period, u.risk, u.report, u.onset
		FROM     unnest($2::bytea[], $3::integer[], $4::smallint[], $5::smallint[], $6::smallint[], $7::smallint[])
		         AS u(key, start_interval, period, risk, report, onset)
		ORDER BY u.key
		ON CONFLICT DO NOTHING`

	countForeign = `
		INSERT INTO neighbour_count AS c (origin, what, n)
		SELECT $1, u.what, u.n
		FROM   unnest($2::text[], $3::bigint[]) AS u(what, n)
		ON CONFLICT (origin, what) DO UPDATE
		SET    n = c.n + excluded.n`
)

var errCursorMoved = errs.Conflict("cursor_moved", "somebody else has taken this page, or the neighbour is not in the configuration any more")

func readHeld(results pgx.BatchResults) (held []exposure.Exposure, err error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e exposure.Exposure
		var raw []byte
		var onset *int32
		if err := rows.Scan(&raw, &e.Start, &e.Period, &e.Risk, &e.Report, &onset); err != nil {
			return nil, err
		}
		e.Key = exposure.Key(raw)
		if e.HasOnset = onset != nil; e.HasOnset {
			e.DaysSinceOnset = *onset
		}
		held = append(held, e)
	}
	return held, rows.Err()
}

// assemble tells the keys that are new from those that are known, and reports
// errMoved when a key is neither.
func (a *foreignAddition) assemble(inserted map[exposure.Key]bool, events []event) error {
	a.known = knownFrom(events)
	for i := range a.Keys {
		e := &a.Keys[i]
		k := a.known[e.Key]
		if k == nil && !inserted[e.Key] {
			return errMoved
		}
		if k == nil {
			a.added.Inserted++
			continue
		}
		a.added.drop(whose(k.Origin, a.Origin), 1)
		if inserted[e.Key] {
			a.superfluous = append(a.superfluous, e.Key[:])
		}
	}
	return nil
}

// learn makes the page's own keys known, for the revisions that come with them.
func (a *foreignAddition) learn() {
	for _, e := range a.Keys {
		if a.known[e.Key] == nil {
			a.known[e.Key] = &event{Known: exposure.Known{Exposure: e, Origin: a.Origin}}
		}
	}
}

// whose says why a key is not taken that came from somewhere before.
func whose(origin, neighbour int) string {
	switch origin {
	case 0:
		return exposure.DropOurs
	case neighbour:
		return exposure.DropKnown
	}
	return exposure.DropAnothers
}

// decide sorts the revisions: those that waited came first.
func (a *foreignAddition) decide() {
	ups := slices.Concat(a.held, a.Revisions)
	if len(ups) > 0 {
		a.learn()
	}
	for _, up := range ups {
		k := a.known[up.Key]
		if k == nil {
			a.early = append(a.early, up)
			continue
		}
		revision, reason := k.ReviseBy(a.Origin, up)
		if reason != "" {
			a.added.drop(reason, 1)
			continue
		}
		k.Revised = revision.Report
		a.revisions = append(a.revisions, revision)
	}
}

// revise stores the revisions, and those that wait.
func (a *foreignAddition) revise(ctx context.Context) (err error) {
	if len(a.revisions)+len(a.early) == 0 {
		return nil
	}
	cols := a.columnsOf(a.revisions)
	var trip pgx.Batch
	trip.Queue(removeDoomed, cols.keys(), cols.starts())
	trip.Queue(insertForeign, cols.args(1, a.Origin)...)
	trip.Queue(hold, a.columnsOf(a.early).heldArgs(a.Origin)...)
	results := a.conn.SendBatch(ctx, &trip)
	defer func() { err = errors.Join(err, results.Close()) }()

	var n [3]int
	for i := range n {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		n[i] = int(tag.RowsAffected())
	}
	a.added.Revised, a.added.Held = n[1], n[2]
	if a.added.Revised != len(a.revisions) {
		return errMoved
	}
	a.added.drop(exposure.DropKnown, len(a.early)-a.added.Held)
	return nil
}

// finish removes what turned out to be in the log, adds up and commits.
func (a *foreignAddition) finish(ctx context.Context) error {
	for reason, n := range a.Dropped {
		a.added.drop(reason, n)
	}
	var trip pgx.Batch
	if len(a.superfluous) > 0 {
		trip.Queue(`DELETE FROM arrival WHERE key = ANY ($1::bytea[]) AND event = 0 AND xmin = pg_current_xact_id()::xid`, a.superfluous)
	}
	if what, n := a.added.counts(); len(what) > 0 {
		trip.Queue(countForeign, a.Origin, what, n)
	}
	trip.Queue(`COMMIT`)
	results := a.conn.SendBatch(ctx, &trip)
	for range trip.Len() {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	return results.Close()
}

// counts are what is kept in neighbour_count.
func (a *ForeignAdded) counts() (what []string, n []int64) {
	all := maps.Clone(a.Dropped)
	if all == nil {
		all = map[string]int{}
	}
	all["keys"], all["revisions"] = a.Inserted, a.Revised
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] > 0 {
			what, n = append(what, name), append(n, int64(all[name]))
		}
	}
	return what, n
}

// foreignColumns are exposures turned on their side, for unnest. Few of their
// regions differ: each kind of audience goes once. The arrays are written
// straight into the message: a page is large, and copies of it add up.
type foreignColumns struct {
	all       []exposure.Exposure
	now       time.Time
	embargo   Embargo
	audiences *audiences
}

func (a *foreignAddition) columnsOf(all []exposure.Exposure) foreignColumns {
	return foreignColumns{all, a.now, a.embargo, &audiences{}}
}

func (c foreignColumns) args(event int16, origin int) []any {
	numbers := make([]int32, len(c.all))
	for i := range c.all {
		numbers[i] = c.audiences.number(&c.all[i])
	}
	due := c.column(pgtype.TimestamptzOID, func(b []byte, e *exposure.Exposure) []byte { return appendTime(b, dueAt(c.embargo(*e), c.now)) })
	return append(append([]any{event, origin}, c.content()...), due, numbers, c.audiences.travelers, c.audiences.regions)
}

// heldArgs are what is kept of a revision: the audience will be its key's.
func (c foreignColumns) heldArgs(origin int) []any { return append([]any{origin}, c.content()...) }

func (c foreignColumns) content() []any {
	return []any{
		c.keys(), c.starts(),
		c.column(pgtype.Int2OID, func(b []byte, e *exposure.Exposure) []byte { return appendInt2(b, e.Period) }),
		c.column(pgtype.Int2OID, func(b []byte, e *exposure.Exposure) []byte { return appendInt2(b, e.Risk) }),
		c.column(pgtype.Int2OID, func(b []byte, e *exposure.Exposure) []byte { return appendInt2(b, int32(e.Report)) }),
		c.column(pgtype.Int2OID, func(b []byte, e *exposure.Exposure) []byte {
			if !e.HasOnset {
				return appendInt4(b, -1) // NULL
			}
			return appendInt2(b, e.DaysSinceOnset)
		}),
	}
}

func (c foreignColumns) keys() column {
	return c.column(pgtype.ByteaOID, func(b []byte, e *exposure.Exposure) []byte {
		return append(appendInt4(b, exposure.KeySize), e.Key[:]...)
	})
}

func (c foreignColumns) starts() column {
	return c.column(pgtype.Int4OID, func(b []byte, e *exposure.Exposure) []byte {
		return appendInt4(appendInt4(b, 4), int32(e.Start))
	})
}

func (c foreignColumns) column(oid int32, put func(b []byte, e *exposure.Exposure) []byte) column {
	return column{oid, [][]exposure.Exposure{c.all}, put}
}

// column is an array of one value of each exposure, in PostgreSQL's binary form
// (array_recv): dimensions, NULLs, type, length and lower bound, then each
// element with its size before it.
type column struct {
	oid   int32
	lists [][]exposure.Exposure
	put   func(b []byte, e *exposure.Exposure) []byte
}

// Bytes that a row takes in the widest column, and in all of a statement.
const (
	widestColumn = 24
	allColumns   = 80
)

// EncodeBinary implements pgtype.BinaryEncoder.
func (c column) EncodeBinary(_ *pgtype.ConnInfo, b []byte) ([]byte, error) {
	n := 0
	for _, list := range c.lists {
		n += len(list)
	}
	if n == 0 {
		return appendInt4(appendInt4(appendInt4(b, 0), 0), c.oid), nil
	}
	if cap(b)-len(b) < n*widestColumn {
		b = slices.Grow(b, n*allColumns) // once, for those that follow too
	}
	for _, head := range []int32{1, 1, c.oid, int32(n), 1} {
		b = appendInt4(b, head)
	}
	for _, list := range c.lists {
		for i := range list {
			b = c.put(b, &list[i])
		}
	}
	return b, nil
}

func appendInt4(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

// appendInt2 and appendTime write an element with its size before it.
func appendInt2(b []byte, v int32) []byte {
	return binary.BigEndian.AppendUint16(appendInt4(b, 2), uint16(v))
}

func appendTime(b []byte, t time.Time) []byte {
	const y2000 = 946_684_800 // PostgreSQL counts microseconds from there
	return binary.BigEndian.AppendUint64(appendInt4(b, 8), uint64(t.UnixMicro()-y2000*1_000_000))
}

// audiences numbers the kinds of audience from 1, as WITH ORDINALITY does.
type audiences struct {
	travelers []bool
	regions   []string // array literals

	numbers map[recipients]int32
	last    *exposure.Exposure // nearly always like the next
	of      int32
}

type recipients struct {
	traveler bool
	regions  string
}

func (a *audiences) number(e *exposure.Exposure) int32 {
	if a.last != nil && a.last.Traveler == e.Traveler && slices.Equal(a.last.Regions, e.Regions) {
		return a.of
	}
	kind := recipients{e.Traveler, arrayLiteral(e.Regions)}
	n, ok := a.numbers[kind]
	if !ok {
		a.travelers, a.regions = append(a.travelers, kind.traveler), append(a.regions, kind.regions)
		n = int32(len(a.regions))
		if a.numbers == nil {
			a.numbers = map[recipients]int32{}
		}
		a.numbers[kind] = n
	}
	a.last, a.of = e, n
	return n
}

// arrayLiteral is a list as PostgreSQL reads it: an array of arrays would have
// to be a rectangle.
func arrayLiteral(list []string) string {
	quoted := make([]string, len(list))
	for i, text := range list {
		quoted[i] = `"` + inLiteral.Replace(text) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

var inLiteral = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
