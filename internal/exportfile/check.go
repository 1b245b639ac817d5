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

	bin, sig, err := openZip(r, size)
	if err != nil {
		return Contents{}, err
	}
	signatures, err := readSignatures(sig.open(r))
	if err != nil {
		return Contents{}, err
	}
	x, keys, err := checkKeys(bin.open(r), bin.size, now)
	if err != nil {
		return Contents{}, err
	}
	if err := x.check(); err != nil {
		return Contents{}, err
	}
	if err := checkSignatures(x, signatures, trusted); err != nil {
		return Contents{}, err
	}
	if err := keys.unique(bin, r); err != nil {
		return Contents{}, err
	}
	return x.contents(), nil
}

func readSignatures(sig io.Reader) ([]signature, error) {
	b, err := io.ReadAll(sig) // the member is bounded by maxSig
	if err != nil {
		return nil, err
	}
	list, err := decodeSignatureList(b)
	errs.Wrap(&err, "%s", sigName)
	return list, err
}

// checkKeys reads export.bin and holds every key against the rules, except that
// against duplicates.
func checkKeys(bin io.Reader, size int64, now time.Time) (export, *fingerprints, error) {
	seen := newFingerprints(size)
	x, err := decode(bin, func(e exposure.Exposure, l list) error {
		seen.add(e.Key)
		if err := checkExposure(e, l); err != nil {
			return err
		}
		return checkReleased(e, now)
	})
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

// checkSignatures compares export.sig with the signature infos of export.bin,
// and verifies what can be verified.
func checkSignatures(x export, signatures []signature, trusted []PublicKey) error {
	if len(signatures) != len(x.infos) {
		return errs.Invalid(ruleSignatureCount, "%s has %d signatures, and %s %d signature infos", sigName, len(signatures), binName, len(x.infos))
	}
	verified := 0
	for i, s := range signatures {
		if s.info != x.infos[i] {
			return errs.Invalid(ruleSignatureOrder, "signature %d of %s is not by what signature info %d of %s names", i, sigName, i, binName)
		}
		if err := checkBatchNumber(s.number, s.size); err != nil {
			return err
		}
		n, err := s.verify(x.sum, trusted)
		if err != nil {
			return err
		}
		verified += n
	}
	if verified == 0 {
		return errs.Invalid(ruleSignature, "none of the %d signatures is by a trusted key", len(signatures))
	}
	return nil
}

// verify counts the trusted keys that made the signature.
func (s signature) verify(bin [32]byte, trusted []PublicKey) (n int, err error) {
	if !strictDER(s.der) {
		return 0, errs.Invalid(ruleSignatureDER, "the signature by %s is not ASN.1 DER of two numbers", s.info.KeyName)
	}
	for _, key := range trusted {
		if key.name() != s.info.KeyName {
			continue
		}
		if !ecdsa.VerifyASN1(key.Key, bin[:], s.der) {
			return 0, errs.Invalid(ruleSignature, "the signature by %s does not verify", s.info.KeyName)
		}
		n++
	}
	return n, nil
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
