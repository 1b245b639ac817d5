package exportfile_test

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"iter"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	exportpb "enkeyserver/internal/pb/export"
)

// now is when the files of these tests are published: their newest keys ended
// more than two hours before.
var now = time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)

var meta = exportfile.Meta{Start: now.Add(-4 * time.Hour), End: now, Region: "US"}

const binHeader = "EK Export v1    "

// signer makes a signing key and its public half.
func signer(t testing.TB, id, version string) (exportfile.Signer, exportfile.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return exportfile.Signer{Key: key, ID: id, Version: version}, exportfile.PublicKey{ID: id, Version: version, Key: &key.PublicKey}
}

// exposures makes n keys as a country's phones upload them, in file order:
// report, risk, day, onset and a few short periods mixed. They repeat for the
// same seed.
func exposures(seed uint64, n int) []exposure.Exposure {
	r := mathrand.New(mathrand.NewPCG(seed, 0))
	today := exposure.DayOf(now)
	var out []exposure.Exposure
	for len(out) < n {
		out = append(out, phone(r, today)...)
	}
	out = out[:n]
	slices.SortFunc(out, exportfile.Compare)
	return out
}

// phone makes the keys of one phone.
func phone(r *mathrand.Rand, today exposure.Day) (out []exposure.Exposure) {
	report, risk := exposure.Confirmed, int32(2)
	switch x := r.IntN(100); {
	case x < 8:
		report, risk = exposure.Likely, 4
	case x < 15:
		report, risk = exposure.Self, 5
	}
	onset, told := 1+r.IntN(8), r.IntN(10) > 0
	for d := range 8 + r.IntN(7) {
		e := exposure.Exposure{
			Key: randomKey(r), Start: (today - exposure.Day(d+1)).Start(), Period: 144,
			Risk: risk, Report: report, HasOnset: told,
		}
		if told {
			e.DaysSinceOnset = int32(onset - d)
		}
		if d == 0 && r.IntN(2) == 0 {
			e.Period = int32(1 + r.IntN(144))
		}
		out = append(out, e)
	}
	return out
}

func randomKey(r *mathrand.Rand) (k exposure.Key) {
	for i := range k {
		k[i] = byte(r.Uint32())
	}
	return k
}

// seq is a list as Write takes it.
func seq(list []exposure.Exposure) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// write makes a file of ours.
func write(t testing.TB, signers []exportfile.Signer, keys, revised []exposure.Exposure) ([]byte, exportfile.Summary) {
	t.Helper()
	var b bytes.Buffer
	s, err := exportfile.Write(t.Context(), &b, meta, signers, seq(keys), seq(revised))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), s
}

// unzip gives the members of a file, read with the standard library.
func unzip(t testing.TB, file []byte) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	members := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		members[f.Name] = b.Bytes()
	}
	return members
}

// draft is a file as another server might make it: with the generated code and
// archive/zip, good until a test edits it.
type draft struct {
	header  string
	export  *exportpb.TemporaryExposureKeyExport
	tail    []byte // after the message in export.bin
	signers []exportfile.Signer
	sign    func(*exportpb.TEKSignatureList) // edits what was signed
	zip     func(*testing.T, []byte, []byte) []byte
	bytes   func([]byte) []byte // edits the zip
}

func newDraft(signers ...exportfile.Signer) *draft {
	d := &draft{
		header: binHeader,
		export: &exportpb.TemporaryExposureKeyExport{
			StartTimestamp: proto.Uint64(uint64(meta.Start.Unix())),
			EndTimestamp:   proto.Uint64(uint64(meta.End.Unix())),
			Region:         proto.String(meta.Region),
			BatchNum:       proto.Int32(1),
			BatchSize:      proto.Int32(1),
			Keys:           []*exportpb.TemporaryExposureKey{wireKey(1), wireKey(2)},
			RevisedKeys:    []*exportpb.TemporaryExposureKey{wireKey(3)},
		},
		signers: signers,
		sign:    func(*exportpb.TEKSignatureList) {},
		zip:     zipDeflated,
		bytes:   func(b []byte) []byte { return b },
	}
	d.export.RevisedKeys[0].ReportType = exportpb.TemporaryExposureKey_REVOKED.Enum()
	for _, s := range signers {
		d.export.SignatureInfos = append(d.export.SignatureInfos, info(s))
	}
	return d
}

func wireKey(n byte) *exportpb.TemporaryExposureKey {
	return &exportpb.TemporaryExposureKey{
		KeyData:                    bytes.Repeat([]byte{n}, 16),
		TransmissionRiskLevel:      proto.Int32(2),
		RollingStartIntervalNumber: proto.Int32(int32((exposure.DayOf(now) - 3).Start())),
		RollingPeriod:              proto.Int32(144),
		ReportType:                 exportpb.TemporaryExposureKey_CONFIRMED_TEST.Enum(),
		DaysSinceOnsetOfSymptoms:   proto.Int32(-1),
	}
}

func info(s exportfile.Signer) *exportpb.SignatureInfo {
	return &exportpb.SignatureInfo{
		VerificationKeyVersion: proto.String(s.Version),
		VerificationKeyId:      proto.String(s.ID),
		SignatureAlgorithm:     proto.String("1.2.840.10045.4.3.2"),
	}
}

func (d *draft) file(t *testing.T) []byte {
	t.Helper()
	message, err := proto.Marshal(d.export)
	if err != nil {
		t.Fatal(err)
	}
	bin := slices.Concat([]byte(d.header), message, d.tail)
	list := &exportpb.TEKSignatureList{}
	for _, s := range d.signers {
		list.Signatures = append(list.Signatures, &exportpb.TEKSignature{
			SignatureInfo: info(s), BatchNum: proto.Int32(1), BatchSize: proto.Int32(1), Signature: signed(t, s, bin),
		})
	}
	d.sign(list)
	sig, err := proto.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return d.bytes(d.zip(t, bin, sig))
}

func signed(t *testing.T, s exportfile.Signer, bin []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(bin)
	der, err := ecdsa.SignASN1(rand.Reader, s.Key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// zipDeflated is the form that servers write: sizes after the packed bytes.
func zipDeflated(t *testing.T, bin, sig []byte) []byte {
	t.Helper()
	return zipOf(t, zip.Deflate, "export.bin", bin, "export.sig", sig)
}

func zipOf(t *testing.T, method uint16, namesAndContents ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for pair := range slices.Chunk(namesAndContents, 2) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: pair[0].(string), Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(pair[1].([]byte)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// storedZip has both members stored, with their sizes in the local headers.
func storedZip(bin, sig []byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range []struct {
		name    string
		content []byte
	}{{"export.bin", bin}, {"export.sig", sig}} {
		w, err := z.CreateRaw(&zip.FileHeader{
			Name: m.name, CRC32: crc32.ChecksumIEEE(m.content),
			CompressedSize64: uint64(len(m.content)), UncompressedSize64: uint64(len(m.content)),
		})
		if err != nil {
			panic(err) // a buffer takes everything
		}
		if _, err := w.Write(m.content); err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}
