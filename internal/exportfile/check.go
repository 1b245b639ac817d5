package exportfile

import (
	"io"
	"time"

	"enkeyserver/internal/exposure"
)

// Check reads a file with the rules that phones enforce; an error is
// errs.Invalid with the broken rule as its code.
func Check(r io.ReaderAt, size int64, trusted []PublicKey, now time.Time) (Contents, error) {
	panic("unwritten")
}

// Read streams the decoded keys of a checked or unchecked file to visit.
func Read(r io.ReaderAt, size int64, visit func(e exposure.Exposure, revised bool) error) (Contents, error) {
	panic("unwritten")
}
