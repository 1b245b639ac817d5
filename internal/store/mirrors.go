package store

import (
	"context"
	"encoding/json"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// Mirror is a public export that we copy.
type Mirror struct {
	MirrorConfig
	ID int
}

// Mirrors gives the mirrors to keep up, first those that have waited longest,
// and those that have ended but still hold files.
func (db *DB) Mirrors(ctx context.Context) (all []Mirror, err error) {
	defer errs.Wrap(&err, "Mirrors")
	type row struct {
		MirrorID                                       int
		Name, IndexURL, RootURL, Bucket, Root, Rewrite string
		Keys                                           []byte
		Ended                                          bool
	}
	for r, err := range database.Each[row](ctx, db, `
		SELECT   mirror_id, name, index_url, root_url, bucket, root, rewrite, keys, ended_at IS NOT NULL AS ended
		FROM     mirror m
		WHERE    ended_at IS NULL
		OR       EXISTS (SELECT FROM mirror_file f WHERE f.mirror_id = m.mirror_id AND f.deleted_at IS NULL)
		ORDER BY attempted_at NULLS FIRST, name`) {
		if err != nil {
			return nil, err
		}
		m := Mirror{ID: r.MirrorID, MirrorConfig: MirrorConfig{
			Name: r.Name, IndexURL: r.IndexURL, RootURL: r.RootURL, Bucket: r.Bucket, Root: r.Root, Rewrite: r.Rewrite, Ended: r.Ended,
		}}
		if err := json.Unmarshal(r.Keys, &m.Keys); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// MirrorFile is a file that is in a mirror, or on its way there or out.
type MirrorFile struct {
	File     string    // as the index there names it
	Object   string    // in our bucket; "": it has no name there yet
	Size     int64     // of the object, as the next
	SHA256   []byte    // nil: it was never listed
	Start    time.Time // in its header, as the next
	End      time.Time
	Copied   bool      // it may be listed
	Dropped  bool      // it must not be listed any more
	Delisted time.Time // when an index without it was written; zero: not yet
}

// MirrorFiles gives the files of a mirror whose objects are not deleted, in the
// order of its index.
func (db *DB) MirrorFiles(ctx context.Context, id int) (_ []MirrorFile, err error) {
	defer errs.Wrap(&err, "MirrorFiles(%d)", id)
	return readMirrorFiles(ctx, db, id)
}

func readMirrorFiles(ctx context.Context, q database.Queryer, id int) (all []MirrorFile, err error) {
	type row struct {
		File, Object               string
		Size                       int64
		SHA256                     []byte `db:"sha256"`
		StartAt, EndAt, DelistedAt pgtime
		Copied, Dropped            bool
	}
	for r, err := range database.Each[row](ctx, q, `
		SELECT   file, coalesce(object, '') AS object, coalesce(size, 0) AS size, sha256, start_at, end_at, delisted_at,
		         copied_at IS NOT NULL AS copied, dropped_at IS NOT NULL AS dropped
		FROM     mirror_file
		WHERE    mirror_id = $1 AND deleted_at IS NULL
		ORDER BY number`, id) {
		if err != nil {
			return nil, err
		}
		all = append(all, MirrorFile{
			File: r.File, Object: r.Object, Size: r.Size, SHA256: r.SHA256, Start: r.StartAt.Time, End: r.EndAt.Time,
			Copied: r.Copied, Dropped: r.Dropped, Delisted: r.DelistedAt.Time,
		})
	}
	return all, nil
}

// SeeMirrorFiles compares a mirror with the index of its source.
//
// What is new goes to the end, in the order of the index. So does what is back
// after it was dropped: phones never look at what is before the entry that they
// know, wherever it stands there.
//
// What the index lacks is dropped when that has been so for the given time: an
// index may be wrong for a while. What was not copied before it went is passed
// over at once, or nothing after it could ever be listed.
func (db *DB) SeeMirrorFiles(ctx context.Context, id int, index []string, now time.Time, patience time.Duration) (dropped int64, err error) {
	defer errs.Wrap(&err, "SeeMirrorFiles(%d, %d files)", id, len(index))
	index = notNull(index)
	err = db.InTx(ctx, func(tx database.Tx) error {
		if err := lockMirror(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO mirror_file AS m (mirror_id, file, number)
			SELECT    $1, u.file, u.place + (SELECT coalesce(max(number), 0) FROM mirror_file WHERE mirror_id = $1)
			FROM      unnest($2::text[]) WITH ORDINALITY AS u(file, place)
			LEFT JOIN mirror_file f ON f.mirror_id = $1 AND f.file = u.file
			WHERE     f.file IS NULL OR f.dropped_at IS NOT NULL
			ON CONFLICT (mirror_id, file) DO UPDATE
			SET    number = excluded.number, copied_at = NULL, gone_at = NULL, dropped_at = NULL, delisted_at = NULL, deleted_at = NULL`,
			id, index)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE mirror_file f
			SET    gone_at = CASE WHEN NOT seen.listed THEN $3::timestamptz END
			FROM   (
				SELECT    k.file, u.file IS NOT NULL AS listed
				FROM      mirror_file k
				LEFT JOIN unnest($2::text[]) AS u(file) USING (file)
				WHERE     k.mirror_id = $1 AND k.dropped_at IS NULL
			) AS seen
			WHERE  f.mirror_id = $1 AND f.file = seen.file AND (f.gone_at IS NULL) <> seen.listed`, id, index, now)
		if err != nil {
			return err
		}
		dropped, err = dropMirrorFiles(ctx, tx, `gone_at IS NOT NULL AND (copied_at IS NULL OR gone_at <= $2)`, id, now, now.Add(-patience))
		return err
	})
	return dropped, err
}

// DropMirrorFiles drops what ended before the given time, and what is not copied.
func (db *DB) DropMirrorFiles(ctx context.Context, id int, now, endedBefore time.Time) (dropped int64, err error) {
	defer errs.Wrap(&err, "DropMirrorFiles(%d)", id)
	err = db.InTx(ctx, func(tx database.Tx) error {
		if err := lockMirror(ctx, tx, id); err != nil {
			return err
		}
		dropped, err = dropMirrorFiles(ctx, tx, `(copied_at IS NULL OR end_at < $2)`, id, now, endedBefore)
		return err
	})
	return dropped, err
}

// lockMirror makes whoever changes a mirror's files wait for the others.
func lockMirror(ctx context.Context, tx database.Tx, id int) error {
	_, err := tx.Exec(ctx, `SELECT FROM mirror WHERE mirror_id = $1 FOR UPDATE`, id)
	return err
}

// dropMirrorFiles drops what meets a condition. What has no name in our bucket
// has nothing there either, and is forgotten.
func dropMirrorFiles(ctx context.Context, tx database.Tx, condition string, id int, now, bound time.Time) (int64, error) {
	_, err := tx.Exec(ctx, `
		DELETE FROM mirror_file
		WHERE  mirror_id = $1 AND object IS NULL AND `+condition, id, bound)
	if err != nil {
		return 0, err
	}
	return database.Exec(ctx, tx, `
		UPDATE mirror_file
		SET    dropped_at = $3
		WHERE  mirror_id = $1 AND dropped_at IS NULL AND `+condition, id, bound, now)
}

// NameMirrorFile gives a file its name in our bucket, for ever. It reports false
// when another file has the name.
func (db *DB) NameMirrorFile(ctx context.Context, id int, file, object string) (ok bool, err error) {
	defer errs.Wrap(&err, "NameMirrorFile(%d, %s)", id, object)
	n, err := database.Exec(ctx, db, `
		UPDATE mirror_file
		SET    object = $3
		WHERE  mirror_id = $1 AND file = $2
		AND    NOT EXISTS (SELECT FROM mirror_file WHERE mirror_id = $1 AND object = $3 AND file <> $2)`, id, file, object)
	return n == 1, err
}

// MirrorFileCopied notes that the object is in our bucket and good for phones:
// from now on it may be listed.
func (db *DB) MirrorFileCopied(ctx context.Context, id int, f MirrorFile, now time.Time) (err error) {
	defer errs.Wrap(&err, "MirrorFileCopied(%d, %s)", id, f.Object)
	_, err = db.Exec(ctx, `
		UPDATE mirror_file
		SET    copied_at = $3, size = $4, sha256 = $5, start_at = $6, end_at = $7
		WHERE  mirror_id = $1 AND file = $2`, id, f.File, now, f.Size, f.SHA256, f.Start, f.End)
	return err
}

// NumberMirrorIndex gives a number to an index that is about to be written, and
// the files as they are with that number: whoever has a higher number has seen
// a later state.
func (db *DB) NumberMirrorIndex(ctx context.Context, id int, atLeast int64) (sequence int64, files []MirrorFile, err error) {
	defer errs.Wrap(&err, "NumberMirrorIndex(%d)", id)
	err = db.InTx(ctx, func(tx database.Tx) error {
		sequence, _, err = database.One[int64](ctx, tx, `
			UPDATE mirror
			SET    sequence = greatest(sequence + 1, $2)
			WHERE  mirror_id = $1
			RETURNING sequence`, id, atLeast)
		if err != nil {
			return err
		}
		files, err = readMirrorFiles(ctx, tx, id)
		return err
	})
	return sequence, files, err
}

// MirrorFilesDelisted notes that the index in the bucket does not list these
// files, which were dropped.
func (db *DB) MirrorFilesDelisted(ctx context.Context, id int, files []string, now time.Time) (err error) {
	defer errs.Wrap(&err, "MirrorFilesDelisted(%d, %d files)", id, len(files))
	_, err = db.Exec(ctx, `
		UPDATE mirror_file
		SET    delisted_at = $3
		WHERE  mirror_id = $1 AND file = ANY ($2) AND dropped_at IS NOT NULL AND delisted_at IS NULL`, id, notNull(files), now)
	return err
}

// MirrorFileDeleted notes that the object of a dropped file is gone. Its name
// stays taken, unless it was never listed.
func (db *DB) MirrorFileDeleted(ctx context.Context, id int, file string, now time.Time) (err error) {
	defer errs.Wrap(&err, "MirrorFileDeleted(%d)", id)
	return db.InTx(ctx, func(tx database.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM mirror_file WHERE mirror_id = $1 AND file = $2 AND dropped_at IS NOT NULL AND sha256 IS NULL`, id, file)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE mirror_file SET deleted_at = $3 WHERE mirror_id = $1 AND file = $2 AND dropped_at IS NOT NULL`, id, file, now)
		return err
	})
}

// MirrorAttempted notes that we begin to bring a mirror up to date.
func (db *DB) MirrorAttempted(ctx context.Context, id int, now time.Time) (err error) {
	defer errs.Wrap(&err, "MirrorAttempted(%d)", id)
	_, err = db.Exec(ctx, `UPDATE mirror SET attempted_at = $2 WHERE mirror_id = $1`, id, now)
	return err
}

// MirrorSucceeded notes that a mirror lists all that its source lists.
func (db *DB) MirrorSucceeded(ctx context.Context, id int, now time.Time) (err error) {
	defer errs.Wrap(&err, "MirrorSucceeded(%d)", id)
	_, err = db.Exec(ctx, `
		UPDATE mirror
		SET    succeeded_at = greatest(succeeded_at, $2), failure = ''
		WHERE  mirror_id = $1`, id, now)
	return err
}

// MirrorFailed notes what went wrong, in words for the operator.
func (db *DB) MirrorFailed(ctx context.Context, id int, now time.Time, failure string) (err error) {
	defer errs.Wrap(&err, "MirrorFailed(%d)", id)
	_, err = db.Exec(ctx, `
		UPDATE mirror
		SET    failed_at = $2, failure = $3
		WHERE  mirror_id = $1`, id, now, failure)
	return err
}
