package exportfile_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	exportpb "enkeyserver/internal/pb/export"
)

// readForeign gives what ReadForeign says of each key: its rule, or "ok".
func readForeign(file []byte) (keys, revised []string, c exportfile.Contents, err error) {
	c, err = exportfile.ReadForeign(bytes.NewReader(file), int64(len(file)), func(k exportfile.ForeignKey) error {
		said := k.Broken
		if said == "" {
			said = "ok"
		}
		if k.Revised {
			revised = append(revised, said)
		} else {
			keys = append(keys, said)
		}
		return nil
	})
	return keys, revised, c, err
}

// What is wrong with one key costs that key; what is wrong with the file costs
// the file.
func TestReadForeign(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	for _, tc := range []struct {
		why   string
		edit  func(*draft)
		first string // of keys
		rule  string // of the file
	}{
		{"a good file", func(*draft) {}, "ok", ""},
		{"a key that is too long", func(d *draft) { d.export.Keys[0].KeyData = make([]byte, 17) }, "key_length", ""},
		{"no key", func(d *draft) { d.export.Keys[0].KeyData = nil }, "key_length", ""},
		{"a report that we do not know", func(d *draft) { d.export.Keys[0].ReportType = exportpb.TemporaryExposureKey_ReportType(7).Enum() }, "report_type", ""},
		{"a message that breaks off", func(d *draft) { d.export.Keys[0].ProtoReflect().SetUnknown([]byte{0x80}) }, "message", ""},
		{"a field that was added since", func(d *draft) { d.export.Keys[0].ProtoReflect().SetUnknown([]byte{9 << 3, 1}) }, "ok", ""},
		{"a variant that we do not keep", func(d *draft) {
			d.export.Keys[0].VariantOfConcern = exportpb.TemporaryExposureKey_VariantOfConcern(77).Enum()
		}, "ok", ""},
		{"a field of the file that was added since", func(d *draft) { d.export.ProtoReflect().SetUnknown([]byte{9 << 3, 1}) }, "ok", ""},
		{"what old apps were told beside a key's name", func(d *draft) {
			d.export.SignatureInfos[0].ProtoReflect().SetUnknown([]byte{1<<3 | 2, 1, 'a'})
		}, "ok", ""},
		{"part of a batch", func(d *draft) { d.export.BatchSize = proto.Int32(2) }, "ok", ""},
		{"a key that nobody has released is for the rules of keys", func(d *draft) { endAt(d.export.Keys[0], 0) }, "ok", ""},

		{"another header", func(d *draft) { d.header = "EK Export v2    " }, "", "header"},
		{"no times", func(d *draft) { d.export.StartTimestamp = nil }, "", "times"},
		{"times in milliseconds", func(d *draft) {
			d.export.StartTimestamp, d.export.EndTimestamp = proto.Uint64(1604577600000), proto.Uint64(1604577600001)
		}, "", "times"},
		{"a message that breaks off in the file", func(d *draft) { d.tail = []byte{0x80} }, "", "message"},
		{"cut", func(d *draft) { d.bytes = func(b []byte) []byte { return b[:len(b)-30] } }, "", "zip"},
	} {
		d := newDraft(s)
		tc.edit(d)
		keys, revised, _, err := readForeign(d.file(t))
		if tc.rule != "" {
			if errs.CodeOf(err) != tc.rule || errs.KindOf(err) != errs.KindInvalid {
				t.Errorf("%s: error %v, want the rule %s", tc.why, err, tc.rule)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.why, err)
		}
		if diff := cmp.Diff([][]string{{tc.first, "ok"}, {"ok"}}, [][]string{keys, revised}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.why, diff)
		}
	}
}

// A file of ours reads the same, strictly and leniently.
func TestReadForeignReadsOurs(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	want := exposures(1, 500)
	file, summary := write(t, []exportfile.Signer{s}, want, nil)
	var i int
	c, err := exportfile.ReadForeign(bytes.NewReader(file), int64(len(file)), func(k exportfile.ForeignKey) error {
		if k.Revised || k.Broken != "" || exportfile.Compare(k.Exposure, want[i]) != 0 {
			t.Errorf("key %d is not as it was written", i)
		}
		i++
		return nil
	})
	if err != nil || i != len(want) || c.BinSHA256 != summary.BinSHA256 {
		t.Errorf("%d keys were read, error %v, want %d and the same hash", i, err, len(want))
	}
	stop := errors.New("enough")
	if _, err := exportfile.ReadForeign(bytes.NewReader(file), int64(len(file)), func(exportfile.ForeignKey) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the visitor", err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v1")
	b, publicB := signer(t, "310", "v2")
	_, other := signer(t, "310", "v1")
	d := newDraft(a, b)
	file := d.file(t)
	_, _, c, err := readForeign(file)
	if err != nil {
		t.Fatal(err)
	}
	withoutDER := newDraft(a, b)
	withoutDER.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[1].Signature = []byte("of another kind") }
	for _, tc := range []struct {
		why     string
		file    []byte
		bin     [32]byte
		trusted []exportfile.PublicKey
		ok      bool
	}{
		{"one of the two is enough", file, c.BinSHA256, []exportfile.PublicKey{publicB}, true},
		{"both", file, c.BinSHA256, []exportfile.PublicKey{publicA, publicB}, true},
		{"none is known", file, c.BinSHA256, nil, false},
		{"another key of the name", file, c.BinSHA256, []exportfile.PublicKey{other}, false},
		{"another key of a name, beside a good one", file, c.BinSHA256, []exportfile.PublicKey{other, publicB}, false},
		{"another content", file, sha256.Sum256(nil), []exportfile.PublicKey{publicA}, false},
		{"what strangers sign is theirs", withoutDER.file(t), c.BinSHA256, []exportfile.PublicKey{publicA}, true},
		{"no zip", []byte("no zip"), c.BinSHA256, []exportfile.PublicKey{publicA}, false},
	} {
		err := exportfile.Verify(bytes.NewReader(tc.file), int64(len(tc.file)), tc.bin, tc.trusted)
		if (err == nil) != tc.ok || err != nil && errs.KindOf(err) != errs.KindInvalid {
			t.Errorf("%s: error %v", tc.why, err)
		}
	}
}

// CheckUnsigned holds a file against every rule but that of trust.
func TestCheckUnsigned(t *testing.T) {
	t.Parallel()
	s, public := signer(t, "310", "v1")
	good := newDraft(s).file(t)
	unsigned, err := exportfile.CheckUnsigned(bytes.NewReader(good), int64(len(good)), now)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := exportfile.Check(bytes.NewReader(good), int64(len(good)), []exportfile.PublicKey{public}, now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(checked, unsigned); diff != "" {
		t.Errorf("the two checks tell different contents (-Check +CheckUnsigned):\n%s", diff)
	}
	for why, edit := range map[string]func(*draft){
		"key_length":         func(d *draft) { d.export.Keys[0].KeyData = make([]byte, 17) },
		"duplicate_key":      func(d *draft) { d.export.Keys[0].KeyData = d.export.Keys[1].KeyData },
		"signature_encoding": func(d *draft) { d.sign = func(l *exportpb.TEKSignatureList) { l.Signatures[0].Signature = nil } },
		"not_released":       func(d *draft) { endAt(d.export.Keys[0], 0) },
	} {
		d := newDraft(s)
		edit(d)
		file := d.file(t)
		if _, err := exportfile.CheckUnsigned(bytes.NewReader(file), int64(len(file)), now); errs.CodeOf(err) != why {
			t.Errorf("error %v, want the rule %s", err, why)
		}
	}
}
