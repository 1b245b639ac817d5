//go:build !linux

package secrets

import (
	"errors"
	"os"
)

// writePrivate makes a temporary file that only this user can read. It stays
// when the process has ended: good enough for development, which is all that
// other systems are for.
func writePrivate(content []byte) (path string, err error) {
	f, err := os.CreateTemp("", "secret-") // made with mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	return f.Name(), errors.Join(err, f.Close())
}
