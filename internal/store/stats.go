package store

import (
	"context"
	"time"
)

// UploadDay is the statistics of one UTC day of one authority.
type UploadDay struct {
	Day          time.Time
	Unknown      int64
	Android      int64
	IOS          int64 `db:"ios"`
	Keys         int64
	Revisions    int64
	MissingOnset int64
	KeyAges      []int64 // 17 counts: 0..15 whole days, more
	OnsetAges    []int64 // 31 counts: 0..29 whole days, more
}

// UploadDays gives the statistics of an authority, newest day first, without
// anything of the current hour: folded days and facts not yet folded, added up.
func (db *DB) UploadDays(ctx context.Context, authorityID int, now time.Time) ([]UploadDay, error) {
	panic("unwritten")
}
