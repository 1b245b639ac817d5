package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgtype"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// OpenForNeighbours makes a pool for a service that reads the log page by page.
// Its connections plan each statement once and find every row by index, in the
// order that it is told in. Planned while a partition is empty, a page would
// otherwise sort that partition, or compare all of it with each key, and would
// be remembered so when it has filled.
func OpenForNeighbours(ctx context.Context, s database.Settings) (*DB, error) {
	return open(ctx, s, database.Session{
		"plan_cache_mode":   "force_generic_plan",
		"enable_seqscan":    "off",
		"enable_bitmapscan": "off",
		"enable_sort":       "off",
		"enable_hashjoin":   "off",
		"enable_mergejoin":  "off",
		"enable_memoize":    "off", // no key is asked for twice
	})
}

// Position is a place in the log. All epochs before Epoch are behind it, and
// of Epoch the rows up to Ordinal. The zero Position is the beginning.
type Position struct{ Epoch, Ordinal int32 }

// Before tells whether p comes before q.
func (p Position) Before(q Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Ordinal < q.Ordinal
}

// Log is the log as a whole.
type Log struct {
	Identity  [16]byte // another log has another one
	LastEpoch int32
}

// End is where the log will go on.
func (l Log) End() Position { return Position{Epoch: l.LastEpoch + 1} }

// Log tells which log this is and how far it goes. All that lies before its
// End is there, and stays as it is until it is forgotten.
func (db *DB) Log(ctx context.Context) (l Log, err error) {
	defer errs.Wrap(&err, "Log")
	l, ok, err := database.One[Log](ctx, db, `SELECT identity, last_epoch FROM log_head`)
	if err == nil && !ok {
		err = errNoHead
	}
	return l, err
}

var errNoHead = fmt.Errorf("log_head has no row: the migrations put one there")

// SealedAt tells when the newest epoch before a position was sealed, or the one
// that the position lies in. It is the zero time when that is forgotten, or
// there was none.
func (db *DB) SealedAt(ctx context.Context, p Position) (at time.Time, err error) {
	defer errs.Wrap(&err, "SealedAt(%v)", p)
	last := p.Epoch
	if p.Ordinal == 0 {
		last--
	}
	at, _, err = database.One[time.Time](ctx, db, `
		SELECT   sealed_at
		FROM     epoch
		WHERE    epoch <= $1
		ORDER BY epoch DESC
		LIMIT    1`, last)
	return at, err
}

// PositionAt gives a position that has all epochs ahead which were sealed at
// that time or later, and as few others as can be said.
func (db *DB) PositionAt(ctx context.Context, t time.Time) (p Position, err error) {
	defer errs.Wrap(&err, "PositionAt(%s)", t)
	// Clocks of sealers differ: a later epoch may have an earlier time. And
	// epochs are forgotten before the last of their keys, so that of those
	// before the oldest nobody knows when they were sealed.
	found, _, err := database.One[struct{ First, Oldest *int32 }](ctx, db, `
		SELECT coalesce(min(epoch) FILTER (WHERE sealed_at >= $1), max(epoch) + 1) AS first, min(epoch) AS oldest
		FROM   epoch`, t)
	if err != nil || found.Oldest == nil || *found.First == *found.Oldest {
		return Position{}, err
	}
	return Position{Epoch: *found.First}, nil
}

// Share is what of the log one neighbour is told.
type Share struct {
	Regions       []string // a key must have one of them, and is told with these alone
	Excluded      []string // a key must have none of them
	OnlyTravelers bool
	OnlyLocal     bool // only keys of our own apps
	NotFrom       int  // the origin of keys that the neighbour itself sent; 0: none
}

// SharedKey is a key that a neighbour is told, and where it lies in the log.
type SharedKey struct {
	exposure.Exposure // its regions are those of the Share
	At                Position
}

// scanRows bounds how much of the log one statement looks at, whether it is
// for the neighbour or not: some ten milliseconds.
const scanRows = 10_000

// The columns of a row that is shared, its order and its bounds. Padding has no
// ordinal.
const (
	sharedColumns = `
		epoch, ordinal, key, start_interval, period, report, risk, onset, traveler, regions,
		regions && $6::text[] AND NOT regions && $7::text[] AND (traveler OR NOT $8) AND (origin = 0 OR NOT $9)
		AND (origin <> $10 OR $10 = 0)`

	sharedBetween = `
		(epoch, ordinal) > ($1::integer, $2::integer) AND (epoch, ordinal) <= ($3::integer, $4::integer) AND ordinal IS NOT NULL
		ORDER BY epoch, ordinal
		LIMIT    $11::bigint`

	// sharedPage is what of the scanned rows makes a page of $5 keys; the last
	// row that may be looked at is in it too, for how far this came.
	sharedPage = `
		SELECT   epoch, ordinal, key, start_interval, period, report, risk, onset, traveler, regions, shared, last
		FROM     (
			SELECT epoch, ordinal, key, start_interval, period, report, risk, onset, traveler, regions, shared,
			       row_number() OVER (ORDER BY epoch, ordinal) = $11::bigint AS last
			FROM   scanned
		) AS s
		WHERE    shared OR last
		ORDER BY epoch, ordinal
		LIMIT    $5::bigint`
)

// SharedKeys gives the keys that first were sealed after one position and up to
// another, in the order of the log, at most limit of them, and how far that
// came. It may come less far than it was asked, even without a key, so that
// one call takes little time.
//
// What a neighbour is told of a key depends on the log alone, however it asks:
// a key that was revised in its own epoch comes with the outcome, and not at
// all when it was withdrawn; one that was revised later comes as it was first.
func (db *DB) SharedKeys(ctx context.Context, s Share, from, thru Position, limit int) (keys []SharedKey, reached Position, err error) {
	defer errs.Wrap(&err, "SharedKeys(%v to %v, %d)", from, thru, limit)
	keys, reached, err = db.shared(ctx, s, from, thru, limit, `
		WITH scanned AS (
			SELECT `+sharedColumns+` AND event = 0 AS shared
			FROM   exposure
			WHERE  `+sharedBetween+`
		), page AS (`+sharedPage+`
		)
		SELECT    p.key, p.start_interval, p.period, coalesce(r.report, p.report), coalesce(r.risk, p.risk),
		          CASE WHEN r.key IS NULL THEN p.onset ELSE r.onset END, p.traveler, p.regions, p.epoch, p.ordinal, p.shared, p.last
		FROM      page p
		-- The sums keep the indexes of epochs out of it, one of which has
		-- nothing but revisions: it is small until it is read once for each key.
		LEFT JOIN exposure r ON r.key = p.key AND r.start_interval = p.start_interval AND r.event + 0 = 1 AND r.epoch + 0 = p.epoch
		ORDER BY  p.epoch, p.ordinal`)
	withdrawn := func(k SharedKey) bool { return k.Report == exposure.Revoked }
	return slices.DeleteFunc(keys, withdrawn), reached, err
}

// SharedRevisions is SharedKeys for revisions of keys that lie in an earlier
// epoch: whoever was told all keys up to thru has been told these.
func (db *DB) SharedRevisions(ctx context.Context, s Share, from, thru Position, limit int) (revisions []SharedKey, reached Position, err error) {
	defer errs.Wrap(&err, "SharedRevisions(%v to %v, %d)", from, thru, limit)
	return db.shared(ctx, s, from, thru, limit, `
		WITH scanned AS (
			SELECT `+sharedColumns+` AS shared
			FROM   exposure
			WHERE  event = 1 AND `+sharedBetween+`
		), page AS (`+sharedPage+`
		)
		SELECT    r.key, r.start_interval, r.period, r.report, r.risk, r.onset, r.traveler, r.regions, r.epoch, r.ordinal,
		          r.shared AND k.key IS NULL, r.last
		FROM      page r
		LEFT JOIN exposure k ON k.key = r.key AND k.start_interval = r.start_interval AND k.event + 0 = 0 AND k.epoch + 0 = r.epoch
		ORDER BY  r.epoch, r.ordinal`)
}

// shared asks for a page and reads it.
func (db *DB) shared(ctx context.Context, s Share, from, thru Position, limit int, sql string) ([]SharedKey, Position, error) {
	rows, err := db.Query(ctx, sql, from.Epoch, from.Ordinal, thru.Epoch, thru.Ordinal, limit,
		notNull(s.Regions), notNull(s.Excluded), s.OnlyTravelers, s.OnlyLocal, s.NotFrom, scanRows)
	if err != nil {
		return nil, from, err
	}
	defer rows.Close()
	d := sharedDecoder{share: s, regions: map[string][]string{}}
	for rows.Next() {
		if err := d.decode(rows.RawValues()); err != nil {
			return nil, from, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, from, err
	}
	if d.rows == limit || d.bounded {
		return d.keys, d.reached, nil
	}
	return d.keys, thru, nil
}

// sharedDecoder reads binary rows: a million of them go through here, too many
// for reflection. The few sets of regions that keys have it reads once.
type sharedDecoder struct {
	share   Share
	regions map[string][]string // told ones, by those in the log

	keys    []SharedKey
	rows    int
	reached Position
	bounded bool // the last row that may be looked at was there
}

func (d *sharedDecoder) decode(raw [][]byte) error {
	if len(raw) != 12 || len(raw[6]) != 1 || len(raw[8]) != 4 || len(raw[9]) != 4 || len(raw[10]) != 1 || len(raw[11]) != 1 {
		return fmt.Errorf("a row of %d columns is not a shared key", len(raw))
	}
	d.rows++
	d.reached = Position{int32(binary.BigEndian.Uint32(raw[8])), int32(binary.BigEndian.Uint32(raw[9]))}
	d.bounded = d.bounded || raw[11][0] != 0
	if raw[10][0] == 0 {
		return nil
	}
	e, err := decodeExposure(raw[:6])
	if err != nil {
		return err
	}
	e.Traveler = raw[6][0] != 0
	e.Regions, err = d.told(raw[7])
	d.keys = append(d.keys, SharedKey{e, d.reached})
	return err
}

// told gives those regions of a key that the neighbour is told. All keys with
// the same regions share one list.
func (d *sharedDecoder) told(raw []byte) ([]string, error) {
	if told, ok := d.regions[string(raw)]; ok {
		return told, nil
	}
	var array pgtype.TextArray
	if err := array.DecodeBinary(nil, raw); err != nil {
		return nil, err
	}
	var all []string
	if err := array.AssignTo(&all); err != nil {
		return nil, err
	}
	told := slices.DeleteFunc(all, func(r string) bool { return !slices.Contains(d.share.Regions, r) })
	d.regions[string(raw)] = told
	return told, nil
}

// Peer is a neighbour that may ask us.
type Peer struct {
	AllowConfig
	Origin int // of the keys that it sends us when we ask it; 0: none ever came
}

// Peers lists the neighbours that may ask us.
func (db *DB) Peers(ctx context.Context) (_ []Peer, err error) {
	defer errs.Wrap(&err, "Peers")
	return database.All[Peer](ctx, db, `
		SELECT    a.name, a.issuer, a.subject, a.audience, a.include_regions, a.exclude_regions, coalesce(n.origin, 0) AS origin
		FROM      federation_allow a
		LEFT JOIN neighbour n ON n.kind = 'federation' AND n.name = a.name   -- also one that we no longer ask
		ORDER BY  a.name`)
}
