package store

import (
	"context"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// HasReceipt tells whether an upload with this receipt has been stored.
func (db *DB) HasReceipt(ctx context.Context, receipt [32]byte) (_ bool, err error) {
	defer errs.Wrap(&err, "HasReceipt")
	_, ok, err := database.One[int](ctx, db, `
		SELECT 1
		FROM   receipt
		WHERE  hash = $1`, receipt[:])
	return ok, err
}
