package exportfile

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/asn1"
	"io"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Check reads a file with the rules that phones enforce. An error of kind
// KindInvalid has the broken rule as its code; any other means that the file
// could not be read.
//
// Every signature whose name is that of a trusted key must verify with it, and
// there must be one: given all the keys that should have signed, that and the
// number of Contents.Signatures prove that all did. now is when the file is
// published: no phone may still accept a key that it holds.
//
// It streams: beside buffers it holds 8 bytes a key. A bomb costs no more than
// its packed size warrants.
func Check(r io.ReaderAt, size int64, trusted []PublicKey, now time.Time) (c Contents, err error) {
	defer errs.Wrap(&err, "exportfile.Check(%d bytes)", size)

	x, signatures, err := examine(r, size, now)
	if err != nil {
		return Contents{}, err
	}
	if err := believe(x.sum, signatures, trusted); err != nil {
		return Contents{}, err
	}
	return x.contents(), nil
}

// CheckUnsigned is Check, but for the question who made the signatures: for
// those who do not know the keys, or learn from the file's times which of them
// counted. Verify answers it.
func CheckUnsigned(r io.ReaderAt, size int64, now time.Time) (c Contents, err error) {
	defer errs.Wrap(&err, "exportfile.CheckUnsigned(%d bytes)", size)

	x, _, err := examine(r, size, now)
	if err != nil {
		return Contents{}, err
	}
	return x.contents(), nil
}

// Verify tells whether a trusted key has signed the export.bin with this hash,
// which is that of the file's Contents. Every signature whose name is that of a
// trusted key must verify with it, and there must be one.
func Verify(r io.ReaderAt, size int64, bin [32]byte, trusted []PublicKey) (err error) {
	defer errs.Wrap(&err, "exportfile.Verify(%d bytes)", size)

	_, sig, err := openZip(r, size)
	if err != nil {
		return err
	}
	signatures, err := readSignatures(sig.open(r), skipUnknown)
	if err != nil {
		return err
	}
	return believe(bin, signatures, trusted)
}

// examine holds a file against all rules that need no public key.
func examine(r io.ReaderAt, size int64, now time.Time) (x export, signatures []signature, err error) {
	bin, sig, err := openZip(r, size)
	if err != nil {
		return export{}, nil, err
	}
	signatures, err = readSignatures(sig.open(r), field.unknown)
	if err != nil {
		return export{}, nil, err
	}
	x, keys, err := checkKeys(bin.open(r), bin.size, now)
	if err != nil {
		return export{}, nil, err
	}
	if err := x.check(); err != nil {
		return export{}, nil, err
	}
	if err := checkSignatures(x, signatures); err != nil {
		return export{}, nil, err
	}
	return x, signatures, keys.unique(bin, r)
}

func readSignatures(sig io.Reader, unknown skipper) ([]signature, error) {
	b, err := io.ReadAll(sig) // the member is bounded by maxSig
	if err != nil {
		return nil, err
	}
	list, err := decodeSignatureList(b, unknown)
	errs.Wrap(&err, "%s", sigName)
	return list, err
}

// checkKeys reads export.bin and holds every key against the rules, except that
// against duplicates.
func checkKeys(bin io.Reader, size int64, now time.Time) (export, *fingerprints, error) {
	seen := newFingerprints(size)
	x, err := decode(bin, strictly(func(e exposure.Exposure, l list) error {
		seen.add(e.Key)
		if err := checkExposure(e, l); err != nil {
			return err
		}
		return checkReleased(e, now)
	}))
	errs.Wrap(&err, "%s", binName)
	return x, seen, err
}

// check holds everything but the keys against the rules.
func (x export) check() error {
	if err := checkTimes(x.start, x.end); err != nil {
		return err
	}
	if err := checkRegion(x.region); err != nil {
		return err
	}
	if err := checkBatchNumber(x.number, x.size); err != nil {
		return err
	}
	for _, info := range x.infos {
		if info.algorithm != ecdsaP256SHA256 {
			return errs.Invalid(ruleSignatureAlgo, "the signature algorithm is %q, and must be %s", info.algorithm, ecdsaP256SHA256)
		}
	}
	return checkNames(x.names())
}

// checkSignatures compares export.sig with the signature infos of export.bin.
func checkSignatures(x export, signatures []signature) error {
	if len(signatures) != len(x.infos) {
		return errs.Invalid(ruleSignatureCount, "%s has %d signatures, and %s %d signature infos", sigName, len(signatures), binName, len(x.infos))
	}
	for i, s := range signatures {
		if s.info != x.infos[i] {
			return errs.Invalid(ruleSignatureOrder, "signature %d of %s is not by what signature info %d of %s names", i, sigName, i, binName)
		}
		if err := checkBatchNumber(s.number, s.size); err != nil {
			return err
		}
		if !strictDER(s.der) {
			return errs.Invalid(ruleSignatureDER, "the signature by %s is not ASN.1 DER of two numbers", s.info.KeyName)
		}
	}
	return nil
}

// believe verifies what can be verified.
func believe(bin [32]byte, signatures []signature, trusted []PublicKey) error {
	verified := 0
	for _, s := range signatures {
		for _, key := range trusted {
			if key.name() != s.info.KeyName {
				continue
			}
			if !ecdsa.VerifyASN1(key.Key, bin[:], s.der) {
				return errs.Invalid(ruleSignature, "the signature by %s does not verify", s.info.KeyName)
			}
			verified++
		}
	}
	if verified == 0 {
		return errs.Invalid(ruleSignature, "none of the %d signatures is by a trusted key", len(signatures))
	}
	return nil
}

// strictDER tells whether a signature is what every phone can parse, also when
// nobody here has the key to verify it.
func strictDER(der []byte) bool {
	var numbers ecdsaSignature
	rest, err := asn1.Unmarshal(der, &numbers)
	if err != nil || len(rest) > 0 || numbers.R.Sign() <= 0 || numbers.S.Sign() <= 0 {
		return false
	}
	again, err := asn1.Marshal(numbers)
	return err == nil && bytes.Equal(again, der)
}
