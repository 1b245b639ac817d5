package exportfile

import (
	"io"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// ForeignKey is a key of a file that another server made.
type ForeignKey struct {
	exposure.Exposure
	Revised bool
	Broken  string // the rule that it breaks, so that it says nothing more; "": none
}

// ReadForeign streams the keys of a file that another server made for its own
// phones, and whose keys somebody wants to take one by one. Ours are never
// given such a file, so it may break their rules where a key or two do: what
// cannot be decoded is told as broken, and the rest goes on. What somebody added
// to the messages since is skipped. Zip, header, times and the framing of the
// message must be as they should be.
//
// It believes the file: Verify tells whether to. With Verify it holds a buffer
// and no more.
func ReadForeign(r io.ReaderAt, size int64, visit func(ForeignKey) error) (c Contents, err error) {
	defer errs.Wrap(&err, "exportfile.ReadForeign(%d bytes)", size)

	bin, _, err := openZip(r, size)
	if err != nil {
		return Contents{}, err
	}
	x, err := decode(bin.open(r), leniently(visit))
	if err != nil {
		return Contents{}, err
	}
	if err := checkTimes(x.start, x.end); err != nil {
		return Contents{}, err
	}
	return x.contents(), nil
}

// leniently reads as the makers of protobuf meant it.
func leniently(visit func(ForeignKey) error) reading {
	return reading{unknown: skipUnknown, key: func(raw []byte, l list, _ int) error {
		e, err := decodeForeign(raw)
		if err != nil {
			return visit(ForeignKey{Revised: l == revisedKeys, Broken: errs.CodeOf(err)})
		}
		return visit(ForeignKey{Exposure: e, Revised: l == revisedKeys})
	}}
}

func skipUnknown(field, string) error { return nil }

// decodeForeign is decodeExposure, but for fields that we do not keep.
func decodeForeign(b []byte) (e exposure.Exposure, err error) {
	e.Period = exposure.IntervalsPerDay
	hasKey := false
	err = eachField(b, 0, func(f field) error {
		switch f.number {
		case fieldKeyData:
			hasKey = true
		case fieldRisk, fieldRolling, fieldPeriod, fieldReport, fieldOnset:
		default:
			return nil
		}
		return setExposure(&e, f)
	})
	if err == nil && !hasKey {
		err = errs.Invalid(ruleKeyLength, "a key has no key data, and must have %d bytes", exposure.KeySize)
	}
	return e, err
}
