package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// forgetStep bounds how many rows one statement deletes.
const forgetStep = 10_000

// ForgetUploads deletes receipts that have expired and upload statistics of
// days that ended before the given time, in bounded steps.
func (db *DB) ForgetUploads(ctx context.Context, now, endedBefore time.Time) (receipts, counts int64, err error) {
	defer errs.Wrap(&err, "ForgetUploads")
	receipts, err = db.deleteInSteps(ctx, `
		DELETE FROM receipt
		WHERE  hash IN (SELECT hash FROM receipt WHERE expires_on < $1::date LIMIT $2)`, now.UTC())
	if err != nil {
		return receipts, 0, err
	}
	counts, err = db.deleteInSteps(ctx, `
		DELETE FROM upload_count
		WHERE  (authority_id, day, measure, bin) IN (
			SELECT authority_id, day, measure, bin FROM upload_count WHERE day < $1::date LIMIT $2
		)`, endedBefore.UTC())
	return receipts, counts, err
}

// ForgetHeldRevisions deletes revisions that waited for keys of days that ended
// before the given time.
func (db *DB) ForgetHeldRevisions(ctx context.Context, endedBefore time.Time) (revisions int64, err error) {
	defer errs.Wrap(&err, "ForgetHeldRevisions")
	return db.deleteInSteps(ctx, `
		DELETE FROM held_revision
		WHERE  (key, origin) IN (
			SELECT key, origin FROM held_revision WHERE start_interval < extract(epoch FROM $1::timestamptz) / 600 - 144 LIMIT $2
		)`, endedBefore)
}

// ForgetBatches deletes finished batches that ended before the given time and
// have no file left, and the epochs sealed before it.
func (db *DB) ForgetBatches(ctx context.Context, endedBefore time.Time) (batches, epochs int64, err error) {
	defer errs.Wrap(&err, "ForgetBatches")
	batches, err = db.deleteInSteps(ctx, `
		DELETE FROM export_batch
		WHERE  batch_id IN (
			SELECT b.batch_id
			FROM   export_batch b
			WHERE  b.done_at IS NOT NULL AND b.end_at < $1
			AND    NOT EXISTS (SELECT FROM export_file f WHERE f.batch_id = b.batch_id)
			LIMIT  $2
		)`, endedBefore)
	if err != nil {
		return batches, 0, err
	}
	epochs, err = db.deleteInSteps(ctx, `
		DELETE FROM epoch
		WHERE  epoch IN (SELECT epoch FROM epoch WHERE sealed_at < $1 LIMIT $2)`, endedBefore)
	return batches, epochs, err
}

// deleteInSteps repeats a bounded delete until a step comes back short.
func (db *DB) deleteInSteps(ctx context.Context, sql string, bound time.Time) (total int64, err error) {
	for {
		n, err := database.Exec(ctx, db, sql, bound, forgetStep)
		total += n
		if err != nil || n < forgetStep {
			return total, err
		}
	}
}

// DelistFiles takes the files made before the given time out of their indexes,
// and gives those indexes new sequence numbers. It returns how many files.
func (db *DB) DelistFiles(ctx context.Context, madeBefore time.Time) (files int64, err error) {
	defer errs.Wrap(&err, "DelistFiles")
	err = db.InTx(ctx, func(tx database.Tx) error {
		// The exports first: whoever completes a batch locks them in the
		// same order, and the new number is known to the files below.
		_, err := tx.Exec(ctx, `
			UPDATE export x
			SET    index_sequence = `+nextSequence+`
			WHERE  EXISTS (
				SELECT FROM export_file f
				WHERE  f.export_id = x.export_id AND f.delisted_sequence IS NULL AND f.made_at < $1
			)`, madeBefore)
		if err != nil {
			return err
		}
		files, err = database.Exec(ctx, tx, `
			UPDATE export_file f
			SET    delisted_sequence = x.index_sequence
			FROM   export x
			WHERE  x.export_id = f.export_id AND f.delisted_sequence IS NULL AND f.made_at < $1`, madeBefore)
		return err
	})
	return files, err
}

// DeadFile is an object that no cached index can list any more.
type DeadFile struct {
	FileID int64
	Bucket string
	Object string
}

// DeadFiles gives files whose index without them was written before the given
// time, oldest first, at most limit.
func (db *DB) DeadFiles(ctx context.Context, delistedBefore time.Time, limit int) (_ []DeadFile, err error) {
	defer errs.Wrap(&err, "DeadFiles(%d)", limit)
	return database.All[DeadFile](ctx, db, `
		SELECT   f.file_id, x.bucket, f.object
		FROM     export_file f
		JOIN     export x USING (export_id)
		WHERE    f.delisted_at < $1
		ORDER BY f.file_id
		LIMIT    $2`, delistedBefore, limit)
}

// FileDeleted forgets a dead file whose object is gone from its bucket.
func (db *DB) FileDeleted(ctx context.Context, id int64) (err error) {
	defer errs.Wrap(&err, "FileDeleted(%d)", id)
	_, err = db.Exec(ctx, `DELETE FROM export_file WHERE file_id = $1`, id)
	return err
}
