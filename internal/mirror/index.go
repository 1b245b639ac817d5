package mirror

import (
	"bytes"
	"context"
	"io"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/store"
)

// list writes our index where it is not what it should be, and notes which files
// it does not list any more. What it should list and cannot is told as missing.
func (w *work) list(ctx context.Context) (missing, err error) {
	there, err := w.objects(ctx)
	if err != nil {
		return nil, err
	}
	files, err := w.store.MirrorFiles(ctx, w.mirror.ID)
	if err != nil {
		return nil, err
	}
	stored, sequence, err := w.stored(ctx)
	if err != nil {
		return nil, err
	}
	if text, _ := project(files, there); !bytes.Equal(stored, text) {
		if files, err = w.write(ctx, there, sequence); err != nil {
			return nil, err
		}
		w.done.Indexes++
	}
	if _, lost := project(files, there); lost > 0 {
		missing = errs.New(errs.Internal, "mirror_missing",
			"%d files are no longer in bucket %s and were left out of the index: look for a lifecycle rule or a person that deleted them", lost, w.mirror.Bucket)
	}
	return missing, w.noteDelisted(ctx, files)
}

// objects are the names of what is in the bucket under our root.
func (w *work) objects(ctx context.Context) (map[string]bool, error) {
	there := map[string]bool{}
	for entry, err := range w.bucket.List(ctx, w.mirror.Root+"/") {
		if err != nil {
			return nil, err
		}
		there[entry.Name] = true
	}
	return there, nil
}

// project makes the text of our index: the files in order, up to the first that
// is not copied. Those that are lost from the bucket are left out, for one
// download that fails keeps a phone from all files.
func project(files []store.MirrorFile, there map[string]bool) (text []byte, lost int) {
	var index exportfile.Index
	for _, f := range files {
		if f.Dropped {
			continue
		}
		if !f.Copied {
			break
		}
		if !there[f.Object] {
			lost++
			continue
		}
		index.Files = append(index.Files, exportfile.IndexEntry{Name: f.Object})
	}
	return index.Text(), lost
}

// maxIndex bounds what is read of our own index.
const maxIndex = 16 << 20

// stored is the index that is in the bucket; none is like an empty one.
func (w *work) stored(ctx context.Context) (text []byte, sequence int64, err error) {
	name := exportfile.IndexText(w.mirror.Root)
	defer errs.Wrap(&err, "read(%s)", name)
	body, info, err := w.bucket.Open(ctx, name)
	if errs.KindOf(err) == errs.KindNotFound {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	text, err = io.ReadAll(io.LimitReader(body, maxIndex))
	return text, info.Sequence, err
}

// write writes our index. Its number is given together with the state that it
// shows, so that a writer that was overtaken loses at the bucket's conditional
// write, and the next run begins anew. Numbers are seconds where they can be: a
// database that was restored is not behind its bucket.
func (w *work) write(ctx context.Context, there map[string]bool, stored int64) ([]store.MirrorFile, error) {
	sequence, files, err := w.store.NumberMirrorIndex(ctx, w.mirror.ID, max(stored+1, w.now().Unix()))
	if err != nil {
		return nil, err
	}
	text, _ := project(files, there)
	return files, w.bucket.Replace(ctx, exportfile.IndexText(w.mirror.Root), sequence, blob.Object{
		ContentType:  exportfile.ContentTypeText,
		CacheControl: exportfile.CacheIndex,
		Size:         int64(len(text)),
		Body:         bytes.NewReader(text),
	})
}

// noteDelisted notes, once the bucket has an index without them, which files
// were dropped. When it is noted late, they stay for longer.
func (w *work) noteDelisted(ctx context.Context, files []store.MirrorFile) error {
	var delisted []string
	for _, f := range files {
		if f.Dropped && f.Delisted.IsZero() {
			delisted = append(delisted, f.File)
		}
	}
	if len(delisted) == 0 {
		return nil
	}
	return w.store.MirrorFilesDelisted(ctx, w.mirror.ID, delisted, w.now())
}

// sweep deletes the objects of files that no cached index can list any more. An
// object goes before its record: left behind, it is deleted again.
func (w *work) sweep(ctx context.Context) error {
	files, err := w.store.MirrorFiles(ctx, w.mirror.ID)
	if err != nil {
		return err
	}
	before := w.now().Add(-w.settings.Grace)
	for _, f := range files {
		if f.Delisted.IsZero() || !f.Delisted.Before(before) {
			continue
		}
		if err := w.bucket.Delete(ctx, f.Object); err != nil {
			return err
		}
		if err := w.store.MirrorFileDeleted(ctx, w.mirror.ID, f.File, w.now()); err != nil {
			return err
		}
		w.done.Deleted++
	}
	return nil
}
