package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// RevisionKey is a key that encrypts revision tokens, wrapped.
type RevisionKey struct {
	RevisionKeyID int
	Wrapped       []byte
	CreatedAt     time.Time
	KeptAt        time.Time // when an instance last had to seal with it though there was a newer one; else CreatedAt
}

// RevisionKeys gives all of them, newest first.
func (db *DB) RevisionKeys(ctx context.Context) (_ []RevisionKey, err error) {
	defer errs.Wrap(&err, "RevisionKeys")
	return database.All[RevisionKey](ctx, db, `
		SELECT   revision_key_id, wrapped, created_at, coalesce(kept_at, created_at) AS kept_at
		FROM     revision_key
		ORDER BY created_at DESC, revision_key_id DESC`)
}

// AddRevisionKey stores a key unless one was added after that with the id
// newest; 0: unless there is any. Of many who read the same keys one wins. It
// reports whether it did.
func (db *DB) AddRevisionKey(ctx context.Context, wrapped []byte, newest int, now time.Time) (added bool, err error) {
	defer errs.Wrap(&err, "AddRevisionKey(%d)", newest)
	err = db.InTx(ctx, func(tx database.Tx) error {
		// The lock makes the question and its consequence one step, and ids
		// grow in the order in which keys are added.
		if _, err := tx.Exec(ctx, `LOCK TABLE revision_key IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		n, err := database.Exec(ctx, tx, `
			INSERT INTO revision_key (wrapped, created_at)
			SELECT $1, $3
			WHERE  NOT EXISTS (SELECT FROM revision_key WHERE revision_key_id > $2)`, wrapped, newest, now)
		added = n == 1
		return err
	})
	return added, err
}

// KeepRevisionKey notes that an instance seals with a key that was replaced.
func (db *DB) KeepRevisionKey(ctx context.Context, id int, now time.Time) (err error) {
	defer errs.Wrap(&err, "KeepRevisionKey(%d)", id)
	_, err = db.Exec(ctx, `
		UPDATE revision_key
		SET    kept_at = greatest(kept_at, $2)
		WHERE  revision_key_id = $1`, id, now)
	return err
}

// RewrapRevisionKey replaces the wrapped form of a key if it is still the old
// one. It reports whether it was.
func (db *DB) RewrapRevisionKey(ctx context.Context, id int, old, rewrapped []byte) (done bool, err error) {
	defer errs.Wrap(&err, "RewrapRevisionKey(%d)", id)
	n, err := database.Exec(ctx, db, `
		UPDATE revision_key
		SET    wrapped = $3
		WHERE  revision_key_id = $1 AND wrapped = $2`, id, old, rewrapped)
	return n == 1, err
}

// DestroyRevisionKeys deletes those of the keys that nobody keeps since, and
// tells how many it were. The key that was added last is never among them.
func (db *DB) DestroyRevisionKeys(ctx context.Context, ids []int, since time.Time) (_ int, err error) {
	defer errs.Wrap(&err, "DestroyRevisionKeys(%d keys)", len(ids))
	n, err := database.Exec(ctx, db, `
		DELETE FROM revision_key k
		WHERE  revision_key_id = ANY ($1)
		AND    coalesce(kept_at, created_at) < $2
		AND    EXISTS (SELECT FROM revision_key later WHERE later.revision_key_id > k.revision_key_id)`, ids, since)
	return int(n), err
}

// Clock is the time of the database server, for those who doubt their own.
func (db *DB) Clock(ctx context.Context) (_ time.Time, err error) {
	defer errs.Wrap(&err, "Clock")
	at, _, err := database.One[time.Time](ctx, db, `SELECT clock_timestamp()`)
	return at, err
}
