package secrets

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// turns is how often a file that is not there is looked for again: between the
// steps of following a link, what it led to may have been replaced and removed.
const turns = 2

// folder keeps secrets as files: those that Kubernetes and Docker mount.
type folder struct{ dir string }

// read opens a file of the folder, or, by an absolute path, any other. Of the
// folder's own files none leads out of it, whatever its links say. Kubernetes
// replaces all files of a mount at once by turning the link ..data: what was
// opened stays the one or the other.
func (f folder) read(_ context.Context, id identity) ([]byte, error) {
	opened, err := f.open(id.name)
	for range turns {
		if errors.Is(err, fs.ErrNotExist) {
			opened, err = f.open(id.name)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, &failure{verdict: missing, identity: id}
	case errors.Is(err, fs.ErrPermission):
		return nil, &failure{verdict: denied, identity: id}
	case err != nil:
		return nil, unusableFor(id, "cannot be opened: it must be a file, inside SECRETS_DIR unless its path is absolute")
	}
	defer opened.Close()
	if info, err := opened.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, unusableFor(id, "is no regular file")
	}
	return io.ReadAll(io.LimitReader(opened, maxBytes+1))
}

// open does not wait for the other end of a pipe.
func (f folder) open(name string) (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if filepath.IsAbs(name) {
		return os.OpenFile(name, flags, 0)
	}
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(name, flags, 0)
}
