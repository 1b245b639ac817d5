package store

import (
	"context"
	"iter"
	"time"

	"enkeyserver/internal/exposure"
)

// Batch is a stretch of epochs of one export, frozen when it was cut.
type Batch struct {
	ID                    int64
	ExportID              int
	Export                string // name
	Bucket, Root, Region  string
	FirstEpoch, LastEpoch int
	Start, End            time.Time // whole seconds
	Filter                Filter
	Parts                 []Part // one a file, at least one
	SigningKeys           []SigningKey
	Fence                 int64 // of the lease
}

// Filter says which keys belong to an export.
type Filter struct {
	InputRegions, ExcludeRegions []string
	Travelers                    Travelers
}

// Travelers is an export's rule for travellers' keys.
type Travelers string

// The rules.
const (
	TravelersInclude   Travelers = "include"    // also travellers' keys of any region
	TravelersOwnRegion Travelers = "own-region" // only with an input region, like everyone
	TravelersExclude   Travelers = "exclude"    // none
)

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
// out, until now+ttl. It reports false when there is no work.
func (db *DB) LeaseBatch(ctx context.Context, now time.Time, ttl time.Duration) (_ Batch, ok bool, err error) {
	panic("unwritten")
}

// ExtendLease moves the end of a lease on. It reports false when somebody else
// has the batch by now.
func (db *DB) ExtendLease(ctx context.Context, b Batch, until time.Time) (ok bool, err error) {
	panic("unwritten")
}

// ReleaseBatch gives an unfinished batch back at once, for others to try.
func (db *DB) ReleaseBatch(ctx context.Context, b Batch) error { panic("unwritten") }

// BatchKeys streams what a file publishes as first seen: each key with its
// outcome, ordered by start, period, report, risk, days since onset and key.
func (db *DB) BatchKeys(ctx context.Context, b Batch, number int) iter.Seq2[exposure.Exposure, error] {
	panic("unwritten")
}

// BatchRevisions streams the revisions that a file publishes, in the same order.
func (db *DB) BatchRevisions(ctx context.Context, b Batch, number int) iter.Seq2[exposure.Exposure, error] {
	panic("unwritten")
}

// CompleteBatch records the files of a batch, ends it and gives its export's
// index a new sequence number. It reports false when the lease was lost:
// somebody else has done it, or will.
func (db *DB) CompleteBatch(ctx context.Context, b Batch, files []File, now time.Time) (ok bool, err error) {
	panic("unwritten")
}

// Index is what the index of an export should be.
type Index struct {
	ExportID     int
	Export       string
	Bucket, Root string
	Sequence     int64
	Files        []IndexedFile // oldest first, all before the first unfinished batch
	SigningKeys  []SigningKey  // valid at now, newest first; at most 10
}

// IndexedFile is one entry of an index.
type IndexedFile struct {
	Object                string
	Size                  int64
	SHA256                []byte
	FirstEpoch, LastEpoch int
}

// UnwrittenIndexes gives every index whose newest form is not known to be in
// its bucket, each read in one snapshot with its sequence number.
func (db *DB) UnwrittenIndexes(ctx context.Context, now time.Time) ([]Index, error) {
	panic("unwritten")
}

// RenumberIndex gives an export's index a new sequence number, so that the next
// run of a worker writes it again.
func (db *DB) RenumberIndex(ctx context.Context, export string) error { panic("unwritten") }

// IndexWritten records that the index with this sequence number is in the
// bucket; files that it no longer lists may go after the longest cache life.
func (db *DB) IndexWritten(ctx context.Context, exportID int, sequence int64, now time.Time) error {
	panic("unwritten")
}
