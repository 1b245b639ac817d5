package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Upload is what AddUpload stores, all of it or nothing.
type Upload struct {
	// Receipt is the hash of the accepted certificate. An upload whose receipt
	// is stored already is a retry.
	Receipt        [32]byte
	ReceiptExpires time.Time

	Keys []exposure.Exposure // valid, no key twice
	May  exposure.Permission
	Fact Fact
}

// Fact is what statistics keep of an upload.
type Fact struct {
	Authority int // 0: the app needs no certificate; no fact is stored
	Platform  Platform
	KeyAges   []int // whole days between each key's day and the upload
	OnsetAge  int   // whole days between onset and upload; -1: the phone did not tell
	Revision  bool  // the phone sent a revision token that was valid

	Attestation Attestation
}

// Attestation is what became of the proof of a device.
type Attestation int16

// The outcomes.
const (
	AttestationNone     Attestation = 0 // none was asked for
	AttestationGenuine  Attestation = 1
	AttestationDoubtful Attestation = 2 // not believed, or missing, and the upload taken all the same
)

// String is the outcome's word.
func (a Attestation) String() string {
	switch a {
	case AttestationGenuine:
		return "genuine"
	case AttestationDoubtful:
		return "doubtful"
	}
	return "none"
}

// Platform is the kind of phone, as far as statistics care.
type Platform int16

// The platforms.
const (
	PlatformUnknown Platform = 0
	PlatformAndroid Platform = 1
	PlatformIOS     Platform = 2
)

// String is the platform's word.
func (p Platform) String() string {
	switch p {
	case PlatformAndroid:
		return "android"
	case PlatformIOS:
		return "ios"
	}
	return "unknown"
}

// Added tells what AddUpload did.
type Added struct {
	Retry     bool // this very upload was stored before; nothing was done
	Inserted  int
	Revised   int
	Unchanged int
}

// Embargo decides when an arrival may be sealed.
type Embargo func(e exposure.Exposure) time.Time

// uploadAttempts bounds how often an upload starts over because its keys moved
// under it, or the schema did. Each time means that a seal, another upload of
// the same keys, or a migration committed in between.
const uploadAttempts = 4

var errMoved = errors.New("keys were sealed or revised meanwhile")

// AddUpload stores an upload: new keys as arrivals, known keys as revisions
// where Permission and the rules of exposure.Decide allow it, the receipt and
// the fact. It is one transaction: an error means that nothing was stored, or,
// when the connection broke at its end, that a retry will find out.
//
// New keys of a negative report are not stored: there is nobody to warn.
func (db *DB) AddUpload(ctx context.Context, now time.Time, up Upload, embargo Embargo) (added Added, err error) {
	defer errs.Wrap(&err, "AddUpload(%d keys)", len(up.Keys))

	conn, err := db.Acquire(ctx)
	if err != nil {
		return Added{}, err
	}
	defer conn.Release()
	// Everyone takes keys in the same order, so that nobody waits in a circle.
	slices.SortFunc(up.Keys, func(a, b exposure.Exposure) int { return bytes.Compare(a.Key[:], b.Key[:]) })

	for range uploadAttempts {
		added, err = addUpload(ctx, conn, now, up, embargo)
		if err == nil {
			return added, nil
		}
		rollback(conn)
		if !errors.Is(err, errMoved) && !forgetOutdated(ctx, conn, err) {
			return Added{}, err
		}
	}
	return Added{}, err
}

// addUpload is one attempt, in two trips to the database: what is known, then
// what follows from it and the commit. On an error the transaction is open.
func addUpload(ctx context.Context, conn *pgxpool.Conn, now time.Time, up Upload, embargo Embargo) (Added, error) {
	found, err := insertAndFind(ctx, conn, now, up, embargo)
	if err != nil {
		return Added{}, err
	}
	if !found.first {
		rollback(conn)
		return Added{Retry: true}, nil
	}
	decision, err := exposure.Decide(up.Keys, found.known, up.May)
	if err != nil {
		return Added{}, err
	}
	if err := addRevisions(ctx, conn, now, decision.Revisions, embargo); err != nil {
		return Added{}, err
	}
	if err := finishUpload(ctx, conn, now, up.Fact, found.superfluous); err != nil {
		return Added{}, err
	}
	return Added{
		Inserted:  found.inserted - len(found.superfluous),
		Revised:   len(decision.Revisions),
		Unchanged: decision.Unchanged,
	}, nil
}

// found is what the first trip tells.
type found struct {
	first       bool // the receipt is new
	inserted    int
	known       []exposure.Known
	superfluous [][]byte // just inserted as arrivals, though the log has them
}

// insertAndFind opens the transaction, takes the receipt, inserts what may be
// new and, in a later statement that sees all that was committed meanwhile,
// looks up what was there before.
//
// The receipt comes first: the same upload at the same instant waits for it,
// and then knows itself for a retry.
func insertAndFind(ctx context.Context, conn *pgxpool.Conn, now time.Time, up Upload, embargo Embargo) (f found, err error) {
	cols := columnsOf(up.Keys, now, embargo)
	var trip pgx.Batch
	trip.Queue(`BEGIN`)
	trip.Queue(`
		INSERT INTO receipt (hash, expires_on)
		VALUES ($1, $2)
		ON CONFLICT DO NOTHING`,
		up.Receipt[:], up.ReceiptExpires.UTC().AddDate(0, 0, 1))
	trip.Queue(insertArrivals, cols.args(0)...)
	trip.Queue(findKeys, cols.key, cols.start)

	results := conn.SendBatch(ctx, &trip)
	defer func() { err = errors.Join(err, results.Close()) }()
	if _, err := results.Exec(); err != nil {
		return f, err
	}
	tag, err := results.Exec()
	if err != nil {
		return f, err
	}
	f.first = tag.RowsAffected() == 1
	inserted, err := readKeys(results)
	if err != nil {
		return f, err
	}
	f.inserted = len(inserted)
	events, err := readEvents(results)
	if err != nil || !f.first {
		return f, err
	}
	return f, f.assemble(up.Keys, inserted, events)
}

// insertArrivals stores events unless the same key waits already. Nothing of a
// negative report is new (report 5 is stored as a revision only).
const insertArrivals = `
	INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
	SELECT   u.key, $1::smallint, u.start_interval, u.period, u.risk, u.report, u.onset, $9::boolean, $10::text[], u.due_at
	FROM     unnest($2::bytea[], $3::integer[], $4::smallint[], $5::smallint[], $6::smallint[], $7::smallint[], $8::timestamptz[])
	         AS u(key, start_interval, period, risk, report, onset, due_at)
	WHERE    $1 = 1 OR u.report <> 5
	ORDER BY u.key
	ON CONFLICT DO NOTHING
	RETURNING key`

// findKeys gives the events of keys that others stored: those that wait, under
// whatever start, and those in the log, where the start leads to one partition.
const findKeys = `
	SELECT a.key, a.event, a.start_interval, a.period, a.report, a.origin, a.traveler, a.regions, false AS sealed
	FROM   arrival a
	WHERE  a.key = ANY ($1::bytea[])
	AND    a.xmin <> pg_current_xact_id()::xid   -- not what this transaction inserted
	UNION ALL
	SELECT e.key, e.event, e.start_interval, e.period, e.report, e.origin, e.traveler, e.regions, true
	FROM   unnest($1::bytea[], $2::integer[]) AS u(key, start_interval)
	JOIN   exposure e ON e.key = u.key AND e.start_interval = u.start_interval`

// event is a stored row of a key.
type event struct {
	exposure.Known
	kind   int16
	sealed bool
}

func readKeys(results pgx.BatchResults) (map[exposure.Key]bool, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	keys := map[exposure.Key]bool{}
	for rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return nil, err
		}
		keys[exposure.Key(raw)] = true
	}
	return keys, rows.Err()
}

func readEvents(results pgx.BatchResults) ([]event, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []event
	for rows.Next() {
		var e event
		var raw []byte
		if err := rows.Scan(&raw, &e.kind, &e.Start, &e.Period, &e.Report, &e.Origin, &e.Traveler, &e.Regions, &e.sealed); err != nil {
			return nil, err
		}
		e.Key = exposure.Key(raw)
		events = append(events, e)
	}
	return events, rows.Err()
}

// assemble joins the events of each key to what is known of it, and reports
// errMoved when a key is neither new nor found. What is in the log, under the
// start that was sent, is the key; the same bytes that wait under another start
// will be discarded.
func (f *found) assemble(uploaded []exposure.Exposure, inserted map[exposure.Key]bool, events []event) error {
	known := knownFrom(events)
	for key, k := range known {
		if k.sealed && inserted[key] {
			f.superfluous = append(f.superfluous, k.Key[:])
		}
	}
	for _, up := range uploaded {
		k := known[up.Key]
		if k != nil {
			f.known = append(f.known, k.Known)
		}
		if k == nil && !inserted[up.Key] && up.Report != exposure.Revoked {
			return errMoved
		}
	}
	return nil
}

// knownFrom joins the events of each key.
func knownFrom(events []event) map[exposure.Key]*event {
	known := map[exposure.Key]*event{}
	for _, e := range events {
		if old := known[e.Key]; e.kind != 0 || old != nil && old.sealed {
			continue
		}
		known[e.Key] = &e
	}
	for _, e := range events {
		if k := known[e.Key]; k != nil && e.kind == 1 && e.Start == k.Start {
			k.Revised = e.Report
		}
	}
	return known
}

func addRevisions(ctx context.Context, conn *pgxpool.Conn, now time.Time, revisions []exposure.Exposure, embargo Embargo) error {
	// One statement for each set of regions: an upload has one, hardly ever two.
	for _, group := range byAudience(revisions) {
		tag, err := conn.Exec(ctx, insertArrivals, columnsOf(group, now, embargo).args(1)...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != int64(len(group)) {
			return errMoved
		}
	}
	return nil
}

// byAudience groups exposures that go to the same regions and travellers.
func byAudience(all []exposure.Exposure) (groups [][]exposure.Exposure) {
next:
	for _, e := range all {
		for i, g := range groups {
			if g[0].Traveler == e.Traveler && slices.Equal(g[0].Regions, e.Regions) {
				groups[i] = append(g, e)
				continue next
			}
		}
		groups = append(groups, []exposure.Exposure{e})
	}
	return groups
}

// finishUpload removes what turned out to be in the log, notes the fact and
// commits, in one trip.
func finishUpload(ctx context.Context, conn *pgxpool.Conn, now time.Time, fact Fact, superfluous [][]byte) error {
	var trip pgx.Batch
	if len(superfluous) > 0 {
		trip.Queue(`DELETE FROM arrival WHERE key = ANY ($1::bytea[]) AND event = 0 AND xmin = pg_current_xact_id()::xid`, superfluous)
	}
	if fact.Authority != 0 {
		queueFact(&trip, now, fact)
	}
	trip.Queue(`COMMIT`)
	results := conn.SendBatch(ctx, &trip)
	for range trip.Len() {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	return results.Close()
}

func queueFact(trip *pgx.Batch, now time.Time, fact Fact) {
	ages := make([]int16, len(fact.KeyAges))
	for i, age := range fact.KeyAges {
		ages[i] = int16(age)
	}
	var onset *int16
	if fact.OnsetAge >= 0 {
		days := int16(fact.OnsetAge)
		onset = &days
	}
	trip.Queue(`
		INSERT INTO upload_fact (authority_id, hour, platform, keys, revision, key_ages, onset_age, attestation)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		fact.Authority, hourOf(now), fact.Platform, len(ages), fact.Revision, ages, onset, fact.Attestation)
}

// columns are exposures turned on their side, for unnest.
type columns struct {
	key                  [][]byte
	start                []int32
	period, risk, report []int16
	onset                []*int16
	due                  []time.Time
	traveler             bool
	regions              []string
}

func columnsOf(all []exposure.Exposure, now time.Time, embargo Embargo) columns {
	var c columns
	for _, e := range all {
		c.key = append(c.key, e.Key[:])
		c.start = append(c.start, int32(e.Start))
		c.period = append(c.period, int16(e.Period))
		c.risk = append(c.risk, int16(e.Risk))
		c.report = append(c.report, int16(e.Report))
		c.onset = append(c.onset, onsetOf(e))
		c.due = append(c.due, dueAt(embargo(e), now))
		c.traveler, c.regions = e.Traveler, e.Regions
	}
	return c
}

func (c columns) args(kind int16) []any {
	return []any{kind, c.key, c.start, c.period, c.risk, c.report, c.onset, c.due, c.traveler, c.regions}
}

func onsetOf(e exposure.Exposure) *int16 {
	if !e.HasOnset {
		return nil
	}
	days := int16(e.DaysSinceOnset)
	return &days
}

// dueAt is the end of the embargo or the hour of arrival, whichever is later:
// the table knows no finer time, and how long a crowd has waited all the same.
func dueAt(release, now time.Time) time.Time {
	if hour := hourOf(now); release.Before(hour) {
		return hour
	}
	return release
}

func hourOf(now time.Time) time.Time { return now.UTC().Truncate(time.Hour) }

// rollback ends a transaction that did not commit. Should that fail, the pool
// throws the connection away.
func rollback(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if conn.Conn().PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, `ROLLBACK`)
	}
}

// forgetOutdated makes a connection prepare its statements anew if an error says
// that a migration has changed what they give. The driver does not see that of
// statements which it sends in one trip, and the connection would refuse every
// upload for as long as it lives.
func forgetOutdated(ctx context.Context, conn *pgxpool.Conn, err error) bool {
	const featureNotSupported = "0A000" // "cached plan must not change result type"
	failed, ok := errors.AsType[*pgconn.PgError](err)
	statements := conn.Conn().StatementCache()
	return ok && failed.Code == featureNotSupported && statements != nil && statements.Clear(ctx) == nil
}
