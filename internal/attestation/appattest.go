package attestation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// attestationObject is what DCAppAttestService.attestKey gives.
type attestationObject struct {
	Format    string `cbor:"fmt"`
	Statement struct {
		Chain   [][]byte        `cbor:"x5c"` // leaf, intermediate
		Receipt cbor.RawMessage `cbor:"receipt"`
	} `cbor:"attStmt"`
	AuthData []byte `cbor:"authData"`
}

const appAttestFormat = "apple-appattest"

// nonceExtension is where Apple put, into the certificate, what the key was
// attested for.
var nonceExtension = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 2}

// looksLikeAppAttest tells an attestation object from a DeviceCheck token: it
// starts a CBOR map of three.
func looksLikeAppAttest(raw []byte) bool { return len(raw) > 0 && raw[0] == 0xa3 }

// verifyAttestation follows Apple's "Validating apps that connect to your
// server", in its order. clientDataHash is what the phone gave to attestKey.
func verifyAttestation(raw, clientDataHash []byte, i *IOS, roots *anchors, now time.Time) error {
	if err := roots.configured(); err != nil {
		return err
	}
	object, data, err := parseAttestation(raw)
	if err != nil {
		return err
	}
	leaf, err := roots.appleLeaf(object.Statement.Chain, now)
	if err != nil {
		return err
	}
	if !attestedFor(leaf, nonceOf(object.AuthData, clientDataHash)) {
		return Refused("it was not made for this upload")
	}
	if err := data.checkKey(leaf); err != nil {
		return err
	}
	return data.checkAttested(i)
}

func parseAttestation(raw []byte) (object attestationObject, data authData, err error) {
	if strictCBOR.Unmarshal(raw, &object) != nil {
		return object, data, Refused("it is not the CBOR of an attestation object")
	}
	if object.Format != appAttestFormat {
		return object, data, Refused("its format is not %s", appAttestFormat)
	}
	data, err = parseAttested(object.AuthData)
	return object, data, err
}

// appleLeaf gives the certificate of the attested key, if Apple issued it.
func (a *anchors) appleLeaf(ders [][]byte, now time.Time) (*x509.Certificate, error) {
	if len(ders) != 2 {
		return nil, Refused("it does not hold two certificates")
	}
	chain, ok := parseChain(ders)
	if !ok {
		return nil, Refused("its certificates cannot be read")
	}
	leaf := chain[0]
	if _, ok := pointOf(leaf); !ok {
		return nil, Refused("its key is not P-256")
	}
	if !a.believes(leaf, chain[1], now) {
		return nil, Refused("its certificates do not lead to Apple's root now")
	}
	return leaf, nil
}

// pointOf gives a P-256 key as its point, uncompressed.
func pointOf(leaf *x509.Certificate) ([]byte, bool) {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, false
	}
	point, err := key.Bytes()
	return point, err == nil
}

// nonceOf ties the authenticator data to the client's.
func nonceOf(authData, clientDataHash []byte) [sha256.Size]byte {
	return sha256.Sum256(slices.Concat(authData, clientDataHash))
}

func attestedFor(leaf *x509.Certificate, nonce [sha256.Size]byte) bool {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(nonceExtension) {
			continue
		}
		var said struct {
			Nonce []byte `asn1:"tag:1,explicit"`
		}
		rest, err := asn1.Unmarshal(e.Value, &said)
		return err == nil && len(rest) == 0 && subtle.ConstantTimeCompare(said.Nonce, nonce[:]) == 1
	}
	return false
}

// checkKey tells whether certificate, key id and COSE key are about one key.
func (d authData) checkKey(leaf *x509.Certificate) error {
	point, ok := pointOf(leaf)
	if !ok {
		return Refused("its key is not P-256")
	}
	if id := sha256.Sum256(point); !bytes.Equal(id[:], d.credential) {
		return Refused("its key id is not that of its certificate")
	}
	if !d.holds(point) {
		return Refused("its public key is not that of its certificate")
	}
	return nil
}

// coseKey is a P-256 key in COSE.
type coseKey struct {
	Type      int    `cbor:"1,keyasint"`
	Algorithm int    `cbor:"3,keyasint"`
	Curve     int    `cbor:"-1,keyasint"`
	X         []byte `cbor:"-2,keyasint"`
	Y         []byte `cbor:"-3,keyasint"`
}

const (
	coseEC2   = 2
	coseES256 = -7
	coseP256  = 1
)

// holds tells whether the COSE key is the point, uncompressed.
func (d authData) holds(point []byte) bool {
	var k coseKey
	return strictCBOR.Unmarshal(d.key, &k) == nil &&
		k.Type == coseEC2 && k.Algorithm == coseES256 && k.Curve == coseP256 &&
		bytes.Equal(slices.Concat([]byte{4}, k.X, k.Y), point)
}

func (d authData) checkAttested(i *IOS) error {
	if err := d.checkApp(i); err != nil {
		return err
	}
	if d.counter != 0 {
		return Refused("its key was used before")
	}
	if want, known := aaguid(i.Environment); !known || d.aaguid != want {
		return Refused("it is not of the environment %s", i.Environment)
	}
	return d.checkSource(i)
}

// aaguid is the name of an environment, sixteen bytes long; the shorter one
// must not be mistaken for a beginning of the longer.
func aaguid(e Environment) (id [16]byte, known bool) {
	switch e {
	case Production:
		copy(id[:], "appattest")
	case Development:
		copy(id[:], "appattestdevelop")
	default:
		return id, false
	}
	return id, true
}

// checkApp tells whether the key belongs to an app of the policy.
func (d authData) checkApp(i *IOS) error {
	for _, bundle := range i.BundleIDs {
		if d.app == sha256.Sum256([]byte(i.TeamID+"."+bundle)) {
			return nil
		}
	}
	return Refused("it is of another app")
}

// strictCBOR knows one way to write each thing, tolerantCBOR also takes fields
// that later systems may add. Neither ever changes.
var (
	strictCBOR   = mode(cbor.ExtraDecErrorUnknownField)
	tolerantCBOR = mode(cbor.ExtraDecErrorNone)
)

func mode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: extra,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
	}.DecMode()
	if err != nil {
		panic(fmt.Sprintf("attestation: these options of CBOR are constants: %v", err))
	}
	return m
}

// VerifyAssertion checks an assertion, made with a key that was attested before.
// clientDataHash is what the phone gave to generateAssertion. Counter is for
// the caller to compare with the one stored, and to store, in one step: it must
// be greater, or the assertion was used before.
//
// Keeping a key links all uploads of a phone; uploads are attested with a fresh
// key each instead. This is for where linking does no harm.
func VerifyAssertion(raw, clientDataHash []byte, key *ecdsa.PublicKey, i IOS) (counter uint32, err error) {
	if len(raw) > maxAssertion {
		return 0, Refused("the assertion has more than %d bytes", maxAssertion)
	}
	var object struct {
		Signature []byte `cbor:"signature"`
		AuthData  []byte `cbor:"authenticatorData"`
	}
	if strictCBOR.Unmarshal(raw, &object) != nil {
		return 0, Refused("it is not the CBOR of an assertion")
	}
	data, err := parseAsserted(object.AuthData)
	if err != nil {
		return 0, err
	}
	// The nonce is the message, not the digest, of the signature.
	nonce := nonceOf(object.AuthData, clientDataHash)
	if message := sha256.Sum256(nonce[:]); !ecdsa.VerifyASN1(key, message[:], object.Signature) {
		return 0, Refused("its signature does not verify")
	}
	if err := data.checkApp(&i); err != nil {
		return 0, err
	}
	if data.counter == 0 {
		return 0, Refused("its counter is zero")
	}
	return data.counter, data.checkSource(&i)
}

// maxAssertion bounds an assertion; real ones have less than 200 bytes.
const maxAssertion = 1 << 10
