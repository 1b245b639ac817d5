package blob

import (
	"os"
	"time"
)

// StillMeans tells whether a name still means an open file.
func (f *Folder) StillMeans(name string, file *os.File) (bool, error) {
	_, ok, err := f.attributes(name, file)
	return ok, err
}

// Impatient makes a bucket of a cloud give up soon, and list a few objects at a
// time. Its attempts stay as many.
func Impatient(b Bucket, answer time.Duration) Bucket {
	c := b.(*Cloud)
	c.page = 3
	c.patience = patience{answer: answer, rate: usual.rate, tries: Tries, wait: time.Millisecond}
	return b
}

// Tries is how often a cloud is asked.
const Tries = 6
