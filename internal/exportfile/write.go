package exportfile

import (
	"archive/zip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"hash"
	"io"
	"iter"
	"unicode"

	"github.com/klauspost/compress/flate"
	"google.golang.org/protobuf/encoding/protowire"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

const (
	binName = "export.bin"
	sigName = "export.sig"
	header  = "EK Export v1    " // 16 bytes
)

// packLevel is the level of github.com/klauspost/compress/flate. Egress is most
// of what a health authority pays, so size decides. Bytes a key of export.bin
// when packed, and million keys a second on one core, of keys as a country's
// phones send them (report, risk, onset and day mixed) in the order of Compare:
//
//	                  5 000 keys     100 000 keys   500 000 keys
//	compress/flate 6  18.11  1.5     17.69  2.4     17.68   3.1
//	klauspost 1       18.82  3.1     18.26  9.5     17.46  10.5
//	klauspost 6       18.80  3.0     18.34  3.5     17.97   3.6
//	klauspost 7       18.08  1.6     17.69  5.0     17.68   5.1
//	klauspost 8       18.08  2.3     17.68  2.6     17.64   2.9
//
// 16 is the floor, for keys are random.
const packLevel = 7

// bufferSize is how much of export.bin waits to be hashed and packed at once.
const bufferSize = 32 << 10

// Write streams a signed zip to w: export.bin with keys and revised, and
// export.sig with a signature by each signer, newest first. Both lists come in
// the order of Compare; a key that stands in one twice with the same metadata
// is found by that, any other duplicate by Check.
//
// The bytes of export.bin are a function of m, the names of the signers and the
// keys; signatures differ each time. Whatever breaks a rule of phones ends the
// writing with an internal error whose code is the rule. After any error, what
// w was given is to be thrown away. A file without keys is written like any
// other: whether it should exist, the caller knows.
func Write(ctx context.Context, w io.Writer, m Meta, signers []Signer, keys, revised iter.Seq2[exposure.Exposure, error]) (s Summary, err error) {
	defer errs.Wrap(&err, "exportfile.Write(%s, %d)", m.Region, m.End.Unix())

	names, err := checkOurs(m, signers)
	if err != nil {
		return Summary{}, err
	}
	archive := newZip(w)
	member, err := createMember(archive, binName)
	if err != nil {
		return Summary{}, err
	}
	s, err = writeBin(ctx, member, m, names, keys, revised)
	if err != nil {
		return Summary{}, err
	}
	list, err := signAll(s.BinSHA256, signers)
	if err != nil {
		return Summary{}, err
	}
	if member, err = createMember(archive, sigName); err != nil {
		return Summary{}, err
	}
	if _, err := member.Write(list); err != nil {
		return Summary{}, err
	}
	return s, archive.Close()
}

// checkOurs looks at everything but the keys, before anything is written.
func checkOurs(m Meta, signers []Signer) (names []KeyName, err error) {
	for _, s := range signers {
		names = append(names, s.name())
	}
	if err := checkNames(names); err != nil {
		return nil, ours(err, "the signing keys cannot be used")
	}
	for _, s := range signers {
		if _, err := s.public(); err != nil {
			return nil, err
		}
	}
	return names, checkOurMeta(m)
}

func checkOurMeta(m Meta) error {
	if err := checkTimes(m.Start.Unix(), m.End.Unix()); err != nil {
		return ours(err, "the file cannot have these times")
	}
	if m.Start.Nanosecond() != 0 || m.End.Nanosecond() != 0 {
		return errs.New(errs.Internal, ruleTimes, "start and end of a file are whole seconds")
	}
	if err := checkRegion(m.Region); err != nil {
		return ours(err, "the file cannot have this region")
	}
	for _, r := range m.Region {
		if !unicode.IsGraphic(r) {
			return errs.New(errs.Internal, ruleRegion, "the region of a file is printable")
		}
	}
	if m.Region == "" {
		return errs.New(errs.Internal, ruleRegion, "a file has a region")
	}
	return nil
}

func newZip(w io.Writer) *zip.Writer {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, packLevel)
	})
	return z
}

// createMember begins a member without a time of its own, as deployed servers
// have always done: equal content gives equal members, and phones are known to
// read them.
func createMember(z *zip.Writer, name string) (io.Writer, error) {
	return z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
}

func writeBin(ctx context.Context, w io.Writer, m Meta, names []KeyName, keys, revised iter.Seq2[exposure.Exposure, error]) (s Summary, err error) {
	b := &binWriter{w: w, sum: sha256.New(), buf: make([]byte, 0, bufferSize)}
	b.begin(m, names)
	if s.Keys, err = b.putAll(ctx, primaryKeys, keys); err != nil {
		return Summary{}, err
	}
	if s.Revised, err = b.putAll(ctx, revisedKeys, revised); err != nil {
		return Summary{}, err
	}
	if err := b.flush(ctx); err != nil {
		return Summary{}, err
	}
	b.sum.Sum(s.BinSHA256[:0])
	return s, nil
}

// binWriter writes export.bin and hashes it on its way.
type binWriter struct {
	w     io.Writer
	sum   hash.Hash
	buf   []byte
	entry []byte // of one key, kept for its capacity
}

// begin fits the buffer: names are bounded, and so are the signers.
func (b *binWriter) begin(m Meta, names []KeyName) {
	b.buf = append(b.buf, header...)
	b.buf = appendFixed64(b.buf, fieldStart, uint64(m.Start.Unix()))
	b.buf = appendFixed64(b.buf, fieldEnd, uint64(m.End.Unix()))
	b.buf = appendBytes(b.buf, fieldRegion, m.Region)
	b.buf = appendVarint(b.buf, fieldBatchNum, 1)
	b.buf = appendVarint(b.buf, fieldBatchSize, 1)
	for _, n := range names {
		b.buf = appendBytes(b.buf, fieldSignatureInfos, appendSignatureInfo(nil, n))
	}
}

func (b *binWriter) putAll(ctx context.Context, l list, exposures iter.Seq2[exposure.Exposure, error]) (n int, err error) {
	var last exposure.Exposure
	for e, err := range exposures {
		if err != nil {
			return n, err
		}
		if err := checkExposure(e, l); err != nil {
			return n, ours(err, "%s[%d] cannot be published", l, n)
		}
		if n > 0 && Compare(last, e) >= 0 {
			return n, errs.New(errs.Internal, ruleOrder, "%s[%d] is not after the one before it: keys must be ordered, and none stand twice", l, n)
		}
		if err := b.put(ctx, l, e); err != nil {
			return n, err
		}
		last = e
		n++
	}
	return n, nil
}

// maxEntry is above what any key needs.
const maxEntry = 64

func (b *binWriter) put(ctx context.Context, l list, e exposure.Exposure) error {
	if len(b.buf)+maxEntry > cap(b.buf) {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.entry = appendExposure(b.entry[:0], e)
	b.buf = appendBytes(b.buf, protowire.Number(l), b.entry)
	return nil
}

func (b *binWriter) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.sum.Write(b.buf) // never fails
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

// signAll makes export.sig.
func signAll(bin [32]byte, signers []Signer) (list []byte, err error) {
	for _, s := range signers {
		der, err := s.sign(bin)
		if err != nil {
			return nil, err
		}
		list = appendBytes(list, fieldSignatures, appendSignature(nil, s.name(), der))
	}
	return list, nil
}

// sign makes an ASN.1 DER signature, and believes it only once it verifies: a
// key manager whose alias was moved would else sign what no phone accepts.
func (s Signer) sign(digest [32]byte) (der []byte, err error) {
	defer errs.Wrap(&err, "sign(%s)", s.name())

	public, err := s.public()
	if err != nil {
		return nil, err
	}
	der, err = s.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(public, digest[:], der) {
		return nil, errs.New(errs.Internal, ruleSigner, "the key manager's signature does not verify with its own public key: check the version of the signing key")
	}
	return der, nil
}

func (s Signer) public() (*ecdsa.PublicKey, error) {
	if s.Key == nil {
		return nil, errs.New(errs.Internal, ruleSigner, "signing key %s is not opened", s.name())
	}
	public, ok := s.Key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errs.New(errs.Internal, ruleSigner, "signing key %s must be ECDSA on P-256, which is all that phones verify", s.name())
	}
	return public, nil
}
