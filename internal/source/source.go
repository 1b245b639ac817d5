// Package source reads what another server publishes for its phones: the index,
// the files that it lists, and who has signed them.
package source

import (
	"context"
	"crypto/sha256"
	"io"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

const (
	// maxIndex bounds an index. 4 MiB hold 60 000 names of ordinary length, a
	// hundred times what a country publishes in two weeks.
	maxIndex = 4 << 20

	// maxFile bounds a file: 64 MiB hold more than three million keys.
	maxFile = 64 << 20
)

// Index reads an index, whatever it holds.
func Index(ctx context.Context, c *remote.Client, address string) ([]byte, error) {
	return c.Get(ctx, address, maxIndex)
}

// Address is where the entry of an index is found: below the root, on the
// root's host.
func Address(root, entry string) (_ string, err error) {
	if err := exportfile.CheckEntry(entry); err != nil {
		return "", err
	}
	base, err := url.Parse(root)
	if err != nil {
		return "", errs.Invalid("root", "the root of the files is no URL") // whose text may hold a secret
	}
	full := base.JoinPath(entry)
	if full.Scheme != base.Scheme || full.Host != base.Host || !strings.HasSuffix(full.Path, "/"+entry) {
		return "", errs.Invalid("index", "an entry leads away from the root of the files")
	}
	return full.String(), nil
}

// EndedAt reads, from the usual name of a file, when it ended.
func EndedAt(entry string) (end time.Time, ok bool) {
	_, _, end, _, err := exportfile.ParseObjectName("root/" + path.Base(entry))
	return end, err == nil
}

// File is a file that was downloaded. It is gone when it is closed, however
// this process ends.
type File struct {
	*os.File
	Size   int64
	SHA256 []byte
}

// Download brings the file of an entry to the disk, in TMPDIR. The caller closes
// it.
func Download(ctx context.Context, c *remote.Client, root, entry string) (*File, error) {
	address, err := Address(root, entry)
	if err != nil {
		return nil, err
	}
	return spool(func(w io.Writer) (int64, error) { return c.Download(ctx, address, maxFile, w) })
}

// Spool brings what is read to the disk, as Download does.
func Spool(r io.Reader) (*File, error) {
	return spool(func(w io.Writer) (int64, error) { return io.Copy(w, io.LimitReader(r, maxFile)) })
}

func spool(fill func(io.Writer) (int64, error)) (*File, error) {
	f, err := nameless()
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	n, err := fill(io.MultiWriter(f, hash))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{File: f, Size: n, SHA256: hash.Sum(nil)}, nil
}

// nameless makes a file that has no name any more.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "source-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Trusted gives the keys that may have signed a file with this end. A key whose
// window is over still vouches for the files of its time. Whoever has stolen one
// can date files back to it: take a stolen key out of the configuration.
func Trusted(list []store.TrustedKey, end time.Time) (trusted []exportfile.PublicKey, err error) {
	for _, k := range list {
		if end.Before(k.From) || !k.Thru.IsZero() && !end.Before(k.Thru) {
			continue
		}
		public, err := keys.ParsePublicPEM([]byte(k.PublicKey))
		if err != nil {
			return nil, err
		}
		trusted = append(trusted, exportfile.PublicKey{ID: k.ID, Version: k.Version, Key: public})
	}
	return trusted, nil
}

// farAhead is how wrong the clock of another server may go, and how far ahead
// of its keys it may date a file: they name days by their end.
const farAhead = 48 * time.Hour

// CheckTimes refuses a file that says it is from the future: it would count as
// new for ever.
func CheckTimes(m exportfile.Meta, now time.Time) error {
	if m.End.After(now.Add(farAhead)) {
		return errs.Invalid("times", "the file ends at %s, which is yet to come", m.End.Format(time.RFC3339))
	}
	return nil
}
