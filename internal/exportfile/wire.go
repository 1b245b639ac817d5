package exportfile

import (
	"errors"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// The numbers of internal/pb/export/export.proto. They are written by hand, so
// that a file passes through field by field; tests compare with the generated
// code.
const (
	fieldStart          = 1 // of TemporaryExposureKeyExport
	fieldEnd            = 2
	fieldRegion         = 3
	fieldBatchNum       = 4
	fieldBatchSize      = 5
	fieldSignatureInfos = 6
	fieldKeys           = 7
	fieldRevisedKeys    = 8

	fieldKeyVersion = 3 // of SignatureInfo
	fieldKeyID      = 4
	fieldAlgorithm  = 5

	fieldKeyData = 1 // of TemporaryExposureKey
	fieldRisk    = 2
	fieldRolling = 3
	fieldPeriod  = 4
	fieldReport  = 5
	fieldOnset   = 6
	fieldVariant = 8

	fieldSignatures = 1 // of TEKSignatureList

	fieldSignatureInfo = 1 // of TEKSignature
	fieldSigBatchNum   = 2
	fieldSigBatchSize  = 3
	fieldSignature     = 4
)

// ecdsaP256SHA256 is the object identifier of the only algorithm.
const ecdsaP256SHA256 = "1.2.840.10045.4.3.2"

// signatureInfo is a SignatureInfo as it stands on the wire.
type signatureInfo struct {
	KeyName
	algorithm string
}

// signature is a TEKSignature as it stands on the wire.
type signature struct {
	info         signatureInfo
	number, size int32
	der          []byte
}

func appendVarint(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

func appendFixed64(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, number, protowire.Fixed64Type), v)
}

func appendBytes[T string | []byte](b []byte, number protowire.Number, v T) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return append(protowire.AppendVarint(b, uint64(len(v))), v...)
}

// appendExposure spells out what equals the default, too: it costs next to
// nothing once packed, and no reader can get it wrong.
func appendExposure(b []byte, e exposure.Exposure) []byte {
	b = appendBytes(b, fieldKeyData, e.Key[:])
	b = appendVarint(b, fieldRisk, uint64(e.Risk))
	b = appendVarint(b, fieldRolling, uint64(e.Start))
	b = appendVarint(b, fieldPeriod, uint64(e.Period))
	b = appendVarint(b, fieldReport, uint64(e.Report))
	if e.HasOnset {
		b = appendVarint(b, fieldOnset, protowire.EncodeZigZag(int64(e.DaysSinceOnset)))
	}
	return b
}

func appendSignatureInfo(b []byte, n KeyName) []byte {
	b = appendBytes(b, fieldKeyVersion, n.Version)
	b = appendBytes(b, fieldKeyID, n.ID)
	return appendBytes(b, fieldAlgorithm, ecdsaP256SHA256)
}

func appendSignature(b []byte, n KeyName, der []byte) []byte {
	b = appendBytes(b, fieldSignatureInfo, appendSignatureInfo(nil, n))
	b = appendVarint(b, fieldSigBatchNum, 1)
	b = appendVarint(b, fieldSigBatchSize, 1)
	return appendBytes(b, fieldSignature, der)
}

// field is one field of a message: bits of a varint or a fixed64, or bytes that
// belong to the buffer.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bits   uint64
	bytes  []byte
}

// What nextField gives in place of a length.
const (
	truncated = -1 // more bytes may complete it
	malformed = -2 // nothing will
)

// nextField reads the field with which b begins, and tells its length.
func nextField(b []byte) (f field, length int) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return field{}, incomplete(n)
	}
	f.number, f.kind = number, kind
	var m int
	switch kind {
	case protowire.VarintType:
		f.bits, m = protowire.ConsumeVarint(b[n:])
	case protowire.Fixed64Type:
		f.bits, m = protowire.ConsumeFixed64(b[n:])
	case protowire.BytesType:
		f.bytes, m = protowire.ConsumeBytes(b[n:])
	default: // groups and fixed32: no field of ours
		return field{}, malformed
	}
	if m < 0 {
		return field{}, incomplete(m)
	}
	return f, n + m
}

// incomplete tells truncated from malformed by an error code of protowire.
func incomplete(code int) int {
	if errors.Is(protowire.ParseError(code), io.ErrUnexpectedEOF) {
		return truncated
	}
	return malformed
}

// eachField calls visit with every field of a message that is whole. A field
// that stands twice where it may stand once is refused: readers differ in which
// one they believe.
func eachField(b []byte, repeated protowire.Number, visit func(field) error) error {
	var seen fieldSet
	for len(b) > 0 {
		f, n := nextField(b)
		if n < 0 {
			return errs.Invalid(ruleMessage, "the message ends within a field, or holds what is none")
		}
		if f.number != repeated && seen.twice(f.number) {
			return errs.Invalid(ruleMessage, "field %d stands twice", f.number)
		}
		if err := visit(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// fieldSet remembers the fields of a message, as far as it can have any.
type fieldSet uint64

// twice tells whether a field was met before. Beyond 64 it forgets: no message
// has such fields, which the decoders say better.
func (s *fieldSet) twice(n protowire.Number) bool {
	bit := fieldSet(1) << uint32(n) // 0 from 64 on
	met := *s&bit != 0
	*s |= bit
	return met
}

// decodeExposure reads a TemporaryExposureKey. It refuses what exposure.Exposure
// cannot say; the rest is for checkExposure. It is the hot loop of Check and
// so does without eachField.
func decodeExposure(b []byte) (e exposure.Exposure, err error) {
	e.Period = exposure.IntervalsPerDay // the default of the field
	var seen fieldSet
	for len(b) > 0 {
		f, n := nextField(b)
		if n < 0 {
			return e, errs.Invalid(ruleMessage, "the key ends within a field, or holds what is none")
		}
		if seen.twice(f.number) {
			return e, errs.Invalid(ruleMessage, "field %d of the key stands twice", f.number)
		}
		if err := setExposure(&e, f); err != nil {
			return e, err
		}
		b = b[n:]
	}
	if seen&(1<<fieldKeyData) == 0 { // left out
		return e, errs.Invalid(ruleKeyLength, "a key has no key data, and must have %d bytes", exposure.KeySize)
	}
	return e, nil
}

func setExposure(e *exposure.Exposure, f field) (err error) {
	switch f.number {
	case fieldKeyData:
		e.Key, err = f.key()
	case fieldRisk:
		e.Risk, err = f.int32()
	case fieldRolling:
		var start int32
		start, err = f.int32()
		e.Start = exposure.Interval(start)
	case fieldPeriod:
		e.Period, err = f.int32()
	case fieldReport:
		e.Report, err = f.report()
	case fieldOnset:
		e.HasOnset = true
		e.DaysSinceOnset, err = f.sint32()
	case fieldVariant:
		err = f.checkVariant()
	default:
		err = f.unknown("TemporaryExposureKey")
	}
	return err
}

func (f field) key() (exposure.Key, error) {
	if f.kind != protowire.BytesType {
		return exposure.Key{}, f.wrongKind()
	}
	if len(f.bytes) != exposure.KeySize {
		return exposure.Key{}, errs.Invalid(ruleKeyLength, "a key has %d bytes, and must have %d", len(f.bytes), exposure.KeySize)
	}
	return exposure.Key(f.bytes), nil
}

// int32 refuses larger varints: most readers would cut them off, and so take
// them for another number.
func (f field) int32() (int32, error) { return f.narrow(int64(f.bits)) }

func (f field) sint32() (int32, error) { return f.narrow(protowire.DecodeZigZag(f.bits)) }

func (f field) narrow(v int64) (int32, error) {
	if f.kind != protowire.VarintType {
		return 0, f.wrongKind()
	}
	if v < math.MinInt32 || v > math.MaxInt32 {
		return 0, errs.Invalid(ruleMessage, "the number in field %d does not fit 32 bits", f.number)
	}
	return int32(v), nil
}

// report looks at the range here, since exposure.Report is narrower than the
// wire and would wrap around.
func (f field) report() (exposure.Report, error) {
	v, err := f.int32()
	if err == nil && (v < int32(exposure.Unknown) || v > int32(exposure.Revoked)) {
		err = errs.Invalid(ruleReport, "the report type is %d, and must be 0..%d", v, int(exposure.Revoked))
	}
	return exposure.Report(v), err
}

func (f field) checkVariant() error {
	v, err := f.int32()
	if err == nil && (v < 0 || v > maxVariant) {
		err = errs.Invalid(ruleVariant, "the variant of concern is %d, and must be 0..%d", v, maxVariant)
	}
	return err
}

func (f field) raw() ([]byte, error) {
	if f.kind != protowire.BytesType {
		return nil, f.wrongKind()
	}
	return f.bytes, nil
}

func (f field) text() (string, error) {
	b, err := f.raw()
	return string(b), err
}

func (f field) wrongKind() error {
	return errs.Invalid(ruleMessage, "field %d has wire type %d, which is not its own", f.number, f.kind)
}

func (f field) unknown(message string) error {
	return errs.Invalid(ruleUnknownField, "%s has no field %d", message, f.number)
}

// skipper says what becomes of a field that a message does not have.
type skipper func(f field, message string) error

func decodeSignatureInfo(b []byte, unknown skipper) (s signatureInfo, err error) {
	err = eachField(b, 0, func(f field) (err error) {
		switch f.number {
		case fieldKeyVersion:
			s.Version, err = f.text()
		case fieldKeyID:
			s.ID, err = f.text()
		case fieldAlgorithm:
			s.algorithm, err = f.text()
		default:
			err = unknown(f, "SignatureInfo")
		}
		return err
	})
	return s, err
}

func decodeSignature(b []byte, unknown skipper) (s signature, err error) {
	err = eachField(b, 0, func(f field) (err error) {
		switch f.number {
		case fieldSignatureInfo:
			s.info, err = f.signatureInfo(unknown)
		case fieldSigBatchNum:
			s.number, err = f.int32()
		case fieldSigBatchSize:
			s.size, err = f.int32()
		case fieldSignature:
			s.der, err = f.raw()
		default:
			err = unknown(f, "TEKSignature")
		}
		return err
	})
	return s, err
}

func (f field) signatureInfo(unknown skipper) (signatureInfo, error) {
	b, err := f.raw()
	if err != nil {
		return signatureInfo{}, err
	}
	return decodeSignatureInfo(b, unknown)
}

// decodeSignatureList stops at the first signature too many.
func decodeSignatureList(b []byte, unknown skipper) (list []signature, err error) {
	err = eachField(b, fieldSignatures, func(f field) error {
		if f.number != fieldSignatures {
			return unknown(f, "TEKSignatureList")
		}
		if len(list) == MaxSigners {
			return errs.Invalid(ruleSignatureCount, "export.sig has more than %d signatures", MaxSigners)
		}
		raw, err := f.raw()
		if err != nil {
			return err
		}
		s, err := decodeSignature(raw, unknown)
		list = append(list, s)
		return err
	})
	return list, err
}
