package exportfile_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	exportpb "enkeyserver/internal/pb/export"
)

// What other people's code reads in our files: archive/zip, the generated
// protobuf code and crypto/ecdsa, none of which wrote them.
func TestWriteIsReadByOthers(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	keys, revised := exposures(1, 500), exposures(2, 40)
	file, summary := write(t, []exportfile.Signer{a, b}, keys, revised)
	members := unzip(t, file)
	bin := members["export.bin"]

	want := newDraft(a, b).export
	want.Keys, want.RevisedKeys = wireKeys(keys), wireKeys(revised)
	got := &exportpb.TemporaryExposureKeyExport{}
	if string(bin[:16]) != binHeader {
		t.Fatalf("header is %q", bin[:16])
	}
	if err := proto.Unmarshal(bin[16:], got); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("export.bin (-want +got):\n%s", diff)
	}
	if summary != (exportfile.Summary{Keys: 500, Revised: 40, BinSHA256: sha256.Sum256(bin)}) {
		t.Errorf("summary: %+v", summary)
	}

	list := &exportpb.TEKSignatureList{}
	if err := proto.Unmarshal(members["export.sig"], list); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(bin)
	for i, public := range []exportfile.PublicKey{publicA, publicB} {
		s := list.GetSignatures()[i]
		if diff := gocmp.Diff(want.GetSignatureInfos()[i], s.GetSignatureInfo(), protocmp.Transform()); diff != "" {
			t.Errorf("signature %d (-want +got):\n%s", i, diff)
		}
		if s.GetBatchNum() != 1 || s.GetBatchSize() != 1 {
			t.Errorf("signature %d is of batch %d of %d", i, s.GetBatchNum(), s.GetBatchSize())
		}
		if !ecdsa.VerifyASN1(public.Key, digest[:], s.GetSignature()) {
			t.Errorf("signature %d does not verify", i)
		}
	}
}

func wireKeys(list []exposure.Exposure) (out []*exportpb.TemporaryExposureKey) {
	for _, e := range list {
		k := &exportpb.TemporaryExposureKey{
			KeyData:                    e.Key[:],
			TransmissionRiskLevel:      proto.Int32(e.Risk),
			RollingStartIntervalNumber: proto.Int32(int32(e.Start)),
			RollingPeriod:              proto.Int32(e.Period),
			ReportType:                 exportpb.TemporaryExposureKey_ReportType(e.Report).Enum(),
		}
		if e.HasOnset {
			k.DaysSinceOnsetOfSymptoms = proto.Int32(e.DaysSinceOnset)
		}
		out = append(out, k)
	}
	return out
}

// The bytes of export.bin are a promise: a worker that starts again adopts a
// file that is there only if they are equal.
func TestWriteGolden(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	keys := []exposure.Exposure{
		{Key: exposure.Key{1}, Start: 2673216, Period: 144, Risk: 2, Report: exposure.Confirmed, HasOnset: true, DaysSinceOnset: -1},
		{Key: exposure.Key{2}, Start: 2673216, Period: 144, Risk: 5, Report: exposure.Self},
	}
	revised := []exposure.Exposure{{Key: exposure.Key{3}, Start: 2673072, Period: 7, Risk: 6, Report: exposure.Revoked, HasOnset: true}}
	file, _ := write(t, []exportfile.Signer{s}, keys, revised)
	const want = "EK Export v1    " +
		"\x09\x00\xb1\xa3\x5f\x00\x00\x00\x00" + "\x11\x40\xe9\xa3\x5f\x00\x00\x00\x00" +
		"\x1a\x02US" + "\x20\x01" + "\x28\x01" +
		"\x32\x1e" + "\x1a\x02v1" + "\x22\x03310" + "\x2a\x131.2.840.10045.4.3.2" +
		"\x3a\x20" + "\x0a\x10\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x10\x02" + "\x18\xc0\x94\xa3\x01" + "\x20\x90\x01" + "\x28\x01" + "\x30\x01" +
		"\x3a\x1e" + "\x0a\x10\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x10\x05" + "\x18\xc0\x94\xa3\x01" + "\x20\x90\x01" + "\x28\x03" +
		"\x42\x1f" + "\x0a\x10\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x10\x06" + "\x18\xb0\x93\xa3\x01" + "\x20\x07" + "\x28\x05" + "\x30\x00"
	if diff := gocmp.Diff(want, string(unzip(t, file)["export.bin"])); diff != "" {
		t.Errorf("export.bin (-want +got):\n%s", diff)
	}
}

func TestWriteRepeatsItself(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	keys := exposures(1, 3000)
	first, one := write(t, []exportfile.Signer{s}, keys, nil)
	second, two := write(t, []exportfile.Signer{s}, keys, nil)
	if one != two {
		t.Errorf("summaries differ: %+v and %+v", one, two)
	}
	if !bytes.Equal(unzip(t, first)["export.bin"], unzip(t, second)["export.bin"]) {
		t.Error("export.bin differs from one writing to the next")
	}
}

// What phones see of the zip itself.
func TestWriteZip(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	file, _ := write(t, []exportfile.Signer{s}, exposures(1, 10), nil)
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range z.File {
		got = append(got, f.Name)
		if f.Method != zip.Deflate || len(f.Extra) != 0 || f.ModifiedDate != 0 || f.ModifiedTime != 0 {
			t.Errorf("%s: method %d, %d bytes of extra, date %d", f.Name, f.Method, len(f.Extra), f.ModifiedDate)
		}
	}
	if diff := gocmp.Diff([]string{"export.bin", "export.sig"}, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func TestWriteRefusesKeys(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	good := exposures(1, 3)
	edited := func(edit func(*exposure.Exposure)) []exposure.Exposure {
		list := slices.Clone(good)
		edit(&list[1])
		return list
	}
	for _, tc := range []struct {
		why           string
		keys, revised []exposure.Exposure
		want          string // code; empty: written
	}{
		{"as they should be", good, exposures(2, 3), ""},
		{"none at all: for the caller to know", nil, nil, ""},
		{"revisions alone", nil, good, ""},
		{"negative start", edited(func(e *exposure.Exposure) { e.Start = -1 }), nil, "rolling_start"},
		{"no period", edited(func(e *exposure.Exposure) { e.Period = 0 }), nil, "rolling_period"},
		{"more than a day", edited(func(e *exposure.Exposure) { e.Period = 145 }), nil, "rolling_period"},
		{"negative risk", edited(func(e *exposure.Exposure) { e.Risk = -1 }), nil, "transmission_risk"},
		{"risk too high", edited(func(e *exposure.Exposure) { e.Risk = 9 }), nil, "transmission_risk"},
		{"no such report", edited(func(e *exposure.Exposure) { e.Report = 6 }), nil, "report_type"},
		{"onset too early", edited(func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = true, -15 }), nil, "days_since_onset"},
		{"onset too late", edited(func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = true, 15 }), nil, "days_since_onset"},
		{"revoked among the new", edited(func(e *exposure.Exposure) { e.Report = exposure.Revoked }), nil, "revoked_in_keys"},
		{"broken among the revised", nil, edited(func(e *exposure.Exposure) { e.Period = 0 }), "rolling_period"},
		{"the same twice", []exposure.Exposure{good[0], good[0]}, nil, "order"},
		{"out of order", []exposure.Exposure{good[1], good[0]}, nil, "order"},
		{"the revised out of order", nil, []exposure.Exposure{good[1], good[0]}, "order"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := exportfile.Write(t.Context(), io.Discard, meta, []exportfile.Signer{s}, seq(tc.keys), seq(tc.revised))
			checkOurs(t, err, tc.want)
		})
	}
}

// checkOurs holds an error of Write against the rule that it should name.
func checkOurs(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("err = %v, want none", err)
		}
		return
	}
	if err == nil || errs.CodeOf(err) != want || errs.KindOf(err) != errs.Internal {
		t.Errorf("err = %v (code %s, kind %d), want an internal one with code %s", err, errs.CodeOf(err), errs.KindOf(err), want)
	}
}

// An onset that nobody knows says nothing, whatever stands in its field.
func TestWriteIgnoresUnknownOnset(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	e := exposures(1, 1)[0]
	e.HasOnset, e.DaysSinceOnset = false, 99
	file, _ := write(t, []exportfile.Signer{s}, []exposure.Exposure{e}, nil)
	if _, err := exportfile.Check(bytes.NewReader(file), int64(len(file)), []exportfile.PublicKey{trusted}, now); err != nil {
		t.Error(err)
	}
}

func TestWriteRefusesMeta(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	for _, tc := range []struct {
		why  string
		edit func(*exportfile.Meta)
		want string
	}{
		{"as it should be", func(*exportfile.Meta) {}, ""},
		{"end at start", func(m *exportfile.Meta) { m.End = m.Start }, "times"},
		{"end before start", func(m *exportfile.Meta) { m.Start, m.End = m.End, m.Start }, "times"},
		{"no times", func(m *exportfile.Meta) { m.Start, m.End = time.Time{}, time.Time{} }, "times"},
		{"a part of a second would be lost", func(m *exportfile.Meta) { m.End = m.End.Add(1) }, "times"},
		{"no region", func(m *exportfile.Meta) { m.Region = "" }, "region"},
		{"a region that is no text", func(m *exportfile.Meta) { m.Region = "\xff" }, "region"},
		{"a region that cannot be seen", func(m *exportfile.Meta) { m.Region = "US\n" }, "region"},
		{"a region as long as a book", func(m *exportfile.Meta) { m.Region = strings.Repeat("U", 65) }, "region"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			m := meta
			tc.edit(&m)
			_, err := exportfile.Write(t.Context(), io.Discard, m, []exportfile.Signer{s}, seq(nil), seq(nil))
			checkOurs(t, err, tc.want)
		})
	}
}

// strangeKey is a key manager that does not do what it should.
type strangeKey struct {
	public crypto.PublicKey
	sign   func(digest []byte) ([]byte, error)
}

func (k strangeKey) Public() crypto.PublicKey { return k.public }

func (k strangeKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.sign(digest)
}

func TestWriteRefusesSigners(t *testing.T) {
	t.Parallel()
	good, _ := signer(t, "310", "v1")
	other, _ := signer(t, "310", "v1")
	named := func(id, version string) []exportfile.Signer {
		return []exportfile.Signer{{Key: good.Key, ID: id, Version: version}}
	}
	withKey := func(k crypto.Signer) []exportfile.Signer {
		return []exportfile.Signer{{Key: k, ID: "310", Version: "v1"}}
	}
	many := func(n int) (list []exportfile.Signer) {
		for i := range n {
			list = append(list, exportfile.Signer{Key: good.Key, ID: "310", Version: string(rune('a' + i))})
		}
		return list
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		why     string
		signers []exportfile.Signer
		want    string
	}{
		{"one", many(1), ""},
		{"as many as phones take", many(10), ""},
		{"none", nil, "signature_count"},
		{"more than phones take", many(11), "signature_count"},
		{"two of one name", []exportfile.Signer{good, other}, "signature_name"},
		{"a dash would end the id", named("3-10", "v1"), "signature_name"},
		{"a dot in the version", named("310", "v1.0"), "signature_name"},
		{"no id", named("", "v1"), "signature_name"},
		{"no version", named("310", ""), "signature_name"},
		{"a line end behind the version", named("310", "v1\n"), "signature_name"},
		{"no key", withKey(nil), "signer"},
		{"a curve that phones don't verify", withKey(p384), "signer"},
		{"no curve at all", withKey(rsaKey), "signer"},
		{"the manager signs with another key", withKey(strangeKey{good.Key.Public(), func(d []byte) ([]byte, error) {
			return other.Key.Sign(rand.Reader, d, crypto.SHA256)
		}}), "signer"},
		{"the manager gives r and s, not DER", withKey(strangeKey{good.Key.Public(), func([]byte) ([]byte, error) {
			return make([]byte, 64), nil
		}}), "signer"},
		{"the manager is away", withKey(strangeKey{good.Key.Public(), func([]byte) ([]byte, error) {
			return nil, errors.New("away")
		}}), "internal_error"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := exportfile.Write(t.Context(), io.Discard, meta, tc.signers, seq(exposures(1, 2)), seq(nil))
			checkOurs(t, err, tc.want)
		})
	}
}

// brokenWriter fails after some bytes, as a full disk does.
type brokenWriter struct{ left int }

var errFull = errors.New("disk full")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left < len(p) {
		return 0, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	keys := exposures(1, 4000)
	file, _ := write(t, []exportfile.Signer{s}, keys, nil)
	for _, left := range []int{0, 1, 40, 5000, len(file) / 2, len(file) - 300, len(file) - 100, len(file) - 30} {
		_, err := exportfile.Write(t.Context(), &brokenWriter{left}, meta, []exportfile.Signer{s}, seq(keys), seq(nil))
		if !errors.Is(err, errFull) {
			t.Errorf("with room for %d of %d bytes: err = %v, want %v", left, len(file), err, errFull)
		}
	}
}

func TestWriteHandsErrorsOn(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	lost := errors.New("connection lost")
	half := func(yield func(exposure.Exposure, error) bool) {
		if yield(exposures(1, 1)[0], nil) {
			yield(exposure.Exposure{}, lost)
		}
	}
	if _, err := exportfile.Write(t.Context(), io.Discard, meta, []exportfile.Signer{s}, half, seq(nil)); !errors.Is(err, lost) {
		t.Errorf("keys: err = %v, want %v", err, lost)
	}
	if _, err := exportfile.Write(t.Context(), io.Discard, meta, []exportfile.Signer{s}, seq(nil), half); !errors.Is(err, lost) {
		t.Errorf("revised keys: err = %v, want %v", err, lost)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := exportfile.Write(ctx, io.Discard, meta, []exportfile.Signer{s}, seq(nil), seq(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: err = %v, want %v", err, context.Canceled)
	}
}

// Nothing that a log might show holds a key.
func TestWriteTellsNoKey(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	e := exposures(1, 1)[0]
	e.Risk = 9
	_, err := exportfile.Write(t.Context(), io.Discard, meta, []exportfile.Signer{s}, seq([]exposure.Exposure{e}), seq(nil))
	if err == nil || strings.Contains(err.Error(), e.Key.Base64()) || strings.Contains(err.Error(), string(e.Key[:])) {
		t.Errorf("err = %v, want one without the key", err)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	ordered := []exposure.Exposure{
		{Start: 1, Period: 144},
		{Start: 2, Period: 1, Report: 3},
		{Start: 2, Period: 2, Report: 1, Risk: 8},
		{Start: 2, Period: 2, Report: 2, Risk: 1, HasOnset: true, DaysSinceOnset: 14},
		{Start: 2, Period: 2, Report: 2, Risk: 2, DaysSinceOnset: 14, Key: exposure.Key{9}},
		{Start: 2, Period: 2, Report: 2, Risk: 2, HasOnset: true, DaysSinceOnset: -14, Key: exposure.Key{8}},
		{Start: 2, Period: 2, Report: 2, Risk: 2, HasOnset: true, DaysSinceOnset: 0, Key: exposure.Key{7}},
		{Start: 2, Period: 2, Report: 2, Risk: 2, HasOnset: true, DaysSinceOnset: 0, Key: exposure.Key{7, 1}},
		{Start: 2, Period: 2, Report: 2, Risk: 2, HasOnset: true, DaysSinceOnset: 0, Key: exposure.Key{255}},
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := exportfile.Compare(a, b), cmp.Compare(i, j); got != want {
				t.Errorf("Compare(%d, %d) = %d, want %d", i, j, got, want)
			}
		}
	}
}
