package mirror

import (
	"bytes"
	"context"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

// patience is for how long the index of a source must lack a file before ours
// drops it: servers serve an empty or an old index now and then.
const patience = 24 * time.Hour

// work is what one run does for one mirror.
type work struct {
	*Service
	mirror store.Mirror
	bucket blob.Bucket
	done   *Mirrored
}

// follow notes what the source lists, and copies what is new.
func (w *work) follow(ctx context.Context) (theirs, err error) {
	index, theirs := w.index(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if theirs != nil {
		return theirs, nil
	}
	w.done.Dropped, err = w.store.SeeMirrorFiles(ctx, w.mirror.ID, index, w.now(), patience)
	if err != nil {
		return nil, err
	}
	return w.copyAll(ctx)
}

// index reads the index of the source. Unlike an import it takes all or
// nothing: phones would read it so.
func (w *work) index(ctx context.Context) ([]string, error) {
	text, err := source.Index(ctx, w.remote, w.mirror.IndexURL)
	if err != nil {
		return nil, err
	}
	return exportfile.ParseIndexText(text)
}

// copyAll copies what is not copied, in order, up to the first file that fails.
func (w *work) copyAll(ctx context.Context) (theirs, err error) {
	rewrite, theirs := exportfile.ParseRewrite(w.mirror.Rewrite)
	if theirs != nil {
		return theirs, nil
	}
	files, err := w.store.MirrorFiles(ctx, w.mirror.ID)
	if err != nil {
		return nil, err
	}
	for i, f := range files {
		if f.Copied || f.Dropped {
			continue
		}
		if w.done.More = w.nearlyUp(ctx); w.done.More {
			return nil, nil
		}
		files[i], theirs, err = w.copy(ctx, f, files, rewrite)
		if theirs != nil || err != nil {
			return theirs, err
		}
		w.done.Copied++
	}
	return nil, nil
}

// copy brings one file into the bucket.
func (w *work) copy(ctx context.Context, f store.MirrorFile, others []store.MirrorFile, rewrite exportfile.Rewrite) (_ store.MirrorFile, theirs, err error) {
	defer errs.Wrap(&err, "file %s", f.File)
	defer errs.Wrap(&theirs, "file %s", f.File)
	spool, theirs := w.download(ctx, f.File)
	if theirs == nil {
		defer spool.Close()
	}
	if ctx.Err() != nil {
		return f, nil, context.Cause(ctx)
	}
	if theirs != nil {
		return f, theirs, nil
	}
	contents, theirs := w.judge(spool, f, others)
	if theirs != nil {
		return f, theirs, nil
	}
	if f, theirs, err = w.name(ctx, f, contents, rewrite); theirs != nil || err != nil {
		return f, theirs, err
	}
	f.Size, f.SHA256, f.Start, f.End, f.Copied = spool.Size, spool.SHA256, contents.Start, contents.End, true
	if f, err = w.create(ctx, spool, f, contents); err != nil {
		return f, nil, err
	}
	return f, nil, w.store.MirrorFileCopied(ctx, w.mirror.ID, f, w.now())
}

// download leaves a part of the run's time for what comes after it, so that a
// server that is too slow for the whole of it is found out, and noted.
func (w *work) download(ctx context.Context, entry string) (*source.File, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-w.settings.Timeout/20))
		defer cancel()
	}
	return source.Download(ctx, w.remote, w.mirror.RootURL, entry)
}

// judge holds a file against the rules of phones. One that breaks any would keep
// them from all that follow it.
func (w *work) judge(spool *source.File, f store.MirrorFile, others []store.MirrorFile) (exportfile.Contents, error) {
	contents, err := w.check(spool)
	if err != nil {
		return contents, err
	}
	if f.SHA256 != nil && !bytes.Equal(f.SHA256, spool.SHA256) {
		return contents, errs.Invalid("mirror_changed", "it was listed before with other bytes, which phones and caches may have under its name")
	}
	for _, o := range others {
		if o.Copied && !o.Dropped && o.Start.Equal(contents.Start) && o.End.Equal(contents.End) {
			return contents, errs.Invalid("mirror_times", "it has the start and the end of %s, by which phones tell files apart", o.File)
		}
	}
	return contents, nil
}

func (w *work) check(spool *source.File) (exportfile.Contents, error) {
	contents, err := exportfile.CheckUnsigned(spool, spool.Size, w.releasedBy())
	if err != nil {
		return contents, err
	}
	if err := source.CheckTimes(contents.Meta, w.now()); err != nil {
		return contents, err
	}
	if len(w.mirror.Keys) == 0 {
		return contents, nil
	}
	trusted, err := source.Trusted(w.mirror.Keys, contents.End)
	if err != nil {
		return contents, err
	}
	return contents, exportfile.Verify(spool, spool.Size, contents.BinSHA256, trusted)
}

// releasedBy is the time against which the embargo of keys is checked. Without
// an embargo a key may end up to a day, and phones' tolerance, later than now.
func (w *work) releasedBy() time.Time {
	if w.settings.ReleaseSameDay {
		return w.now().Add(48 * time.Hour)
	}
	return w.now()
}

// name gives a file its place in our bucket, which it keeps whatever becomes of
// the configuration.
func (w *work) name(ctx context.Context, f store.MirrorFile, contents exportfile.Contents, rewrite exportfile.Rewrite) (_ store.MirrorFile, theirs, err error) {
	if f.Object != "" {
		return f, nil, nil
	}
	name, theirs := rewrite.Name(f.File, contents.Meta)
	if theirs != nil {
		return f, theirs, nil
	}
	object := w.mirror.Root + "/" + name
	if theirs := blob.CheckName(object); theirs != nil {
		return f, theirs, nil
	}
	ok, err := w.store.NameMirrorFile(ctx, w.mirror.ID, f.File, object)
	if err == nil && !ok {
		theirs = errs.Invalid("mirror_name", "its name here would be %s, which another file has or had", object)
	}
	f.Object = object
	return f, theirs, err
}

// create brings a file into the bucket, or adopts the object that is there.
func (w *work) create(ctx context.Context, spool *source.File, f store.MirrorFile, contents exportfile.Contents) (store.MirrorFile, error) {
	err := w.bucket.Create(ctx, f.Object, blob.Object{
		ContentType:  exportfile.ContentTypeZip,
		CacheControl: exportfile.CacheFile,
		Size:         f.Size,
		Body:         spool,
	})
	if errs.KindOf(err) != errs.KindConflict {
		return f, err
	}
	f, err = w.adopt(ctx, f, contents)
	if err == nil {
		w.done.Adopted++
	}
	return f, err
}

// adopt describes the object that has our name, if a killed run brought it there:
// equal in every byte, or, when the source has signed the same content anew
// since, equal to the last byte of export.bin and good for phones.
func (w *work) adopt(ctx context.Context, f store.MirrorFile, contents exportfile.Contents) (store.MirrorFile, error) {
	body, _, err := w.bucket.Open(ctx, f.Object)
	if err != nil {
		return f, err
	}
	defer body.Close()
	there, err := source.Spool(body)
	if err != nil {
		return f, err
	}
	defer there.Close()
	if bytes.Equal(there.SHA256, f.SHA256) {
		return f, nil
	}
	stored, err := w.check(there)
	if err != nil || stored.BinSHA256 != contents.BinSHA256 {
		return f, foreign(w.mirror.Bucket, f.Object, "it has other keys")
	}
	f.Size, f.SHA256 = there.Size, there.SHA256
	return f, nil
}
