// Package listing writes the indexes of exports, by which phones and mirrors
// find the files.
package listing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

// Buckets opens the bucket with a URL, the same one each time.
type Buckets interface {
	Bucket(ctx context.Context, url string) (blob.Bucket, error)
}

// Deps is what a publisher needs.
type Deps struct {
	Store   *store.DB
	Buckets Buckets
	Keys    *keys.Ring
	Now     func() time.Time
}

// Publisher keeps the indexes in the buckets as the database says they should
// be. It has no state: any number may run at once.
type Publisher struct {
	store   *store.DB
	buckets Buckets
	keys    *keys.Ring
	now     func() time.Time
}

// New makes a publisher.
func New(d Deps) *Publisher {
	return &Publisher{store: d.Store, buckets: d.Buckets, keys: d.Keys, now: d.Now}
}

// superseded says that the bucket holds a newer index than the one at hand.
// That is no failure: whoever wrote it had read a newer state.
type superseded struct{ by int64 }

func (s superseded) Error() string { return fmt.Sprintf("index number %d is there", s.by) }

// Publish writes every index whose newest form is not known to be in its
// bucket, and returns how many it wrote. One that fails does not stop the rest;
// it stays unwritten, so that the next run tries again.
//
// An index is a projection of the database and its sequence number says of
// which state. A writer that was overtaken loses at the bucket's conditional
// write. A writer that was killed leaves one of these:
//   - nothing written: the next run writes all three objects;
//   - index.json, or that and its signature: the next run finds its own number
//     there, goes on with those very bytes, and writes the rest;
//   - all three, not recorded: the next run finds all three and records them.
//
// Phones read only index.txt, which is last; so whatever it lists has an entry
// in an index.json of the same or a higher number.
func (p *Publisher) Publish(ctx context.Context) (written int, err error) {
	defer errs.Wrap(&err, "listing.Publish")
	indexes, err := p.store.UnwrittenIndexes(ctx, p.now())
	if err != nil {
		return 0, err
	}
	var failures []error
	overtaken := map[int]int64{}
	for _, x := range indexes {
		err := p.write(ctx, x)
		var newer superseded
		switch {
		case err == nil:
			written++
		case errors.As(err, &newer):
			overtaken[x.ExportID] = newer.by
		default:
			failures = append(failures, fmt.Errorf("index of export %s: %w", x.Export, err))
		}
	}
	if len(overtaken) > 0 {
		failures = append(failures, p.checkOvertaken(ctx, overtaken))
	}
	return written, errors.Join(failures...)
}

// write brings one index into its bucket and records that it is there.
func (p *Publisher) write(ctx context.Context, x store.Index) error {
	signers, err := Signers(ctx, p.keys, x.SigningKeys)
	if err != nil {
		return err
	}
	bucket, err := p.buckets.Bucket(ctx, x.Bucket)
	if err != nil {
		return err
	}
	missing, err := leaveOutMissing(ctx, bucket, &x)
	if err != nil {
		return err
	}
	if err := p.writeObjects(ctx, bucket, x, signers); err != nil {
		return err
	}
	if err := p.store.IndexWritten(ctx, x.ExportID, x.Sequence, p.now()); err != nil {
		return err
	}
	return missing
}

func (p *Publisher) writeObjects(ctx context.Context, bucket blob.Bucket, x store.Index, signers []exportfile.Signer) error {
	document, err := p.writeJSON(ctx, bucket, x)
	if err != nil {
		return err
	}
	signature, err := exportfile.SignIndex(document, signers)
	if err != nil {
		return err
	}
	if err := replace(ctx, bucket, exportfile.IndexSignature(x.Root), x.Sequence, exportfile.ContentTypeJOSE, signature); err != nil {
		return err
	}
	return replace(ctx, bucket, exportfile.IndexText(x.Root), x.Sequence, exportfile.ContentTypeText, project(x, p.now()).Text())
}

// writeJSON writes index.json and returns the bytes that are in the bucket:
// those of an earlier run, if that had come so far under the same number. They
// differ from ours in the time, and the signature must be over what is there.
func (p *Publisher) writeJSON(ctx context.Context, bucket blob.Bucket, x store.Index) ([]byte, error) {
	ours := project(x, p.now())
	document, err := ours.JSON()
	if err != nil {
		return nil, err
	}
	name := exportfile.IndexJSON(x.Root)
	err = bucket.Replace(ctx, name, x.Sequence, object(exportfile.ContentTypeJSON, document))
	if errs.KindOf(err) != errs.KindConflict {
		return document, err
	}
	there, held, err := read(ctx, bucket, name)
	if err != nil {
		return nil, err
	}
	if held > x.Sequence {
		return nil, superseded{by: held}
	}
	return there, sameFiles(there, ours)
}

// sameFiles refuses an index.json that has our number but not our content: it
// would get our signature.
func sameFiles(there []byte, ours exportfile.Index) error {
	stored, err := exportfile.ParseIndexJSON(there)
	if err != nil {
		return err
	}
	ours.Time = stored.Time
	document, err := ours.JSON()
	if err != nil {
		return err
	}
	if !bytes.Equal(document, there) {
		return fmt.Errorf("the index.json in the bucket has number %d too but lists other files: give the index a new number", ours.Sequence)
	}
	return nil
}

// replace writes an object unless the bucket has it under this number already.
func replace(ctx context.Context, bucket blob.Bucket, name string, sequence int64, contentType string, body []byte) error {
	err := bucket.Replace(ctx, name, sequence, object(contentType, body))
	if errs.KindOf(err) != errs.KindConflict {
		return err
	}
	_, held, err := read(ctx, bucket, name)
	if err == nil && held > sequence {
		return superseded{by: held}
	}
	return err
}

// checkOvertaken tells a writer that was overtaken from a database that fell
// behind its bucket: whoever wrote a newer index had read it in the database,
// so that it must be known there by now.
func (p *Publisher) checkOvertaken(ctx context.Context, overtaken map[int]int64) error {
	indexes, err := p.store.UnwrittenIndexes(ctx, p.now())
	if err != nil {
		return err
	}
	var behind []error
	for _, x := range indexes {
		if held := overtaken[x.ExportID]; held > x.Sequence {
			behind = append(behind, fmt.Errorf("the bucket holds index number %d of export %s and the database knows only %d: was the database restored, or does another server write there? see \"After a restore\" in docs/operators.md", held, x.Export, x.Sequence))
		}
	}
	return errors.Join(behind...)
}
