package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"enkeyserver/internal/errs"
)

// Folder is a bucket in a folder of a local (or shared POSIX) file system. An
// object is a plain file under its own name, so that any web server can serve
// the folder; a hidden folder beside the objects keeps their attributes.
//
// A writer killed at any instruction leaves the old object or the new one, and
// each with its own attributes, because of the order of its steps:
//
//  1. The data go to a file of their own, which is synced.
//  2. Under the lock of the bucket the record of attributes is replaced by one
//     that knows both the version that is there and the one that comes, told
//     apart by the SHA-256 of their data. It is synced.
//  3. The data take their name, in one link or rename. The folder is synced.
//
// After a kill between 2 and 3 the record knows a version that never came. The
// hash of what is there says which one counts, and the next write drops the
// other.
type Folder struct{ root string }

// hidden is the folder beside the objects; no object can have such a name.
const hidden = ".bucket"

// abandonedAfter is when a half-written file must belong to a killed process:
// whoever writes one touches it all the time.
const abandonedAfter = 24 * time.Hour

// NewFolder is the bucket in a folder, which is made by the first write.
func NewFolder(root string) *Folder { return &Folder{root: root} }

// Create implements Bucket.
func (f *Folder) Create(ctx context.Context, name string, o Object) (err error) {
	defer errs.Wrap(&err, "Create(%s)", name)
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(f.path(name)); err == nil {
		return taken(name) // the common case of a repeat, before anything is copied
	}
	data, err := f.stage(o)
	if err != nil {
		return err
	}
	defer data.discard()

	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(f.path(name)); err == nil {
		return taken(name)
	}
	if err := f.record(name, data.version(o, 0)); err != nil {
		return err
	}
	// A link, not a rename: it fails if somebody who does not know of our
	// lock has made the file meanwhile.
	return f.publish(name, func(path string) error { return os.Link(data.path, path) })
}

// Replace implements Bucket.
func (f *Folder) Replace(ctx context.Context, name string, sequence int64, o Object) (err error) {
	defer errs.Wrap(&err, "Replace(%s, %d)", name, sequence)
	if err := CheckName(name); err != nil {
		return err
	}
	data, err := f.stage(o)
	if err != nil {
		return err
	}
	defer data.discard()

	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := f.current(name)
	if err != nil {
		return err
	}
	if stored != nil && stored.Sequence >= sequence {
		return stale(name, sequence, stored.Sequence)
	}
	versions := []version{data.version(o, sequence)}
	if stored != nil {
		versions = append(versions, *stored)
	}
	if err := f.record(name, versions...); err != nil {
		return err
	}
	return f.publish(name, func(path string) error { return os.Rename(data.path, path) })
}

// Open implements Bucket.
func (f *Folder) Open(_ context.Context, name string) (_ io.ReadCloser, _ Info, err error) {
	defer errs.Wrap(&err, "Open(%s)", name)
	if err := CheckName(name); err != nil {
		return nil, Info{}, err
	}
	file, v, err := f.open(name)
	if err != nil {
		return nil, Info{}, err
	}
	info, err := infoOf(name, file, v)
	if err != nil {
		_ = file.Close() // it was only read
		return nil, Info{}, err
	}
	return file, info, nil
}

// Delete implements Bucket. The data go first: attributes alone are nothing.
func (f *Folder) Delete(ctx context.Context, name string) (err error) {
	defer errs.Wrap(&err, "Delete(%s)", name)
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(f.path(name)); isAbsent(err) {
		return nil // also where the bucket itself is not there yet
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if stored, err := f.current(name); stored == nil || err != nil {
		return err
	}
	path := f.path(name)
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Remove(f.recordPath(name)); err != nil && !isAbsent(err) {
		return err
	}
	return nil
}

// List implements Bucket. An object that goes while the list is read is left
// out.
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		names, err := f.names(prefix)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, name := range names {
			file, err := os.Stat(f.path(name))
			if isAbsent(err) {
				continue
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !file.Mode().IsRegular() {
				continue // somebody's link to a folder
			}
			if !yield(Entry{Name: name, Size: file.Size(), ModTime: file.ModTime().UTC()}, nil) {
				return
			}
		}
	}
}

// names walks no more than the folder part of the prefix. The walk's own order
// is not that of the names: "a.zip" stands before "a/b", but "a" is walked first.
func (f *Folder) names(prefix string) ([]string, error) {
	from := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		from = prefix[:i]
	}
	if from != "." && !isName(from) {
		return nil, nil // no object can have such a name
	}
	var names []string
	err := filepath.WalkDir(f.path(from), func(path string, d fs.DirEntry, err error) error {
		if isAbsent(err) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(f.root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			if name != "." && CheckName(name) != nil {
				return fs.SkipDir
			}
			return nil
		}
		if CheckName(name) == nil && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// open gives the data under a name with the attributes that belong to them.
//
// Readers take no lock, so a writer may pass between the two reads. If the name
// still means the file that was opened, it meant it all the while (an open
// file's identity is not given away), and so did the record that was read.
func (f *Folder) open(name string) (*os.File, version, error) {
	for {
		file, err := os.Open(f.path(name))
		if isAbsent(err) {
			return nil, version{}, notFound(name)
		}
		if err != nil {
			return nil, version{}, err
		}
		v, ok, err := f.attributes(name, file)
		if ok {
			return file, v, nil
		}
		_ = file.Close() // it was only read
		if err != nil {
			return nil, version{}, err
		}
	}
}

// attributes finds the version that an open file is. It reports false when the
// name means another file by now.
func (f *Folder) attributes(name string, file *os.File) (_ version, ok bool, err error) {
	opened, err := file.Stat()
	if err != nil {
		return version{}, false, err
	}
	if !opened.Mode().IsRegular() {
		return version{}, false, notFound(name)
	}
	versions, err := f.versions(name)
	if err != nil {
		return version{}, false, err
	}
	now, err := os.Stat(f.path(name))
	if isAbsent(err) {
		return version{}, false, notFound(name)
	}
	if err != nil || !os.SameFile(opened, now) {
		return version{}, false, err
	}
	v, err := choose(versions, file)
	return v, err == nil, err
}

// current is the version that is stored under a name, or nil.
func (f *Folder) current(name string) (*version, error) {
	file, v, err := f.open(name)
	if errs.KindOf(err) == errs.KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, file.Close()
}

func infoOf(name string, file *os.File, v version) (Info, error) {
	stat, err := file.Stat()
	if err != nil {
		return Info{}, err
	}
	return Info{
		Name: name, ContentType: v.ContentType, CacheControl: v.CacheControl,
		Size: stat.Size(), Sequence: v.Sequence, ModTime: stat.ModTime().UTC(),
	}, nil
}

// publish gives staged data their name, and makes the name durable.
func (f *Folder) publish(name string, place func(path string) error) error {
	path := f.path(name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := place(path)
	if errors.Is(err, fs.ErrExist) {
		return taken(name)
	}
	if err != nil {
		return err
	}
	return f.syncUp(dir)
}

// lock waits until no other writer, of any process, is at work in the bucket.
// The kernel gives it back when its holder is killed.
func (f *Folder) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(f.root, hidden), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(f.root, hidden, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil // closing it gives the lock back
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (f *Folder) path(name string) string { return filepath.Join(f.root, filepath.FromSlash(name)) }

// syncUp syncs a folder and those above it, to the one that the bucket stands in:
// any of them may have been made a moment ago, here or by another process. The
// last one is not ours, and perhaps not ours to read.
func (f *Folder) syncUp(dir string) error {
	for {
		if err := syncDir(dir); err != nil {
			return err
		}
		if dir == f.root {
			if err := syncDir(filepath.Dir(dir)); !errors.Is(err, fs.ErrPermission) {
				return err
			}
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// isAbsent is also true where a part of the path is a file: there cannot be an
// object below it.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
