package secrets

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writePrivate makes a file that exists in memory alone, is open to nobody but
// this user, and is gone with the process, even when that is killed. It needs no
// folder that can be written to, of which containers have none.
func writePrivate(content []byte) (path string, err error) {
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	// The file is never closed: the path goes through its descriptor.
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, content, 0o600)
}
