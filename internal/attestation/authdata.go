package attestation

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// Where things stand in authenticator data. Behind the fixed part, iOS 27 and
// later put one map of extensions, whatever the flags say.
const (
	atFlags      = 32
	atCounter    = 33
	atAAGUID     = 37
	atLength     = 53
	atCredential = 55
	atKey        = 87
	endAttested  = 164
	endAsserted  = 37
)

// flagAttested says that a credential follows.
const flagAttested = 0x40

// authData is what a phone's secure processor signed.
type authData struct {
	app     [sha256.Size]byte // hash of the App ID
	counter uint32

	// Of attestations only.
	aaguid     [16]byte
	credential []byte // the key id
	key        []byte // in COSE

	extensions *extensions // nil: none
}

// extensions are what iOS 27 and later add.
type extensions struct {
	Category cbor.RawMessage `cbor:"apple_validation_category_01"`
}

// parseAttested reads the authenticator data of an attestation.
func parseAttested(raw []byte) (d authData, err error) {
	if len(raw) < endAttested {
		return d, Refused("its authenticator data is too short")
	}
	if raw[atFlags]&flagAttested == 0 || binary.BigEndian.Uint16(raw[atLength:]) != sha256.Size {
		return d, Refused("its authenticator data has no credential of %d bytes", sha256.Size)
	}
	d = fixed(raw)
	copy(d.aaguid[:], raw[atAAGUID:atLength])
	d.credential, d.key = raw[atCredential:atKey], raw[atKey:endAttested]
	return d, d.extend(raw[endAttested:])
}

// parseAsserted reads the authenticator data of an assertion.
func parseAsserted(raw []byte) (d authData, err error) {
	if len(raw) < endAsserted {
		return d, Refused("its authenticator data is too short")
	}
	d = fixed(raw)
	return d, d.extend(raw[endAsserted:])
}

func fixed(raw []byte) (d authData) {
	copy(d.app[:], raw)
	d.counter = binary.BigEndian.Uint32(raw[atCounter:])
	return d
}

// majorMap is the CBOR type of a map. The decoder alone would take null for one.
const majorMap = 5

func (d *authData) extend(rest []byte) error {
	if len(rest) == 0 {
		return nil
	}
	d.extensions = &extensions{}
	if rest[0]>>5 != majorMap || tolerantCBOR.Unmarshal(rest, d.extensions) != nil {
		return Refused("its authenticator data does not end with one map of extensions")
	}
	return nil
}

// checkSource tells whether the app came from where the policy says. Older
// systems do not tell.
func (d authData) checkSource(i *IOS) error {
	if d.extensions == nil || d.extensions.Category == nil {
		return nil
	}
	category, ok := d.extensions.category()
	if !ok || !slices.Contains(i.Sources, sourceOf(category)) {
		return Refused("the app does not come from where this app may come from")
	}
	return nil
}

// category is documented as a number and sent as four bytes, the lowest first.
func (e extensions) category() (uint32, bool) {
	var number uint32
	if tolerantCBOR.Unmarshal(e.Category, &number) == nil {
		return number, true
	}
	var word []byte
	if tolerantCBOR.Unmarshal(e.Category, &word) == nil && len(word) == 4 {
		return binary.LittleEndian.Uint32(word), true
	}
	return 0, false
}

// sourceOf names a validation category; "" is one that is never right.
func sourceOf(category uint32) Source {
	switch category {
	case 1:
		return FromSystem
	case 2:
		return FromTestFlight
	case 3:
		return FromDevelopment
	case 4:
		return FromAppStore
	case 5:
		return FromEnterprise
	case 6:
		return FromDeveloperID
	case 10:
		return FromAnotherPlace
	}
	return ""
}
