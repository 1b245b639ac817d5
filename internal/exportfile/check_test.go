package exportfile_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	exportpb "enkeyserver/internal/pb/export"
)

func check(file []byte, trusted ...exportfile.PublicKey) (exportfile.Contents, error) {
	return exportfile.Check(bytes.NewReader(file), int64(len(file)), trusted, now)
}

// checkBroken holds an error of Check or Read against the rule that it should
// name.
func checkBroken(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("err = %v, want none", err)
		}
		return
	}
	if err == nil || errs.CodeOf(err) != want || errs.KindOf(err) != errs.KindInvalid {
		t.Errorf("err = %v (code %s, kind %d), want an invalid one with code %s", err, errs.CodeOf(err), errs.KindOf(err), want)
	}
}

func TestCheckTellsContents(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	file, summary := write(t, []exportfile.Signer{a, b}, exposures(1, 5000), exposures(2, 70))
	got, err := check(file, publicB, publicA)
	if err != nil {
		t.Fatal(err)
	}
	want := exportfile.Contents{
		Meta: meta, Keys: 5000, Revised: 70, BinSHA256: summary.BinSHA256,
		Signatures: []exportfile.KeyName{{ID: "310", Version: "v2"}, {ID: "310", Version: "v1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}
}

// Each row breaks one thing in a file that is good otherwise, and signs what it
// made: no rule may lean on the signature to catch a mistake of the signer.
func TestCheckMessage(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	for _, tc := range []struct {
		why  string
		edit func(*draft)
		want string
	}{
		{"another server's good file", func(*draft) {}, ""},
		{"no keys", func(d *draft) { d.export.Keys, d.export.RevisedKeys = nil, nil }, ""},
		{"no region", func(d *draft) { d.export.Region = nil }, ""},
		{"defaults left out", func(d *draft) {
			d.export.Keys[0] = &exportpb.TemporaryExposureKey{KeyData: bytes.Repeat([]byte{9}, 16)}
		}, ""},
		{"the ends of every range", func(d *draft) {
			k := d.export.Keys
			k[0].TransmissionRiskLevel, k[0].RollingPeriod, k[0].DaysSinceOnsetOfSymptoms = proto.Int32(0), proto.Int32(1), proto.Int32(-14)
			k[1].TransmissionRiskLevel, k[1].RollingPeriod, k[1].DaysSinceOnsetOfSymptoms = proto.Int32(8), proto.Int32(144), proto.Int32(14)
			k[0].VariantOfConcern = exportpb.TemporaryExposureKey_VARIANT_TYPE_4.Enum()
			k[0].RollingStartIntervalNumber = proto.Int32(0)
		}, ""},

		{"another version", func(d *draft) { d.header = "EK Export v2    " }, "header"},
		{"no header", func(d *draft) { d.header = "" }, "header"},
		{"a header without its spaces", func(d *draft) { d.header = "EK Export v1" }, "header"},
		{"a header that ends in zeros", func(d *draft) { d.header = "EK Export v1\x00\x00\x00\x00" }, "header"},
		{"nothing but half a header", func(d *draft) { d.header, d.export = "EK Export", nil }, "header"},

		{"an end before the start", func(d *draft) { d.export.EndTimestamp = proto.Uint64(1) }, "times"},
		{"an end at the start", func(d *draft) { d.export.EndTimestamp = d.export.StartTimestamp }, "times"},
		{"no start", func(d *draft) { d.export.StartTimestamp = nil }, "times"},
		{"no end", func(d *draft) { d.export.EndTimestamp = nil }, "times"},
		{"milliseconds", func(d *draft) { d.export.EndTimestamp = proto.Uint64(uint64(now.UnixMilli())) }, "times"},
		{"a time that wraps around", func(d *draft) { d.export.EndTimestamp = proto.Uint64(1 << 63) }, "times"},
		{"a region that is no text", func(d *draft) { d.export.Region = nil; d.tail = []byte("\x1a\x02\xff\xfe") }, "region"},
		{"a region as long as a book", func(d *draft) { d.export.Region = proto.String(strings.Repeat("U", 65)) }, "region"},
		{"the second of two", func(d *draft) { d.export.BatchNum, d.export.BatchSize = proto.Int32(2), proto.Int32(2) }, "batch_number"},
		{"one of two", func(d *draft) { d.export.BatchSize = proto.Int32(2) }, "batch_number"},
		{"no batch numbers", func(d *draft) { d.export.BatchNum, d.export.BatchSize = nil, nil }, "batch_number"},

		{"a short key", func(d *draft) { d.export.Keys[1].KeyData = make([]byte, 15) }, "key_length"},
		{"a long key, with which phones loop for ever", func(d *draft) { d.export.Keys[1].KeyData = make([]byte, 17) }, "key_length"},
		{"an empty key", func(d *draft) { d.export.Keys[1].KeyData = []byte{} }, "key_length"},
		{"no key", func(d *draft) { d.export.Keys[1].KeyData = nil }, "key_length"},
		{"a long revised key", func(d *draft) { d.export.RevisedKeys[0].KeyData = make([]byte, 17) }, "key_length"},
		{"a start before 1970", func(d *draft) { d.export.Keys[1].RollingStartIntervalNumber = proto.Int32(-1) }, "rolling_start"},
		{"no period", func(d *draft) { d.export.Keys[1].RollingPeriod = proto.Int32(0) }, "rolling_period"},
		{"a negative period", func(d *draft) { d.export.Keys[1].RollingPeriod = proto.Int32(-144) }, "rolling_period"},
		{"more than a day", func(d *draft) { d.export.Keys[1].RollingPeriod = proto.Int32(145) }, "rolling_period"},
		{"a negative risk", func(d *draft) { d.export.Keys[1].TransmissionRiskLevel = proto.Int32(-1) }, "transmission_risk"},
		{"a risk above all", func(d *draft) { d.export.Keys[1].TransmissionRiskLevel = proto.Int32(9) }, "transmission_risk"},
		{"an onset too early", func(d *draft) { d.export.Keys[1].DaysSinceOnsetOfSymptoms = proto.Int32(-15) }, "days_since_onset"},
		{"an onset too late", func(d *draft) { d.export.Keys[1].DaysSinceOnsetOfSymptoms = proto.Int32(15) }, "days_since_onset"},
		{"no such report", func(d *draft) { d.export.Keys[1].ReportType = exportpb.TemporaryExposureKey_ReportType(6).Enum() }, "report_type"},
		{"a report that wraps around to a good one", func(d *draft) {
			d.export.Keys[1].ReportType = exportpb.TemporaryExposureKey_ReportType(1<<16 + 1).Enum()
		}, "report_type"},
		{"a negative report", func(d *draft) { d.export.Keys[1].ReportType = exportpb.TemporaryExposureKey_ReportType(-1).Enum() }, "report_type"},
		{"no such variant", func(d *draft) {
			d.export.Keys[1].VariantOfConcern = exportpb.TemporaryExposureKey_VariantOfConcern(5).Enum()
		}, "variant_of_concern"},
		{"revoked among the new", func(d *draft) { d.export.Keys[1].ReportType = exportpb.TemporaryExposureKey_REVOKED.Enum() }, "revoked_in_keys"},
		{"a broken revised key", func(d *draft) { d.export.RevisedKeys[0].RollingPeriod = proto.Int32(145) }, "rolling_period"},
		{"twice in keys", func(d *draft) { d.export.Keys[1].KeyData = d.export.Keys[0].KeyData }, "duplicate_key"},
		{"twice in keys, with another day", func(d *draft) {
			d.export.Keys[1].KeyData = d.export.Keys[0].KeyData
			d.export.Keys[1].RollingStartIntervalNumber = proto.Int32(144)
		}, "duplicate_key"},
		{"new and revised", func(d *draft) { d.export.RevisedKeys[0].KeyData = d.export.Keys[0].KeyData }, "duplicate_key"},
		{"twice revised", func(d *draft) { d.export.RevisedKeys = append(d.export.RevisedKeys, d.export.RevisedKeys[0]) }, "duplicate_key"},

		{"two hours after its end, to the second", func(d *draft) { endAt(d.export.Keys[1], 12) }, ""},
		{"one interval too early", func(d *draft) { endAt(d.export.Keys[1], 11) }, "not_released"},
		{"still broadcast", func(d *draft) { endAt(d.export.Keys[1], -1) }, "not_released"},
		{"a revised key that is still broadcast", func(d *draft) { endAt(d.export.RevisedKeys[0], -1) }, "not_released"},
		{"the last start of all, whose end wraps around", func(d *draft) {
			d.export.Keys[1].RollingStartIntervalNumber = proto.Int32(1<<31 - 1)
		}, "not_released"},

		{"no signatures at all", func(d *draft) { d.export.SignatureInfos, d.signers = nil, nil }, "signature_count"},
		{"a signature without its info", func(d *draft) { d.export.SignatureInfos = d.export.SignatureInfos[:1] }, "signature_count"},
		{"an info without its signature", func(d *draft) { d.signers = d.signers[:1] }, "signature_count"},
		{"eleven infos", func(d *draft) {
			for range 9 {
				d.export.SignatureInfos = append(d.export.SignatureInfos, d.export.SignatureInfos[0])
			}
		}, "signature_count"},
		{"eleven signatures", func(d *draft) {
			for range 9 {
				d.signers = append(d.signers, d.signers[0])
			}
		}, "signature_count"},
		{"the other way round", func(d *draft) { slices.Reverse(d.signers) }, "signature_order"},
		{"a name that differs", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) {
				l.Signatures[1].SignatureInfo.VerificationKeyVersion = proto.String("v9")
			}
		}, "signature_order"},
		{"an algorithm that differs", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[1].SignatureInfo.SignatureAlgorithm = nil }
		}, "signature_order"},
		{"two of one name", func(d *draft) {
			d.signers = []exportfile.Signer{a, a}
			d.export.SignatureInfos = []*exportpb.SignatureInfo{info(a), info(a)}
		}, "signature_name"},
		{"a dash in the id", func(d *draft) { d.export.SignatureInfos[0].VerificationKeyId = proto.String("3-10") }, "signature_name"},
		{"no version", func(d *draft) { d.export.SignatureInfos[0].VerificationKeyVersion = nil }, "signature_name"},
		{"another algorithm", func(d *draft) {
			d.export.SignatureInfos[0].SignatureAlgorithm = proto.String("1.2.840.10045.4.3.3")
		}, "signature_algorithm"},
		{"no algorithm", func(d *draft) { d.export.SignatureInfos[0].SignatureAlgorithm = nil }, "signature_algorithm"},
		{"batch numbers that differ", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].BatchSize = proto.Int32(2) }
		}, "batch_number"},
		{"r and s side by side", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].Signature = make([]byte, 64) }
		}, "signature_encoding"},
		{"a byte behind the signature", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].Signature = append(l.Signatures[0].Signature, 0) }
		}, "signature_encoding"},
		{"no signature", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].Signature = nil }
		}, "signature_encoding"},
		{"numbers that are none of a curve", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) {
				l.Signatures[0].Signature = []byte("\x30\x06\x02\x01\x00\x02\x01\x00")
			}
		}, "signature_encoding"},
		{"somebody else's signature", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].Signature = l.Signatures[1].Signature }
		}, "signature"},
		{"signed before a byte was added", func(d *draft) {
			d.zip = func(t *testing.T, bin, sig []byte) []byte {
				more := protowire.AppendTag(bin, 7, protowire.BytesType)
				key, _ := proto.Marshal(wireKey(77))
				return zipDeflated(t, protowire.AppendBytes(more, key), sig)
			}
		}, "signature"},

		{"an unknown field", func(d *draft) { d.tail = []byte{9 << 3, 1} }, "unknown_field"},
		{"an unknown field beyond all", func(d *draft) { d.tail = protowire.AppendVarint(protowire.AppendTag(nil, 70, 0), 1) }, "unknown_field"},
		{"an unknown field of a key", func(d *draft) { d.tail = []byte{7<<3 | 2, 2, 7 << 3, 1} }, "unknown_field"},
		{"an unknown field of a signature info", func(d *draft) { d.tail = []byte{6<<3 | 2, 3, 1<<3 | 2, 1, 'a'} }, "unknown_field"},
		{"an unknown field of a signature", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) {
				l.Signatures[0].ProtoReflect().SetUnknown([]byte{9 << 3, 1})
			}
		}, "unknown_field"},
		{"an unknown field of the signatures", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.ProtoReflect().SetUnknown([]byte{9 << 3, 1}) }
		}, "unknown_field"},
		{"signatures that are cut off", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.ProtoReflect().SetUnknown([]byte{0x80}) }
		}, "message"},
		{"a signature that is a number", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) { l.ProtoReflect().SetUnknown([]byte{1 << 3, 1}) }
		}, "message"},
		{"a second signature in a signature", func(d *draft) {
			d.sign = func(l *exportpb.TEKSignatureList) {
				l.Signatures[0].ProtoReflect().SetUnknown([]byte{4<<3 | 2, 1, 0})
			}
		}, "message"},
		{"a second region", func(d *draft) { d.tail = []byte("\x1a\x02CA") }, "message"},
		{"a second key in a key", func(d *draft) {
			one := append([]byte{1<<3 | 2, 16}, make([]byte, 16)...)
			d.tail = protowire.AppendBytes([]byte{7<<3 | 2}, slices.Concat(one, one))
		}, "message"},
		{"a key that is a number", func(d *draft) { d.tail = []byte{7 << 3, 1} }, "message"},
		{"key data that is a number", func(d *draft) { d.tail = []byte{7<<3 | 2, 2, 1 << 3, 1} }, "message"},
		{"a period that is text", func(d *draft) { d.tail = []byte{7<<3 | 2, 3, 4<<3 | 2, 1, 'a'} }, "message"},
		{"a time that is a varint", func(d *draft) { d.export.EndTimestamp = nil; d.tail = []byte{2 << 3, 1} }, "message"},
		{"a signature info that is a number", func(d *draft) { d.tail = []byte{6 << 3, 1} }, "message"},
		{"a region that is a number", func(d *draft) { d.export.Region = nil; d.tail = []byte{3 << 3, 1} }, "message"},
		{"a period beyond 32 bits", func(d *draft) {
			d.tail = protowire.AppendBytes([]byte{7<<3 | 2}, protowire.AppendVarint([]byte{4 << 3}, 1<<32+144))
		}, "message"},
		{"cut off within a field", func(d *draft) { d.tail = []byte{7<<3 | 2, 34, 1} }, "message"},
		{"cut off within a key", func(d *draft) { d.tail = []byte{7<<3 | 2, 2, 1<<3 | 2, 16} }, "message"},
		{"cut off within a tag", func(d *draft) { d.tail = []byte{0x80} }, "message"},
		{"a field that claims an exabyte", func(d *draft) { d.tail = protowire.AppendVarint([]byte{3<<3 | 2}, 1<<60) }, "message"},
		{"a group", func(d *draft) { d.tail = []byte{7<<3 | 3, 7<<3 | 4} }, "message"},
		{"field zero", func(d *draft) { d.tail = []byte{2, 0} }, "message"},
		{"a varint without end", func(d *draft) { d.tail = append([]byte{4 << 3}, bytes.Repeat([]byte{0xff}, 11)...) }, "message"},
		{"a field longer than any", func(d *draft) {
			noise := make([]byte, 70_000)
			for i := range noise {
				noise[i] = byte(i * i >> 7)
			}
			d.tail = protowire.AppendBytes([]byte{7<<3 | 2}, noise)
		}, "message"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := newDraft(a, b)
			tc.edit(d)
			_, err := check(d.file(t), publicA, publicB)
			checkBroken(t, err, tc.want)
		})
	}
}

// endAt moves a key so that its period ended some intervals ago.
func endAt(k *exportpb.TemporaryExposureKey, ago int) {
	k.RollingStartIntervalNumber = proto.Int32(int32(exposure.IntervalOf(now)) - int32(ago) - k.GetRollingPeriod())
}

func TestCheckTrust(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	_, foreign := signer(t, "310", "v1")
	_, unrelated := signer(t, "240", "v1")
	file, _ := write(t, []exportfile.Signer{a, b}, exposures(1, 10), nil)
	for _, tc := range []struct {
		why     string
		trusted []exportfile.PublicKey
		want    string
	}{
		{"all of the keys", []exportfile.PublicKey{publicA, publicB}, ""},
		{"the older key alone, as on a phone that has not heard of the newer", []exportfile.PublicKey{publicB}, ""},
		{"one of them and others", []exportfile.PublicKey{unrelated, publicA}, ""},
		{"nobody", nil, "signature"},
		{"somebody else", []exportfile.PublicKey{unrelated}, "signature"},
		{"a key of the same name", []exportfile.PublicKey{foreign}, "signature"},
		{"one good, one of the same name", []exportfile.PublicKey{publicA, foreign}, "signature"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := check(file, tc.trusted...)
			checkBroken(t, err, tc.want)
		})
	}
}

// A file that is good for one reader of zips and something else for another.
func TestCheckZip(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	deflated := newDraft(s).file(t)
	members := unzip(t, deflated)
	bin, sig := members["export.bin"], members["export.sig"]
	at := func(file []byte, edit func([]byte)) []byte {
		file = slices.Clone(file)
		edit(file)
		return file
	}
	stored := rawZip(t, zip.Store, 0, bin, sig)
	end := len(deflated) - 22
	dir := int(binary.LittleEndian.Uint32(deflated[end+16:]))
	for _, tc := range []struct {
		why  string
		file []byte
		want string
	}{
		{"deflated, sizes behind", deflated, ""},
		{"deflated, sizes before", rawZip(t, zip.Deflate, 0, bin, sig), ""},
		{"stored, sizes before", stored, ""},
		{"signature first", zipOf(t, zip.Deflate, "export.sig", sig, "export.bin", bin), ""},
		{"names marked as UTF-8", rawZip(t, zip.Deflate, 1<<11, bin, sig), ""},

		{"stored, sizes behind", zipOf(t, zip.Store, "export.bin", bin, "export.sig", sig), "stored_with_descriptor"},
		{"one member", zipOf(t, zip.Deflate, "export.bin", bin), "members"},
		{"three members", zipOf(t, zip.Deflate, "export.bin", bin, "export.sig", sig, "README", []byte("hello")), "members"},
		{"another name", zipOf(t, zip.Deflate, "export.bin", bin, "export.sgn", sig), "members"},
		{"in a folder", zipOf(t, zip.Deflate, "us/export.bin", bin, "us/export.sig", sig), "members"},
		{"capitals", zipOf(t, zip.Deflate, "Export.bin", bin, "export.sig", sig), "members"},
		{"the same twice", zipOf(t, zip.Deflate, "export.bin", bin, "export.bin", bin), "members"},
		{"two signatures", zipOf(t, zip.Deflate, "export.sig", sig, "export.sig", sig), "members"},

		{"nothing", nil, "zip"},
		{"no zip", bytes.Repeat([]byte("no zip "), 100), "zip"},
		{"cut off", deflated[:len(deflated)-1], "zip"},
		{"cut off in the middle", deflated[:len(deflated)/2], "zip"},
		{"the front is missing", deflated[10:], "zip"},
		{"a byte behind", append(slices.Clone(deflated), 0), "zip"},
		{"a byte before", append([]byte{0}, deflated...), "zip"},
		{"a comment", at(append(slices.Clone(deflated), '!'), func(b []byte) { b[end+20] = 1 }), "zip"},
		{"a second disk", at(deflated, func(b []byte) { b[end+4] = 1 }), "zip"},
		{"a directory elsewhere", at(deflated, func(b []byte) { b[end+16]++ }), "zip"},
		{"a directory that is none", at(deflated, func(b []byte) { b[dir] = 'X' }), "zip"},
		{"a directory with less in it", slices.Concat(deflated[:dir], at(deflated[end:], func(b []byte) { binary.LittleEndian.PutUint32(b[12:], 0) })), "zip"},
		{"encrypted", at(deflated, func(b []byte) { b[6] |= 1; b[dir+8] |= 1 }), "zip"},
		{"another packing", at(deflated, func(b []byte) { b[8] = 9; b[dir+10] = 9 }), "zip"},
		{"names that differ", at(deflated, func(b []byte) { b[30] = 'E' }), "zip"},
		{"methods that differ", at(deflated, func(b []byte) { b[8] = 0 }), "zip"},
		{"local header that is none", at(deflated, func(b []byte) { b[0] = 'X' }), "zip"},
		{"sizes before and behind", at(deflated, func(b []byte) { b[18] = 1 }), "zip"},
		{"a second member that is none", at(deflated, func(b []byte) { b[secondOf(b, dir)] = 'X' }), "zip"},
		{"a size behind that differs, without its magic", bare(deflated, dir, end, func(b []byte) { b[3]++ }), "zip"},
		{"sizes behind, without their magic", bare(deflated, dir, end, func([]byte) {}), ""},
		{"a size that differs", at(stored, func(b []byte) { b[18]++ }), "zip"},
		{"two sizes of what is stored", at(stored, func(b []byte) { directoryOf(b)[24]++ }), "zip"},
		{"a CRC that differs from the directory's", at(stored, func(b []byte) { b[14]++ }), "zip"},
		{"a CRC that is wrong in both", at(stored, func(b []byte) { b[14]++; directoryOf(b)[16]++ }), "zip"},
		{"a flipped bit in what is stored", at(stored, func(b []byte) { b[30+len("export.bin")+20] ^= 1 }), "zip"},
		{"a member that is longer than it says", resized(t, bin, sig, -1), "zip"},
		{"a member that is shorter than it says", resized(t, bin, sig, +1), "zip"},
		{"bytes between the members", between(deflated, dir, end), "zip"},
		{"a descriptor that differs", at(deflated, func(b []byte) { b[secondOf(b, dir)-1]++ }), "zip"},
		{"a descriptor that is none", at(deflated, func(b []byte) { b[secondOf(b, dir)-16]++ }), "zip"},
		{"bytes behind the packed ones", padded(t, bin, sig), "zip"},
		{"packed bytes that are none", at(deflated, func(b []byte) { b[30+len("export.bin")] = 0xff }), "zip"},
		{"packed bytes that end too soon", cutDeflate(t, bin, sig), "zip"},

		{"a bomb", zipOf(t, zip.Deflate, "export.bin", append([]byte(binHeader), make([]byte, 10<<20)...), "export.sig", sig), "size"},
		{"a bomb that claims to be none", at(zipOf(t, zip.Deflate, "export.bin", append([]byte(binHeader), make([]byte, 10<<20)...), "export.sig", sig), func(b []byte) {
			binary.LittleEndian.PutUint32(directoryOf(b)[24:], 20_000)
		}), "zip"},
		{"a signature file of 20 000 bytes", rawZip(t, zip.Store, 0, bin, make([]byte, 20_000)), "size"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := check(tc.file, trusted)
			checkBroken(t, err, tc.want)
		})
	}
}

// rawZip has its sizes in the local headers.
func rawZip(t *testing.T, method uint16, flags uint16, bin, sig []byte) []byte {
	t.Helper()
	return rawMembers(t, rawMember(t, "export.bin", method, flags, bin), rawMember(t, "export.sig", method, flags, sig))
}

type raw struct {
	header *zip.FileHeader
	packed []byte
}

func rawMember(t *testing.T, name string, method, flags uint16, content []byte) raw {
	t.Helper()
	packed := content
	if method == zip.Deflate {
		packed = deflate(t, content)
	}
	return raw{&zip.FileHeader{
		Name: name, Method: method, Flags: flags, CRC32: crc32.ChecksumIEEE(content),
		CompressedSize64: uint64(len(packed)), UncompressedSize64: uint64(len(content)),
	}, packed}
}

func rawMembers(t *testing.T, members ...raw) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.CreateRaw(m.header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.packed); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func deflate(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// resized claims another size of export.bin, in both headers.
func resized(t *testing.T, bin, sig []byte, by int) []byte {
	t.Helper()
	m := rawMember(t, "export.bin", zip.Deflate, 0, bin)
	m.header.UncompressedSize64 += uint64(by)
	return rawMembers(t, m, rawMember(t, "export.sig", zip.Deflate, 0, sig))
}

// padded has bytes behind the end of what is packed.
func padded(t *testing.T, bin, sig []byte) []byte {
	t.Helper()
	m := rawMember(t, "export.bin", zip.Deflate, 0, bin)
	m.packed = append(m.packed, 0)
	m.header.CompressedSize64++
	return rawMembers(t, m, rawMember(t, "export.sig", zip.Deflate, 0, sig))
}

// cutDeflate ends export.bin before its last block does.
func cutDeflate(t *testing.T, bin, sig []byte) []byte {
	t.Helper()
	m := rawMember(t, "export.bin", zip.Deflate, 0, bin)
	m.packed = m.packed[:len(m.packed)-4]
	m.header.CompressedSize64 -= 4
	return rawMembers(t, m, rawMember(t, "export.sig", zip.Deflate, 0, sig))
}

// directoryOf is the part of a zip from its directory on.
func directoryOf(file []byte) []byte {
	return file[binary.LittleEndian.Uint32(file[len(file)-22+16:]):]
}

// secondOf is where the second member begins.
func secondOf(file []byte, dir int) int {
	return int(binary.LittleEndian.Uint32(file[dir+46+len("export.bin")+42:]))
}

// between has four bytes before its second member, which the directory skips.
func between(file []byte, dir, end int) []byte {
	second := secondOf(file, dir)
	out := slices.Concat(file[:second], []byte("gap!"), file[second:])
	binary.LittleEndian.PutUint32(out[dir+4+46+len("export.bin")+42:], uint32(second+4))
	binary.LittleEndian.PutUint32(out[end+4+16:], uint32(dir+4))
	return out
}

// bare has the descriptor of its first member without the magic, which is
// optional; edit is given it.
func bare(file []byte, dir, end int, edit func([]byte)) []byte {
	second := secondOf(file, dir)
	out := slices.Concat(file[:second-16], file[second-12:])
	binary.LittleEndian.PutUint32(out[dir-4+46+len("export.bin")+42:], uint32(second-4))
	binary.LittleEndian.PutUint32(out[end-4+16:], uint32(dir-4))
	edit(out[second-16:])
	return out
}

// sparse is a reader that says it is as large as it likes.
type sparse struct{}

func (sparse) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestCheckRefusesHugeFiles(t *testing.T) {
	t.Parallel()
	_, err := exportfile.Check(sparse{}, 1<<40, nil, now)
	checkBroken(t, err, "size")
}

// A file may shrink between its stat and its reading.
func TestCheckRefusesShrunkenFiles(t *testing.T) {
	t.Parallel()
	_, err := exportfile.Check(bytes.NewReader(nil), 1000, nil, now)
	checkBroken(t, err, "zip")
}

// brokenReader is a disk that fails, which says nothing about the file on it.
type brokenReader struct {
	bytes.Reader
	from int64
}

var errDisk = errors.New("disk failed")

func (r *brokenReader) ReadAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > r.from && offset < r.Size()-500 {
		return 0, errDisk
	}
	return r.Reader.ReadAt(p, offset)
}

func TestCheckTellsABrokenDisk(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	file, _ := write(t, []exportfile.Signer{s}, exposures(1, 20_000), nil)
	for _, from := range []int64{0, 50_000, 200_000} {
		r := &brokenReader{Reader: *bytes.NewReader(file), from: from}
		_, err := exportfile.Check(r, int64(len(file)), []exportfile.PublicKey{trusted}, now)
		if !errors.Is(err, errDisk) || errs.KindOf(err) != errs.Internal {
			t.Errorf("failing from byte %d on: err = %v, want %v", from, err, errDisk)
		}
	}
}

// Any byte of a good file may flip on its way: no such file may pass, whatever
// the rule that finds it.
func TestCheckFindsEveryFlippedBit(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	file, summary := write(t, []exportfile.Signer{s}, exposures(1, 3), exposures(2, 1))
	for i := range file {
		for bit := range 8 {
			file[i] ^= 1 << bit
			c, err := check(file, trusted)
			file[i] ^= 1 << bit
			if err == nil && c.BinSHA256 != summary.BinSHA256 {
				t.Errorf("byte %d, bit %d: accepted with other contents", i, bit)
			}
		}
	}
}

// A fresh file passes from memory and from a disk alike.
func TestCheckReadsFiles(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	f, err := os.Create(filepath.Join(t.TempDir(), "a.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := exportfile.Write(t.Context(), f, meta, []exportfile.Signer{s}, seq(exposures(1, 1000)), seq(nil)); err != nil {
		t.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exportfile.Check(f, size, []exportfile.PublicKey{trusted}, now); err != nil {
		t.Error(err)
	}
}

// What Check and Write hold grows with the keys by 8 bytes each and no more.
// Not parallel: it measures.
func TestMemory(t *testing.T) { //nolint:paralleltest // other tests allocate
	const n = 50_000
	s, trusted := signer(t, "310", "v1")
	keys := exposures(1, n)
	file, _ := write(t, []exportfile.Signer{s}, keys, nil)
	if got := allocated(func() { write(t, []exportfile.Signer{s}, nil, nil) }); got > 4<<20 {
		t.Errorf("Write allocates %d bytes before any key", got)
	}
	if got := allocated(func() {
		_, _ = exportfile.Write(t.Context(), io.Discard, meta, []exportfile.Signer{s}, seq(keys), seq(nil))
	}); got > 4<<20 {
		t.Errorf("Write allocates %d bytes for %d keys", got, n)
	}
	if got := allocated(func() { _, _ = check(file, trusted) }); got > 1<<20+10*n {
		t.Errorf("Check allocates %d bytes for %d keys", got, n)
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
