package secretstest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Folder is a folder of secrets as Kubernetes mounts it: each name is a link
// into ..data, which is a link to the present state.
type Folder struct {
	dir string

	mu    sync.Mutex
	state map[string]string
	turns int
}

// NewFolder makes an empty one. It ends with the test.
func NewFolder(tb testing.TB) *Folder {
	tb.Helper()
	return &Folder{dir: tb.TempDir(), state: map[string]string{}}
}

// Env is the environment in which programs find the folder.
func (f *Folder) Env() map[string]string { return map[string]string{"SECRETS_DIR": f.dir} }

// Reference refers to a secret.
func (*Folder) Reference(name string) string { return "secret://file/" + name }

// Field refers to a field of a secret.
func (f *Folder) Field(name, field string) string { return f.Reference(name) + "#" + field }

// PutFields gives a secret the value of a JSON object.
func (f *Folder) PutFields(tb testing.TB, name string, fields map[string]string) {
	tb.Helper()
	f.Put(tb, name, object(fields))
}

// Put gives a secret this value, in the way that Kubernetes does: all files are
// written anew, and appear at once.
func (f *Folder) Put(tb testing.TB, name, value string) {
	tb.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[name] = value
	f.turns++
	turn := fmt.Sprintf("..turn%d", f.turns)
	check(tb, os.Mkdir(filepath.Join(f.dir, turn), 0o700))
	for name, value := range f.state {
		check(tb, os.WriteFile(filepath.Join(f.dir, turn, name), []byte(value), 0o600))
	}
	check(tb, os.Symlink(turn, filepath.Join(f.dir, "..data_tmp")))
	check(tb, os.Rename(filepath.Join(f.dir, "..data_tmp"), filepath.Join(f.dir, "..data")))
	check(tb, os.RemoveAll(filepath.Join(f.dir, fmt.Sprintf("..turn%d", f.turns-1))))
	if link := filepath.Join(f.dir, name); !there(link) {
		check(tb, os.Symlink(filepath.Join("..data", name), link))
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
