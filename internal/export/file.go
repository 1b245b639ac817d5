package export

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/store"
)

// madeFile is a file that is in its bucket. The zero value is a part without
// keys, which makes no file.
type madeFile struct {
	store.File
	adopted bool
}

// makeFile streams one part of a batch from the database into its bucket, by
// way of a spool on the disk: what is uploaded has been read again as a phone
// would, from the first byte to the last. It needs little memory however many
// keys there are.
func (w *Worker) makeFile(ctx context.Context, j fileJob) (_ madeFile, err error) {
	defer errs.Wrap(&err, "file %d of %d", j.number, len(j.batch.Parts))
	spool, err := newSpool()
	if err != nil {
		return madeFile{}, err
	}
	defer spool.Close()
	summary, err := w.write(ctx, spool, j)
	if err != nil || summary.Keys+summary.Revised == 0 {
		return madeFile{}, err
	}
	file, err := w.inspect(spool, j, summary)
	if err != nil {
		return madeFile{}, err
	}
	return w.deliver(ctx, spool, file, j, summary)
}

// write fills the spool.
func (w *Worker) write(ctx context.Context, spool io.Writer, j fileJob) (exportfile.Summary, error) {
	buffered := bufio.NewWriterSize(spool, 1<<16)
	meta := exportfile.Meta{Start: j.batch.Start, End: j.batch.EndOf(j.number), Region: j.batch.Region}
	summary, err := exportfile.Write(ctx, buffered, meta, j.signers,
		w.store.BatchKeys(ctx, j.batch, j.number), w.store.BatchRevisions(ctx, j.batch, j.number))
	if err != nil {
		return summary, err
	}
	return summary, buffered.Flush()
}

// inspect holds the spool against the rules of phones: a file that breaks one
// would keep every phone from all later files. It must also be what was meant
// to be written.
func (w *Worker) inspect(spool *os.File, j fileJob, want exportfile.Summary) (store.File, error) {
	file, got, err := w.examine(spool, j)
	if err != nil {
		return store.File{}, fmt.Errorf("phones would refuse the file: %w", err)
	}
	if got.BinSHA256 != want.BinSHA256 || got.Keys != want.Keys || got.Revised != want.Revised {
		return store.File{}, fmt.Errorf("the spool holds %d keys and %d revised ones, and not the %d and %d that were written: is the disk of TMPDIR full or broken?",
			got.Keys, got.Revised, want.Keys, want.Revised)
	}
	return file, nil
}

// examine checks a file with our own public keys and describes it.
func (w *Worker) examine(spool *os.File, j fileJob) (store.File, exportfile.Contents, error) {
	size, sum, err := measure(spool)
	if err != nil {
		return store.File{}, exportfile.Contents{}, err
	}
	trusted, err := publicKeys(j.signers)
	if err != nil {
		return store.File{}, exportfile.Contents{}, err
	}
	contents, err := exportfile.Check(spool, size, trusted, w.releasedBy())
	return store.File{
		Number:  j.number,
		Object:  exportfile.ObjectName(j.batch.Root, j.batch.Start, j.batch.EndOf(j.number), j.number),
		Size:    size,
		SHA256:  sum,
		Keys:    contents.Keys,
		Revised: contents.Revised,
	}, contents, err
}

// releasedBy is the time against which the embargo of keys is checked. Without
// an embargo a key may end up to a day, and phones' tolerance, later than now.
func (w *Worker) releasedBy() time.Time {
	if w.settings.ReleaseSameDay {
		return w.now().Add(48 * time.Hour)
	}
	return w.now()
}

// deliver brings the spool into the bucket, or adopts the object that is there.
func (w *Worker) deliver(ctx context.Context, spool *os.File, file store.File, j fileJob, summary exportfile.Summary) (madeFile, error) {
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return madeFile{}, err
	}
	err := j.bucket.Create(ctx, file.Object, blob.Object{
		ContentType:  exportfile.ContentTypeZip,
		CacheControl: exportfile.CacheFile,
		Size:         file.Size,
		Body:         spool,
	})
	if errs.KindOf(err) != errs.KindConflict {
		return madeFile{File: file}, err
	}
	there, err := w.adopt(ctx, file, j, summary)
	return madeFile{File: there, adopted: err == nil}, err
}

// adopt describes the object that has our name, if it is what an earlier run of
// this very batch wrote: equal to the last byte of export.bin, and good for
// phones. Only the signatures may differ, since ECDSA makes new ones each time;
// hence size and hash are those of the object. Anything else stays untouched.
func (w *Worker) adopt(ctx context.Context, ours store.File, j fileJob, summary exportfile.Summary) (store.File, error) {
	spool, err := newSpool()
	if err != nil {
		return store.File{}, err
	}
	defer spool.Close()
	if err := fetch(ctx, spool, j.bucket, ours.Object, 2*ours.Size+1<<20); err != nil {
		return store.File{}, err
	}
	there, contents, err := w.examine(spool, j)
	if err == nil && contents.BinSHA256 != summary.BinSHA256 {
		err = errors.New("its header or its keys differ")
	}
	if err != nil {
		return store.File{}, errs.From(err, errs.KindConflict, "foreign_object",
			"bucket %s holds an object %s that this batch did not write; it was left as it is, and no index of ours lists it: find out who writes there, and move it away", j.batch.Bucket, ours.Object)
	}
	return there, nil
}

// fetch copies an object, or as much of it as proves that it is not ours.
func fetch(ctx context.Context, into io.Writer, bucket blob.Bucket, name string, limit int64) error {
	body, _, err := bucket.Open(ctx, name)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(into, io.LimitReader(body, limit))
	return err
}

// newSpool makes a file in TMPDIR that has no name any more: it is gone when it
// is closed, however this process ends.
func newSpool() (*os.File, error) {
	f, err := os.CreateTemp("", "export-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// measure reads a spool from its beginning for its size and hash.
func measure(spool *os.File) (size int64, sum []byte, err error) {
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return 0, nil, err
	}
	hash := sha256.New()
	size, err = io.Copy(hash, spool)
	return size, hash.Sum(nil), err
}

// publicKeys gives what phones know of our signers.
func publicKeys(signers []exportfile.Signer) ([]exportfile.PublicKey, error) {
	var public []exportfile.PublicKey
	for _, s := range signers {
		key, ok := s.Key.Public().(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("signing key %s-%s is not an ECDSA key", s.ID, s.Version)
		}
		public = append(public, exportfile.PublicKey{ID: s.ID, Version: s.Version, Key: key})
	}
	return public, nil
}
