package exportfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"

	"enkeyserver/internal/errs"
)

// index.sig.json is a JWS in general JSON serialisation (RFC 7515, section
// 7.2.1) whose payload is detached (appendix F): the bytes of index.json. What
// is signed is the protected header, a dot and the payload, both in base64url.

type jws struct {
	Payload    json.RawMessage `json:"payload,omitempty"` // must not be there
	Signatures []jwsSignature  `json:"signatures"`
}

type jwsSignature struct {
	Protected string `json:"protected"`
	Signature string `json:"signature"` // r and s, 32 bytes each
}

// jwsHeader knows all parameters that may stand in a protected header. "crit"
// and "b64" change what is signed, so they are not among them.
type jwsHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

const es256 = "ES256"

// coordinateSize is the length of r and of s.
const coordinateSize = 32

// maxJWS bounds what is read: a signature takes 200 bytes.
const maxJWS = 64 << 10

// SignIndex makes index.sig.json of the bytes of index.json: one signature by
// each signer, newest first, with the key's name as "kid".
func SignIndex(index []byte, signers []Signer) (_ []byte, err error) {
	defer errs.Wrap(&err, "SignIndex(%d bytes)", len(index))

	var names []KeyName
	var out jws
	for _, s := range signers {
		signed, err := s.signJWS(index)
		if err != nil {
			return nil, err
		}
		names = append(names, s.name())
		out.Signatures = append(out.Signatures, signed)
	}
	if err := checkNames(names); err != nil {
		return nil, ours(err, "the signing keys cannot be used")
	}
	return json.Marshal(out)
}

func (s Signer) signJWS(payload []byte) (jwsSignature, error) {
	header, err := json.Marshal(jwsHeader{Algorithm: es256, KeyID: s.name().String()})
	if err != nil {
		return jwsSignature{}, err
	}
	protected := base64.RawURLEncoding.EncodeToString(header)
	der, err := s.sign(jwsDigest(protected, payload))
	if err != nil {
		return jwsSignature{}, err
	}
	raw, err := coordinates(der)
	if err != nil {
		return jwsSignature{}, err
	}
	return jwsSignature{Protected: protected, Signature: base64.RawURLEncoding.EncodeToString(raw)}, nil
}

func jwsDigest(protected string, payload []byte) [32]byte {
	input := append([]byte(protected), '.')
	return sha256.Sum256(base64.RawURLEncoding.AppendEncode(input, payload))
}

// VerifyIndex tells whether sig, an index.sig.json, is of these bytes of
// index.json. As with files, every signature whose name is that of a trusted
// key must verify, and there must be one.
func VerifyIndex(index, sig []byte, trusted []PublicKey) (err error) {
	defer errs.Wrap(&err, "VerifyIndex(%d bytes)", len(index))

	signatures, err := parseJWS(sig)
	if err != nil {
		return err
	}
	verified := 0
	for _, s := range signatures {
		n, err := s.verify(index, trusted)
		if err != nil {
			return err
		}
		verified += n
	}
	if verified == 0 {
		return errs.Invalid(ruleSignature, "none of the %d signatures of the index is by a trusted key", len(signatures))
	}
	return nil
}

func parseJWS(sig []byte) ([]jwsSignature, error) {
	if len(sig) > maxJWS {
		return nil, errs.Invalid(ruleSize, "the signatures of an index have at most %d bytes", maxJWS)
	}
	var in jws
	if err := json.Unmarshal(sig, &in); err != nil {
		return nil, errs.From(err, errs.KindInvalid, ruleMessage, "the signatures of the index are not a JWS")
	}
	if in.Payload != nil {
		return nil, errs.Invalid(ruleMessage, "the signatures of an index have no payload of their own")
	}
	if len(in.Signatures) < 1 || len(in.Signatures) > MaxSigners {
		return nil, errs.Invalid(ruleSignatureCount, "the index has %d signatures, and must have 1..%d", len(in.Signatures), MaxSigners)
	}
	return in.Signatures, nil
}

// verify counts the trusted keys that made the signature.
func (s jwsSignature) verify(payload []byte, trusted []PublicKey) (n int, err error) {
	header, err := s.header()
	if err != nil {
		return 0, err
	}
	der, err := s.der()
	if err != nil {
		return 0, err
	}
	digest := jwsDigest(s.Protected, payload)
	for _, key := range trusted {
		if key.name().String() != header.KeyID {
			continue
		}
		if !ecdsa.VerifyASN1(key.Key, digest[:], der) {
			return 0, errs.Invalid(ruleSignature, "the signature of the index by %s does not verify", key.name())
		}
		n++
	}
	return n, nil
}

func (s jwsSignature) header() (h jwsHeader, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s.Protected)
	if err != nil {
		return h, errs.Invalid(ruleMessage, "a protected header is not base64url")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&h); err != nil {
		return h, errs.From(err, errs.KindInvalid, ruleMessage, "a protected header has alg and kid, and nothing else")
	}
	if _, err := decoder.Token(); err != io.EOF {
		return h, errs.Invalid(ruleMessage, "a protected header has something behind its end")
	}
	if h.Algorithm != es256 {
		return h, errs.Invalid(ruleSignatureAlgo, "the algorithm of an index signature is %s", es256)
	}
	return h, nil
}

// der is the form in which crypto/ecdsa verifies.
func (s jwsSignature) der() ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s.Signature)
	if err != nil || len(raw) != 2*coordinateSize {
		return nil, errs.Invalid(ruleSignatureDER, "a signature of an index is base64url of %d bytes", 2*coordinateSize)
	}
	return asn1.Marshal(ecdsaSignature{
		R: new(big.Int).SetBytes(raw[:coordinateSize]),
		S: new(big.Int).SetBytes(raw[coordinateSize:]),
	})
}

// ecdsaSignature is the ASN.1 form.
type ecdsaSignature struct{ R, S *big.Int }

// coordinates turns what key managers give into what a JWS holds.
func coordinates(der []byte) ([]byte, error) {
	var s ecdsaSignature
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, err
	}
	raw := make([]byte, 2*coordinateSize)
	s.R.FillBytes(raw[:coordinateSize])
	s.S.FillBytes(raw[coordinateSize:])
	return raw, nil
}
