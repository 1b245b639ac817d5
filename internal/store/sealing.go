package store

import (
	"context"
	"time"
)

// SealOptions are the batcher's settings as sealing sees them.
type SealOptions struct {
	Period     time.Duration // between epochs, when no export asks for one earlier
	MinUploads int           // the smallest crowd worth an epoch
	MaxWait    time.Duration // after which a smaller crowd will do
	Always     bool          // development: seal, and cut every export, on each call
	Retention  time.Duration // how long after its end a key day's partition is kept

	MinRecords   int // of a cell of exports that a real key reaches
	PaddingRange int // random addition, 0..PaddingRange
	MaxRecords   int // of a file, where the export names no other number
	MinRevised   int // of revisions, where there is one
}

// Sealed tells what Seal did.
type Sealed struct {
	Busy      bool `json:"busy"`   // another instance seals
	Epochs    int  `json:"epochs"` // 0 or 1
	Keys      int  `json:"keys"`
	Revisions int  `json:"revisions"`
	Padding   int  `json:"padding"`
	Discarded int  `json:"discarded"` // no partition any more, or known under another start
	Waiting   int  `json:"waiting"`   // due, but too small a crowd
	Batches   int  `json:"batches"`
	Cells     int  `json:"cells"` // cells that were padded
}

// Seal moves every arrival whose embargo has ended into a new epoch, pads it
// and cuts the batches that are due, in one transaction.
func (db *DB) Seal(ctx context.Context, now time.Time, o SealOptions) (Sealed, error) {
	panic("unwritten")
}

// EnsurePartitions makes the partitions of all key days that can still arrive.
func (db *DB) EnsurePartitions(ctx context.Context, now time.Time, retention time.Duration) (made int, err error) {
	panic("unwritten")
}
