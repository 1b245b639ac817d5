// Package jwks takes over the keys that health authorities publish as key sets
// (JWKS, RFC 7517), and revokes those that disappear.
//
// A set says which keys are accepted, and no more than that: a set that cannot be
// had, or not be understood as a whole, says nothing, and nothing changes.
package jwks

import (
	"bytes"
	"cmp"
	"slices"
	"unicode"
	"unicode/utf8"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

const (
	// maxSet bounds the text of a set. A key takes some 200 bytes.
	maxSet = 64 << 10

	// maxKeys bounds the keys of a set, of all kinds.
	maxKeys = 100

	// maxKeyID bounds the name of a key, in bytes.
	maxKeyID = 255
)

// Set is what a key set says.
type Set struct {
	Keys    []store.DiscoveredKey // with which certificates can be signed, by version
	Exposed []string              // keys, in PEM, that came with their private half
	Ignored map[string]int        // how many others there are, by the reason
}

// Parse reads a set: an object with keys, or a bare array. It is pure.
//
// Keys of other kinds and for other uses are counted, for an authority may have
// them in its set. What is damaged or ambiguous refuses the set as a whole: to
// leave out a part would revoke it. So does a set without any key to accept,
// which would lock all phones of the authority out.
//
// Whatever is wrong, Exposed is good: whoever has read the private half of a key
// can make certificates with it.
func Parse(text []byte) (Set, error) {
	s := Set{Ignored: map[string]int{}}
	members, err := membersOf(text)
	if err != nil {
		return s, err
	}
	// To the end, even after a problem: the last key may be exposed.
	var first error
	for _, m := range members {
		if err := s.add(m); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		s.Keys = nil
		return s, first
	}
	s.Keys = slices.DeleteFunc(s.Keys, func(k store.DiscoveredKey) bool { return slices.Contains(s.Exposed, k.PublicKey) })
	if len(s.Keys) == 0 {
		return s, errs.Invalid("jwks_empty", "the set holds no public key that can be accepted (of %d): P-256, with a kid, for ES256 signatures", len(members))
	}
	return s, nil
}

// member is what we look at in a key. The parser takes names by their case, and
// refuses an object that has one twice.
type member struct {
	Type   string   `json:"kty"`
	Curve  string   `json:"crv"`
	Use    string   `json:"use"`
	Ops    []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	ID     string   `json:"kid"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	Secret *string  `json:"d"` // of the private half; never read
}

func membersOf(text []byte) ([]member, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	var into any = &set
	if bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("[")) {
		into = &set.Keys
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, errs.Invalid("jwks_text", "what is at the address is not a key set: neither an object with keys nor an array, in JSON")
	}
	if len(set.Keys) > maxKeys {
		return nil, errs.Invalid("jwks_many", "the set holds more than %d keys", maxKeys)
	}
	members := make([]member, len(set.Keys))
	for i, raw := range set.Keys {
		if err := json.Unmarshal(raw, &members[i]); err != nil {
			return nil, errs.Invalid("jwks_text", "number %d in the set is not a key in JSON", i+1)
		}
	}
	return members, nil
}

func (s *Set) add(m member) error {
	reason := m.other()
	exposed := m.Secret != nil && m.Type == "EC" && m.Curve == "P-256" // whatever it says that it is for
	if reason != "" && !exposed {
		s.Ignored[reason]++
		return nil
	}
	public, err := m.public()
	if err != nil {
		return err
	}
	if exposed {
		s.Exposed = append(s.Exposed, public)
		return nil
	}
	return s.accept(store.DiscoveredKey{Version: m.ID, PublicKey: public})
}

// accept adds a key, once. Two keys of one name would leave it to their order
// which of them is meant.
func (s *Set) accept(k store.DiscoveredKey) error {
	at, there := slices.BinarySearchFunc(s.Keys, k, func(a, b store.DiscoveredKey) int { return cmp.Compare(a.Version, b.Version) })
	if !there {
		s.Keys = slices.Insert(s.Keys, at, k)
		return nil
	}
	if s.Keys[at].PublicKey != k.PublicKey {
		return errs.Invalid("jwks_ambiguous", "two different keys of the set have the same kid")
	}
	return nil
}

// other tells why a key is none of those that sign certificates, or "".
func (m member) other() string {
	switch {
	case m.Type != "EC":
		return "another type"
	case m.Curve != "P-256":
		return "another curve"
	case m.Use != "" && m.Use != "sig", len(m.Ops) > 0 && !slices.Contains(m.Ops, "verify"):
		return "another use"
	case m.Alg != "" && m.Alg != "ES256":
		return "another algorithm"
	case m.ID == "":
		return "no kid"
	case !usable(m.ID):
		return "a kid too long or not printable"
	}
	return ""
}

// usable tells whether a kid can be stored, shown and compared.
func usable(id string) bool {
	if len(id) > maxKeyID || !utf8.ValidString(id) {
		return false
	}
	for _, r := range id {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// public gives the public half in PEM. The library insists on whole coordinates
// of a point on the curve.
func (m member) public() (string, error) {
	damaged := errs.Invalid("jwks_point", "a key of the set is damaged: its x and y are not a point of P-256")
	text, err := json.Marshal(map[string]string{"kty": m.Type, "crv": m.Curve, "x": m.X, "y": m.Y})
	if err != nil {
		return "", damaged
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return "", damaged
	}
	pem, err := keys.PublicPEM(key.Key)
	return string(pem), err
}
