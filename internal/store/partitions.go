package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// aheadDays is how far partitions are made ahead of the clock. Keys start today
// at the latest; the rest is room for a batcher that did not run.
const aheadDays = 2

// partition is a table with the exposures of one key day.
type partition struct {
	Name     string
	Attached bool // part of the log; else it only waits to be dropped
	Pending  bool // a detachment has begun and must be finished
}

// partitionName is the table of a key day.
func partitionName(day exposure.Day) string { return "exposure_" + day.Time().Format("20060102") }

// day is the key day that the table's name tells.
func (p partition) day() exposure.Day {
	t, err := time.Parse("exposure_20060102", p.Name)
	if err != nil {
		return 0
	}
	return exposure.DayOf(t)
}

// partitions lists the tables of key days, oldest first, also those that a
// killed run left behind.
func partitions(ctx context.Context, q database.Queryer) ([]partition, error) {
	return database.All[partition](ctx, q, `
		SELECT    c.relname::text AS name,
		          i.inhrelid IS NOT NULL AS attached,
		          coalesce(i.inhdetachpending, false) AS pending
		FROM      pg_class c
		LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
		WHERE     c.relnamespace = current_schema()::regnamespace
		AND       c.relkind = 'r'
		AND       c.relname ~ '^exposure_[0-9]{8}$'
		ORDER BY  c.relname`)
}

// attachedDays asks for the key days that the log can take.
const attachedDays = `
	SELECT to_date(right(c.relname, 8), 'YYYYMMDD') - date '1970-01-01'
	FROM   pg_inherits i
	JOIN   pg_class c ON c.oid = i.inhrelid
	WHERE  i.inhparent = 'exposure'::regclass AND NOT i.inhdetachpending`

// EnsurePartitions makes the partitions of all key days that can still arrive.
func (db *DB) EnsurePartitions(ctx context.Context, now time.Time, retention time.Duration) (made int, err error) {
	defer errs.Wrap(&err, "EnsurePartitions(%s)", retention)
	err = db.InTx(ctx, func(tx database.Tx) error {
		// One at a time: two that make the same table would trip each other up.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('exposure partitions'))`); err != nil {
			return err
		}
		there, err := partitions(ctx, tx)
		if err != nil {
			return err
		}
		for day := exposure.DayOf(now.Add(-retention)); day <= exposure.DayOf(now)+aheadDays; day++ {
			if slices.ContainsFunc(there, func(p partition) bool { return p.day() == day }) {
				continue
			}
			if err := makePartition(ctx, tx, day); err != nil {
				return err
			}
			made++
		}
		return nil
	})
	return made, err
}

// makePartition creates and attaches: unlike CREATE … PARTITION OF, that does
// not lock readers and writers of the log out.
func makePartition(ctx context.Context, tx database.Tx, day exposure.Day) error {
	name := partitionName(day)
	if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE %s (LIKE exposure INCLUDING DEFAULTS INCLUDING CONSTRAINTS)`, name)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`
		ALTER TABLE exposure
		ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, name, day.Start(), (day+1).Start()))
	return err
}

// DropPartitions forgets the key days that ended before the given time and that
// no unfinished batch needs. It finishes what a killed run left. It returns how
// many days were forgotten.
//
// The head of the log stays locked meanwhile, so that nobody seals into a
// partition that goes, or cuts a batch that needs it. Sealing and uploads of
// other days are not held up: a detachment only waits for who reads.
func (db *DB) DropPartitions(ctx context.Context, endedBefore time.Time) (dropped int, err error) {
	defer errs.Wrap(&err, "DropPartitions(%s)", endedBefore.Format(time.DateOnly))
	err = db.InTx(ctx, func(tx database.Tx) error {
		if _, ok, err := lockHead(ctx, tx); err != nil || !ok {
			return err // whoever seals now goes first; the next run drops
		}
		there, err := partitions(ctx, tx)
		if err != nil {
			return err
		}
		needed, err := firstDayNeeded(ctx, tx)
		if err != nil {
			return err
		}
		// The snapshot of the last question lives as long as its portal, and
		// a detachment would wait for it: for us. This statement has none.
		if _, err := tx.Exec(ctx, `SAVEPOINT asked`); err != nil {
			return err
		}
		for _, p := range there {
			expired := (p.day() + 1).Time().Before(endedBefore) && p.day() < needed
			if p.Attached && !p.Pending && !expired {
				continue
			}
			if err := db.dropPartition(ctx, p); err != nil {
				return err
			}
			dropped++
		}
		return nil
	})
	return dropped, err
}

// firstDayNeeded is the oldest key day that an unfinished batch still reads.
func firstDayNeeded(ctx context.Context, tx database.Tx) (exposure.Day, error) {
	day, _, err := database.One[exposure.Day](ctx, tx, `
		SELECT coalesce(min(first_day), 2147483647) FROM export_batch WHERE done_at IS NULL`)
	return day, err
}

// dropPartition takes a table out of the log, then drops it. Killed in between,
// the table is found detached, or half detached, and gone with the next run.
func (db *DB) dropPartition(ctx context.Context, p partition) error {
	if p.Attached {
		how := "CONCURRENTLY"
		if p.Pending {
			how = "FINALIZE"
		}
		if _, err := db.Exec(ctx, fmt.Sprintf(`ALTER TABLE exposure DETACH PARTITION %s %s`, p.Name, how)); err != nil {
			return err
		}
	}
	_, err := db.Exec(ctx, `DROP TABLE IF EXISTS `+p.Name)
	return err
}
