package exportfile

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Read streams the decoded keys of a file to visit, checked or not: it refuses
// what cannot be decoded, and believes the rest. An error of visit ends it and
// is returned.
func Read(r io.ReaderAt, size int64, visit func(e exposure.Exposure, revised bool) error) (c Contents, err error) {
	defer errs.Wrap(&err, "exportfile.Read(%d bytes)", size)

	bin, _, err := openZip(r, size)
	if err != nil {
		return Contents{}, err
	}
	x, err := decode(bin.open(r), strictly(func(e exposure.Exposure, l list) error {
		return visit(e, l == revisedKeys)
	}))
	if err != nil {
		return Contents{}, err
	}
	return x.contents(), nil
}

// export is a TemporaryExposureKeyExport without its keys.
type export struct {
	start, end    int64
	region        string
	number, size  int32
	infos         []signatureInfo
	keys, revised int
	sum           [32]byte // of export.bin
}

func (x export) contents() Contents {
	return Contents{
		Meta:       Meta{Start: time.Unix(x.start, 0).UTC(), End: time.Unix(x.end, 0).UTC(), Region: x.region},
		Keys:       x.keys,
		Revised:    x.revised,
		BinSHA256:  x.sum,
		Signatures: x.names(),
	}
}

func (x export) names() (names []KeyName) {
	for _, info := range x.infos {
		names = append(names, info.KeyName)
	}
	return names
}

// visitor is given each key with its list.
type visitor func(e exposure.Exposure, l list) error

// reading is what a reader makes of the parts of export.bin that readers may
// take differently.
type reading struct {
	key     func(raw []byte, l list, place int) error
	unknown skipper
}

// strictly reads as phones do: what they might take differently is refused.
func strictly(visit visitor) reading {
	return reading{unknown: field.unknown, key: func(raw []byte, l list, place int) error {
		e, err := decodeExposure(raw)
		if err == nil {
			err = visit(e, l)
		}
		if err != nil { // else the words below would cost an allocation a key
			return fmt.Errorf("%s[%d]: %w", l, place, err)
		}
		return nil
	}}
}

// decode reads export.bin field by field, in whatever order they come.
func decode(bin io.Reader, how reading) (x export, err error) {
	s := &scanner{src: bin, sum: sha256.New()}
	if err := s.header(); err != nil {
		return export{}, err
	}
	var seen fieldSet
	for {
		f, ok, err := s.next()
		if err != nil {
			return export{}, err
		}
		if !ok {
			s.sum.Sum(x.sum[:0])
			return x, nil
		}
		if f.number < fieldSignatureInfos && seen.twice(f.number) {
			return export{}, errs.Invalid(ruleMessage, "field %d of the export stands twice", f.number)
		}
		if err := x.set(f, how); err != nil {
			return export{}, err
		}
	}
}

func (x *export) set(f field, how reading) (err error) {
	switch f.number {
	case fieldKeys:
		err = visitKey(f, primaryKeys, x.keys, how)
		x.keys++
	case fieldRevisedKeys:
		err = visitKey(f, revisedKeys, x.revised, how)
		x.revised++
	case fieldStart:
		x.start, err = f.seconds()
	case fieldEnd:
		x.end, err = f.seconds()
	case fieldRegion:
		x.region, err = f.text()
	case fieldBatchNum:
		x.number, err = f.int32()
	case fieldBatchSize:
		x.size, err = f.int32()
	case fieldSignatureInfos:
		err = x.addInfo(f, how)
	default:
		err = how.unknown(f, "TemporaryExposureKeyExport")
	}
	return err
}

func visitKey(f field, l list, place int, how reading) error {
	b, err := f.raw()
	if err != nil {
		return err
	}
	return how.key(b, l, place)
}

func (x *export) addInfo(f field, how reading) error {
	if len(x.infos) == MaxSigners {
		return errs.Invalid(ruleSignatureCount, "the export has more than %d signature infos", MaxSigners)
	}
	info, err := f.signatureInfo(how.unknown)
	x.infos = append(x.infos, info)
	return err
}

// scanner cuts export.bin into fields, and hashes what passes.
type scanner struct {
	src   io.Reader
	sum   hash.Hash
	room  [2 * bufferSize]byte // the longest field that is read
	buf   []byte               // the part of room that waits to be cut
	ended bool
}

func (s *scanner) header() error {
	for len(s.buf) < len(header) && !s.ended {
		if err := s.fill(); err != nil {
			return err
		}
	}
	if len(s.buf) < len(header) || string(s.buf[:len(header)]) != header {
		return errs.Invalid(ruleHeader, "%s must begin with %q", binName, header)
	}
	s.buf = s.buf[len(header):]
	return nil
}

// next gives the next field, whose bytes are good until the call after. It
// reports false at the end.
func (s *scanner) next() (f field, ok bool, err error) {
	for {
		f, n := nextField(s.buf)
		if n > 0 {
			s.buf = s.buf[n:]
			return f, true, nil
		}
		if s.ended && len(s.buf) == 0 {
			return field{}, false, nil
		}
		if n == malformed || s.ended || len(s.buf) == len(s.room) {
			return field{}, false, errs.Invalid(ruleMessage, "%s ends within a field, or holds what is none", binName)
		}
		if err := s.fill(); err != nil {
			return field{}, false, err
		}
	}
}

// fill moves what waits to the front of the room and reads on behind it.
func (s *scanner) fill() error {
	kept := copy(s.room[:], s.buf)
	n, err := s.src.Read(s.room[kept:])
	s.buf = s.room[:kept+n]
	s.sum.Write(s.buf[kept:]) // never fails
	if err == io.EOF {
		s.ended = true
		return nil
	}
	return err
}

// seconds reads a timestamp. What does not fit int64 is as wrong as what is
// negative.
func (f field) seconds() (int64, error) {
	if f.kind != protowire.Fixed64Type {
		return 0, f.wrongKind()
	}
	return int64(f.bits), nil
}
