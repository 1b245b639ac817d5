package cleanup

import (
	"context"
	"errors"
	"fmt"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// Removed is the answer of Exports.
type Removed struct {
	Delisted int64 `json:"delisted"` // files taken out of their indexes
	Indexes  int   `json:"indexes"`  // written
	Deleted  int   `json:"deleted"`  // objects
	Failed   int   `json:"failed"`   // objects that could not be deleted, see the error
}

// Exports removes old files, in an order that never lets a phone meet an entry
// without its file:
//  1. the database takes the file out of its index;
//  2. the index without it is written, and the time of that recorded;
//  3. once every cached index is that one or newer, after INDEX_CACHE_GRACE,
//     the object is deleted, and then forgotten.
//
// A run that is killed after any step leaves the file listed, or unlisted and
// still there; the next run goes on with it. What fails does not stop the rest.
func (s *Service) Exports(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "cleanup.Exports")
	var r Removed
	var delistErr, listingErr error
	r.Delisted, delistErr = s.store.DelistFiles(ctx, s.now().Add(-s.settings.TTL))
	r.Indexes, listingErr = s.listing.Publish(ctx)
	deleteErr := s.deleteDead(ctx, &r)
	return r, errors.Join(delistErr, listingErr, deleteErr)
}

// step is how many files are looked up at once.
const step = 100

// deleteDead deletes the objects that no index lists, in bounded steps. Those
// that fail keep their place at the front of the queue; asking for that many
// more brings up the ones behind them.
func (s *Service) deleteDead(ctx context.Context, r *Removed) error {
	f := failures{files: map[int64]bool{}, buckets: map[string]error{}}
	defer func() { r.Failed = len(f.files) }()
	for {
		dead, err := s.store.DeadFiles(ctx, s.now().Add(-s.settings.Grace), step+len(f.files))
		if err != nil {
			return errors.Join(f.err(), err)
		}
		tried := 0
		for _, file := range dead {
			if f.files[file.FileID] {
				continue
			}
			tried++
			if err := s.deleteFile(ctx, file); err != nil {
				f.add(file, err)
				continue
			}
			r.Deleted++
		}
		if tried == 0 || ctx.Err() != nil {
			return errors.Join(f.err(), ctx.Err())
		}
	}
}

// deleteFile deletes one object. Killed between its two steps, the next run
// deletes an object that is gone, which is no error.
func (s *Service) deleteFile(ctx context.Context, file store.DeadFile) error {
	bucket, err := s.buckets.Bucket(ctx, file.Bucket)
	if err != nil {
		return err
	}
	if err := bucket.Delete(ctx, file.Object); err != nil {
		return err
	}
	return s.store.FileDeleted(ctx, file.FileID)
}

// failures remembers what failed in this run, with one error a bucket: a
// bucket that is gone fails for each of its files.
type failures struct {
	files   map[int64]bool
	buckets map[string]error
}

func (f *failures) add(file store.DeadFile, err error) {
	f.files[file.FileID] = true
	if f.buckets[file.Bucket] == nil {
		f.buckets[file.Bucket] = fmt.Errorf("bucket %s: %w", file.Bucket, err)
	}
}

func (f *failures) err() error {
	var all []error
	for _, err := range f.buckets {
		all = append(all, err)
	}
	return errors.Join(all...)
}
