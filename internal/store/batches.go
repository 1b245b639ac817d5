package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Batch is a stretch of epochs of one export, frozen when it was cut.
type Batch struct {
	ID                    int64
	ExportID              int
	Export                string // name
	Bucket, Root, Region  string
	FirstEpoch, LastEpoch int
	FirstDay, LastDay     exposure.Day // the key days that it reads
	Start, End            time.Time    // whole seconds
	Filter                Filter
	Parts                 []Part // one a file, at least one
	SigningKeys           []SigningKey
	Fence                 int64 // of the lease
}

// Part is what one file of a batch holds: the keys whose (start, key) is not
// before From and before the From of the next part.
type Part struct {
	FromStart exposure.Interval `json:"start"`
	FromKey   []byte            `json:"key"`
}

// SigningKey is a key with which files are signed.
type SigningKey struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	ID      string `json:"id"`
	Version string `json:"version"`
}

// File is one object of a batch.
type File struct {
	Number        int // from 1
	Object        string
	Size          int64
	SHA256        []byte
	Keys, Revised int
}

// EndOf is the end timestamp of the file with this number, from 1: the files of
// a batch, and so of an index, must not share one.
func (b Batch) EndOf(number int) time.Time {
	return b.End.Add(-time.Duration(len(b.Parts)-number) * time.Second)
}

// LeaseBatch hands out the oldest batch that is open, or whose lease has run
// out, until now+ttl, leaving out those that the caller knows to fail. It
// reports false when there is no work.
func (db *DB) LeaseBatch(ctx context.Context, now time.Time, ttl time.Duration, except ...int64) (_ Batch, ok bool, err error) {
	defer errs.Wrap(&err, "LeaseBatch(%s)", ttl)

	// One statement both finds and takes the batch. SKIP LOCKED lets workers
	// pass each other by; the oldest goes first because its index waits for it:
	// phones never look back.
	row, ok, err := database.One[batchRow](ctx, db, `
		WITH taken AS (
			UPDATE export_batch
			SET    fence = fence + 1, lease_until = $2
			WHERE  batch_id = (
				SELECT   batch_id
				FROM     export_batch
				WHERE    done_at IS NULL
				AND      lease_until <= $1
				AND      batch_id <> ALL ($3::bigint[])
				ORDER BY end_at, batch_id
				LIMIT    1
				FOR UPDATE SKIP LOCKED
			)
			RETURNING batch_id, export_id, first_epoch, last_epoch, first_day, last_day, start_at, end_at,
			          region, input_regions, exclude_regions, travelers, provenance, parts, signing_keys, fence
		)
		SELECT b.batch_id, b.export_id, x.name, x.bucket, x.root, b.region, b.first_epoch, b.last_epoch, b.first_day, b.last_day,
		       b.start_at, b.end_at, b.input_regions, b.exclude_regions, b.travelers, b.provenance, b.parts, b.signing_keys, b.fence
		FROM   taken b
		JOIN   export x USING (export_id)`, now, now.Add(ttl), append([]int64{}, except...))
	if err != nil || !ok {
		return Batch{}, false, err
	}
	b, err := row.batch()
	return b, err == nil, err
}

// batchRow is a Batch as the table holds it.
type batchRow struct {
	BatchID                      int64
	ExportID                     int
	Name, Bucket, Root, Region   string
	FirstEpoch, LastEpoch        int
	FirstDay, LastDay            exposure.Day
	StartAt, EndAt               time.Time
	InputRegions, ExcludeRegions []string
	Travelers, Provenance        string
	Parts, SigningKeys           []byte
	Fence                        int64
}

func (r batchRow) batch() (Batch, error) {
	b := Batch{
		ID: r.BatchID, ExportID: r.ExportID, Export: r.Name, Bucket: r.Bucket, Root: r.Root, Region: r.Region,
		FirstEpoch: r.FirstEpoch, LastEpoch: r.LastEpoch, FirstDay: r.FirstDay, LastDay: r.LastDay,
		Start: r.StartAt.UTC(), End: r.EndAt.UTC(), Fence: r.Fence,
		Filter: Filter{InputRegions: r.InputRegions, ExcludeRegions: r.ExcludeRegions, Travelers: Travelers(r.Travelers), Provenance: Provenance(r.Provenance)},
	}
	if err := json.Unmarshal(r.Parts, &b.Parts); err != nil {
		return Batch{}, err
	}
	return b, json.Unmarshal(r.SigningKeys, &b.SigningKeys)
}

// ExtendLease moves the end of a lease on. It reports false when somebody else
// has the batch by now.
func (db *DB) ExtendLease(ctx context.Context, b Batch, until time.Time) (ok bool, err error) {
	defer errs.Wrap(&err, "ExtendLease(%d)", b.ID)
	n, err := database.Exec(ctx, db, `
		UPDATE export_batch
		SET    lease_until = $3
		WHERE  batch_id = $1 AND fence = $2 AND done_at IS NULL`, b.ID, b.Fence, until)
	return n == 1, err
}

// ReleaseBatch gives an unfinished batch back at once, for others to try.
func (db *DB) ReleaseBatch(ctx context.Context, b Batch) (err error) {
	defer errs.Wrap(&err, "ReleaseBatch(%d)", b.ID)
	_, err = db.Exec(ctx, `
		UPDATE export_batch
		SET    lease_until = '-infinity'
		WHERE  batch_id = $1 AND fence = $2 AND done_at IS NULL`, b.ID, b.Fence)
	return err
}

// CompleteBatch records the files of a batch, ends it and gives its export's
// index a new sequence number. It reports false when the lease was lost:
// somebody else has done it, or will.
func (db *DB) CompleteBatch(ctx context.Context, b Batch, files []File, now time.Time) (ok bool, err error) {
	defer errs.Wrap(&err, "CompleteBatch(%d, %d files)", b.ID, len(files))
	err = db.inPatientTx(ctx, func(tx database.Tx) error {
		n, err := database.Exec(ctx, tx, `
			UPDATE export_batch
			SET    done_at = $3
			WHERE  batch_id = $1 AND fence = $2 AND done_at IS NULL`, b.ID, b.Fence, now)
		if ok = n == 1; err != nil || !ok {
			return err
		}
		for _, f := range files {
			if _, err := tx.Exec(ctx, `
				INSERT INTO export_file (export_id, batch_id, number, object, size, sha256, keys, revised_keys, made_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
				b.ExportID, b.ID, f.Number, f.Object, f.Size, f.SHA256, f.Keys, f.Revised, now); err != nil {
				return err
			}
		}
		return renumberIndex(ctx, tx, `export_id = $1`, b.ExportID)
	})
	return ok && err == nil, err
}

// Index is what the index of an export should be.
type Index struct {
	ExportID     int
	Export       string
	Bucket, Root string
	Sequence     int64
	Files        []IndexedFile // oldest first, all before the first unfinished batch
	SigningKeys  []SigningKey  // valid at now, the leading one first; at most 10
}

// IndexedFile is one entry of an index.
type IndexedFile struct {
	Object                string
	Size                  int64
	SHA256                []byte `db:"sha256"`
	FirstEpoch, LastEpoch int
}

// UnwrittenIndexes gives every index whose newest form is not known to be in
// its bucket, each read in one snapshot with its sequence number.
func (db *DB) UnwrittenIndexes(ctx context.Context, now time.Time) (indexes []Index, err error) {
	defer errs.Wrap(&err, "UnwrittenIndexes")
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		exports, err := database.All[indexRow](ctx, tx, `
			SELECT   export_id, name, bucket, root, index_sequence
			FROM     export
			WHERE    written_sequence < index_sequence
			ORDER BY export_id`)
		if err != nil {
			return err
		}
		for _, x := range exports {
			index, err := readIndex(ctx, tx, x, now)
			if err != nil {
				return err
			}
			indexes = append(indexes, index)
		}
		return nil
	})
	return indexes, err
}

type indexRow struct {
	ExportID           int
	Name, Bucket, Root string
	IndexSequence      int64
}

func readIndex(ctx context.Context, tx database.Tx, x indexRow, now time.Time) (_ Index, err error) {
	index := Index{ExportID: x.ExportID, Export: x.Name, Bucket: x.Bucket, Root: x.Root, Sequence: x.IndexSequence}
	if index.SigningKeys, err = indexKeys(ctx, tx, x.ExportID, now); err != nil {
		return index, err
	}
	// Phones never look back: nothing is listed behind a batch that is not
	// done, lest its files be inserted before others later.
	index.Files, err = database.All[IndexedFile](ctx, tx, `
		SELECT   f.object, f.size, f.sha256, b.first_epoch, b.last_epoch
		FROM     export_file f
		JOIN     export_batch b USING (batch_id)
		WHERE    f.export_id = $1
		AND      f.delisted_sequence IS NULL
		AND      NOT EXISTS (
			SELECT FROM export_batch u
			WHERE  u.export_id = $1 AND u.done_at IS NULL AND u.first_epoch < b.first_epoch
		)
		ORDER BY b.first_epoch, f.number`, x.ExportID)
	return index, err
}

// RenumberIndex gives an export's index a new sequence number, so that the next
// run of a worker writes it again.
func (db *DB) RenumberIndex(ctx context.Context, export string) (err error) {
	defer errs.Wrap(&err, "RenumberIndex(%s)", export)
	return db.InTx(ctx, func(tx database.Tx) error { return renumberIndex(ctx, tx, `name = $1`, export) })
}

// nextSequence follows the last number of an index, and the seconds since 1970:
// a database that was restored from a backup must not fall behind the index that
// is in the bucket. The database's clock will do, for nothing is due by it.
const nextSequence = `greatest(index_sequence + 1, extract(epoch FROM clock_timestamp())::bigint)`

// renumberIndex is called in the transaction that changes what an index lists.
func renumberIndex(ctx context.Context, tx database.Tx, where string, arg any) error {
	n, err := database.Exec(ctx, tx, `UPDATE export SET index_sequence = `+nextSequence+` WHERE `+where, arg)
	if err == nil && n == 0 {
		return errs.NotFound("unknown_export", "there is no export %v", arg)
	}
	return err
}

// IndexWritten records that the index with this sequence number is in the
// bucket; files that it no longer lists may go after the longest cache life.
func (db *DB) IndexWritten(ctx context.Context, exportID int, sequence int64, now time.Time) (err error) {
	defer errs.Wrap(&err, "IndexWritten(%d, %d)", exportID, sequence)
	return db.inPatientTx(ctx, func(tx database.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE export
			SET    written_sequence = greatest(written_sequence, $2)
			WHERE  export_id = $1`, exportID, sequence); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE export_file
			SET    delisted_at = $3
			WHERE  export_id = $1 AND delisted_at IS NULL AND delisted_sequence <= $2`, exportID, sequence, now)
		return err
	})
}

// inPatientTx is InTx for what a worker records of minutes of work. A sealer
// holds an export's row from its cut to the end of the run, which is longer than
// others may wait.
func (db *DB) inPatientTx(ctx context.Context, f func(tx database.Tx) error) error {
	return db.InTx(ctx, func(tx database.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '30s'`); err != nil {
			return err
		}
		return f(tx)
	})
}

// marshal writes a value of ours as JSON; it cannot fail.
func marshal[T Part | SigningKey | TrustedKey](values []T) []byte {
	text, err := json.Marshal(slices.Concat([]T{}, values))
	if err != nil {
		panic(err)
	}
	return text
}
