// Package blob keeps objects in buckets: whole, durable, and never replaced by
// something older.
package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"enkeyserver/internal/errs"
)

// Object is what is to be stored.
type Object struct {
	ContentType  string // application/octet-stream unless it says otherwise
	CacheControl string
	Size         int64         // of Body; a body of another size is refused
	Body         io.ReadSeeker // read from its start, more than once if need be
}

// Info is what is known about a stored object.
type Info struct {
	Name         string
	ContentType  string
	CacheControl string
	Size         int64
	Sequence     int64 // given to Replace; 0 for what Create made
	ModTime      time.Time
}

// Entry is what a list tells about an object: less than Info, since no cloud
// tells more than that of many objects at once.
type Entry struct {
	Name    string
	Size    int64
	ModTime time.Time
}

// Bucket is a flat space of named objects. Any number of processes may use one
// at the same time; whoever reads sees an object whole, with its own
// attributes, or not at all.
//
// A name is a relative path of components separated by single slashes, none of
// which starts with a dot. Other names are errs.Invalid.
type Bucket interface {
	// Create stores an object under a name that is free; a name that is taken
	// is errs.Conflict and stays as it is. When it returns nil the object
	// survives a power cut.
	Create(ctx context.Context, name string, o Object) error

	// Replace stores an object with a sequence number. It is errs.Conflict,
	// and nothing changes, when the stored object's number is not lower.
	Replace(ctx context.Context, name string, sequence int64, o Object) error

	// Open reads an object; the caller closes it. What was opened stays
	// readable to its end, whatever is written meanwhile. errs.NotFound.
	Open(ctx context.Context, name string) (io.ReadCloser, Info, error)

	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error

	// List gives the objects whose names start with the prefix, ordered by the
	// bytes of their names. An error ends it.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Open gives the bucket behind a URL: file:///folder, mem:// for a new and empty
// one in memory, gs://bucket, s3://bucket, or azblob://container. A cloud is asked
// nothing before the bucket is used.
func Open(_ context.Context, bucketURL string) (_ Bucket, err error) {
	defer errs.Wrap(&err, "blob.Open")
	a, err := parse(bucketURL)
	if err != nil {
		return nil, err
	}
	switch a.kind {
	case "mem":
		return NewMemory(), nil
	case "file":
		return NewFolder(filepath.Clean(a.folder)), nil
	case "gs":
		return dialGoogle(a), nil
	case "s3":
		return dialAmazon(a), nil
	default:
		return dialAzure(a), nil
	}
}

// Opener opens each bucket once and hands it out again. Its zero value is ready.
type Opener struct {
	mu   sync.Mutex
	open map[string]Bucket
}

// Bucket gives the bucket behind a URL; the same one for the same URL, those in
// memory included. A failure is not remembered.
func (o *Opener) Bucket(ctx context.Context, bucketURL string) (Bucket, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b, ok := o.open[bucketURL]; ok {
		return b, nil
	}
	b, err := Open(ctx, bucketURL)
	if err != nil {
		return nil, err
	}
	if o.open == nil {
		o.open = map[string]Bucket{}
	}
	o.open[bucketURL] = b
	return b, nil
}

func isName(name string) bool {
	return fs.ValidPath(name) && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.") && !strings.ContainsAny(name, "\\\x00")
}

// CheckName refuses what is not the name of an object in any bucket.
func CheckName(name string) error {
	if !isName(name) {
		return errs.Invalid("object_name", "%q cannot name an object: use a relative path whose parts do not start with a dot", name)
	}
	return nil
}

// errSize is a body that is not as long as its object said.
var errSize = errors.New("the body of the object does not have the size that it was announced with")

// typed gives an object a content type where it has none.
func (o Object) typed() Object {
	if o.ContentType == "" {
		o.ContentType = "application/octet-stream"
	}
	return o
}

func notFound(name string) error {
	return errs.NotFound("no_object", "there is no object %s", name)
}

func taken(name string) error {
	return errs.Conflict("object_exists", "there is an object %s already", name)
}

func stale(name string, sequence, stored int64) error {
	return errs.Conflict("object_newer", "object %s is at sequence %d, not older than %d", name, stored, sequence)
}
