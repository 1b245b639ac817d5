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
}

// RevisionKeys gives all of them, newest first.
func (db *DB) RevisionKeys(ctx context.Context) (_ []RevisionKey, err error) {
	defer errs.Wrap(&err, "RevisionKeys")
	return database.All[RevisionKey](ctx, db, `
		SELECT   revision_key_id, wrapped, created_at
		FROM     revision_key
		ORDER BY created_at DESC, revision_key_id DESC`)
}

// AddRevisionKey stores a key unless there is one made at or after notSince
// (many instances may start at once; one wins). It reports whether it did.
func (db *DB) AddRevisionKey(ctx context.Context, wrapped []byte, notSince, now time.Time) (added bool, err error) {
	defer errs.Wrap(&err, "AddRevisionKey")
	err = db.InTx(ctx, func(tx database.Tx) error {
		// The lock makes the question and its consequence one step.
		if _, err := tx.Exec(ctx, `LOCK TABLE revision_key IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		n, err := database.Exec(ctx, tx, `
			INSERT INTO revision_key (wrapped, created_at)
			SELECT $1, $3
			WHERE  NOT EXISTS (SELECT FROM revision_key WHERE created_at >= $2)`, wrapped, notSince, now)
		added = n == 1
		return err
	})
	return added, err
}
