package store

import (
	"context"
	"time"
)

// RevisionKey is a key that encrypts revision tokens, wrapped.
type RevisionKey struct {
	RevisionKeyID int
	Wrapped       []byte
	CreatedAt     time.Time
}

// RevisionKeys gives all of them, newest first.
func (db *DB) RevisionKeys(ctx context.Context) ([]RevisionKey, error) { panic("unwritten") }

// AddRevisionKey stores a key unless there is one made at or after notSince
// (many instances may start at once; one wins). It reports whether it did.
func (db *DB) AddRevisionKey(ctx context.Context, wrapped []byte, notSince, now time.Time) (bool, error) {
	panic("unwritten")
}
