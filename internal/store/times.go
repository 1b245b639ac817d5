package store

import (
	"time"

	"github.com/jackc/pgtype"
)

// Without a bound in the configuration, the database holds infinity; in Go the
// ends of time are these.
var (
	beginning = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	never     = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
)

// pgtime reads a timestamptz that may be infinite, or NULL: the zero time.
type pgtime struct{ time.Time }

// DecodeBinary implements pgtype.BinaryDecoder.
func (t *pgtime) DecodeBinary(ci *pgtype.ConnInfo, src []byte) error {
	var v pgtype.Timestamptz
	if err := v.DecodeBinary(ci, src); err != nil {
		return err
	}
	if v.Status != pgtype.Present {
		t.Time = time.Time{}
		return nil
	}
	switch v.InfinityModifier {
	case pgtype.Infinity:
		t.Time = never
	case pgtype.NegativeInfinity:
		t.Time = beginning
	default:
		t.Time = v.Time.UTC()
	}
	return nil
}
