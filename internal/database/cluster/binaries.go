package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// ErrMissing says that this machine has no PostgreSQL, and what brings it.
var ErrMissing = errors.New("no PostgreSQL on this machine: run scripts/postgres, which installs it")

// Binaries finds the folder of PostgreSQL's programs: POSTGRES_BIN, then
// Debian's newest version, then PATH, then what scripts/postgres unpacked.
func Binaries() (string, error) {
	if dir := os.Getenv("POSTGRES_BIN"); dir != "" {
		if !complete(dir) {
			return "", fmt.Errorf("POSTGRES_BIN (%s) must be a folder with initdb, pg_ctl and postgres", dir)
		}
		return dir, nil
	}
	for _, dir := range candidates() {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", ErrMissing
}

func candidates() []string {
	dirs := newestFirst("/usr/lib/postgresql/*/bin")
	if initdb, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(initdb))
	}
	// A server that root starts runs as another user, who cannot look into
	// root's home: scripts/postgres puts root's copy under /var/cache.
	if os.Geteuid() == 0 {
		return append(dirs, "/var/cache/enkeyserver/postgres/bin")
	}
	if cache, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(cache, "enkeyserver", "postgres", "bin"))
	}
	return dirs
}

// newestFirst sorts /usr/lib/postgresql/9.6/bin behind /usr/lib/postgresql/15/bin.
func newestFirst(pattern string) []string {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return nil // only a broken pattern fails
	}
	version := func(dir string) float64 {
		v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err != nil {
			return 0
		}
		return v
	}
	slices.SortFunc(dirs, func(a, b string) int {
		switch {
		case version(a) > version(b):
			return -1
		case version(a) < version(b):
			return 1
		}
		return 0
	})
	return dirs
}

func complete(dir string) bool {
	for _, program := range []string{"initdb", "pg_ctl", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			return false
		}
	}
	return true
}
