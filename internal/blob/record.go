package blob

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// version is what the record of an object says about one state of it.
type version struct {
	Sequence     int64  `json:"sequence"`
	ContentType  string `json:"contentType"`
	CacheControl string `json:"cacheControl"`
	Size         int64  `json:"size"`
	SHA256       []byte `json:"sha256"`
}

// unrecorded is the version of a file that somebody else put into the folder:
// anything may replace it.
var unrecorded = version{ContentType: "application/octet-stream"}

// staged is data on its way into the bucket.
type staged struct {
	path   string
	sha256 []byte
}

func (s staged) version(o Object, sequence int64) version {
	return version{
		Sequence: sequence, ContentType: o.typed().ContentType, CacheControl: o.CacheControl,
		Size: o.Size, SHA256: s.sha256,
	}
}

// discard removes the staged name; after a link or rename the data live on.
func (s staged) discard() { _ = os.Remove(s.path) }

// stage copies an object into a synced file of its own.
func (f *Folder) stage(o Object) (staged, error) {
	hash := sha256.New()
	path, err := f.partial(func(w io.Writer) error { return copyBody(io.MultiWriter(w, hash), o.Body, o.Size) })
	return staged{path: path, sha256: hash.Sum(nil)}, err
}

// partial writes a synced file in the hidden folder; nothing is left of it on an
// error.
func (f *Folder) partial(write func(w io.Writer) error) (path string, err error) {
	dir := filepath.Join(f.root, hidden, "partial")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	sweep(dir)
	file, err := os.CreateTemp(dir, "")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	err = write(file)
	if err == nil {
		err = errors.Join(file.Chmod(0o644), file.Sync()) // web servers run as somebody else
	}
	return file.Name(), errors.Join(err, file.Close())
}

// sweep removes what killed writers left. It is only tidying: it may fail.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// record makes the record of an object say these versions, newest first.
func (f *Folder) record(name string, versions ...version) error {
	text, err := json.Marshal(versions)
	if err != nil {
		return err
	}
	partial, err := f.partial(func(w io.Writer) error { _, err := w.Write(text); return err })
	if err != nil {
		return err
	}
	path := f.recordPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	return f.syncUp(filepath.Dir(path))
}

// versions reads the record of an object; none is no versions.
func (f *Folder) versions(name string) ([]version, error) {
	text, err := os.ReadFile(f.recordPath(name))
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var versions []version
	if err := json.Unmarshal(text, &versions); err != nil {
		return nil, fmt.Errorf("record of attributes: %w", err)
	}
	return versions, nil
}

// recordPath starts the last part with a dot, which no part of a name does: the
// record of "a" cannot be in the way of the folder "a".
func (f *Folder) recordPath(name string) string {
	dir, base := filepath.Split(filepath.FromSlash(name))
	return filepath.Join(f.root, hidden, "attributes", dir, "."+base+".json")
}

// choose tells which version an open file is. Where two have the same data the
// newer counts: its data are all there. A file that is none of them was
// edited by hand; it keeps the newest number, which still guards it. The
// file is read only where there is a choice, and rewound.
func choose(versions []version, file *os.File) (version, error) {
	switch len(versions) {
	case 0:
		return unrecorded, nil
	case 1:
		return versions[0], nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return version{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return version{}, err
	}
	sum := string(hash.Sum(nil))
	for _, v := range versions {
		if string(v.SHA256) == sum {
			return v, nil
		}
	}
	return versions[0], nil
}
