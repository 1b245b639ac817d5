package store

import (
	"context"
	"time"
)

// DropPartitions forgets the key days that ended before the given time and that
// no unfinished batch needs. It finishes what a killed run left. It returns how
// many days were forgotten.
func (db *DB) DropPartitions(ctx context.Context, endedBefore time.Time) (int, error) {
	panic("unwritten")
}

// ForgetUploads deletes receipts that have expired and upload days that ended
// before the given time, in bounded steps.
func (db *DB) ForgetUploads(ctx context.Context, now, endedBefore time.Time) (receipts, days int64, err error) {
	panic("unwritten")
}

// DelistFiles takes the files made before the given time out of their indexes,
// and gives those indexes new sequence numbers. It returns how many files.
func (db *DB) DelistFiles(ctx context.Context, madeBefore time.Time) (int64, error) {
	panic("unwritten")
}

// DeadFile is an object that no cached index can list any more.
type DeadFile struct {
	ID     int64
	Bucket string
	Object string
}

// DeadFiles gives files whose index without them was written before the given
// time, oldest first, at most limit.
func (db *DB) DeadFiles(ctx context.Context, delistedBefore time.Time, limit int) ([]DeadFile, error) {
	panic("unwritten")
}

// FileDeleted records that a dead file's object is gone from its bucket.
func (db *DB) FileDeleted(ctx context.Context, id int64, now time.Time) error { panic("unwritten") }
