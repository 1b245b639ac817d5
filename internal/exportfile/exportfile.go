// Package exportfile reads, writes and checks the signed zip that phones
// download, and its index.
//
// It is pure: bytes come in and go out, and time is an argument. One bad byte
// here blinds every phone of a country, for a phone that refuses one file of an
// index refuses all that follow. So Write never emits what breaks a rule of
// rules.go, and Check finds whatever breaks one, in files of other servers and
// of bugs alike. Both hold a buffer, not a file: their memory does not grow with
// it, except for the 8 bytes a key with which Check finds duplicates.
package exportfile

import (
	"crypto"
	"crypto/ecdsa"
	"time"
)

// What the bucket should say about the objects.
const (
	ContentTypeZip  = "application/zip"
	ContentTypeText = "text/plain; charset=utf-8"
	ContentTypeJSON = "application/json"
	ContentTypeJOSE = "application/jose+json"

	// CacheFile: a file never changes, so caches keep it for good.
	CacheFile = "public, max-age=31536000, immutable"

	// CacheIndex: caches ask again after five minutes. A file stays
	// downloadable for longer than this after its index dropped it.
	CacheIndex = "public, max-age=300"
)

// MaxSigners is how many signatures phones accept on a file.
const MaxSigners = 10

// MaxKeys is how many keys a file may be planned to hold. Check reads 512 MiB,
// some 15 million keys; a larger file would be made and then refused for ever.
const MaxKeys = 10_000_000

// Meta is what a file says about itself. The times are whole seconds.
type Meta struct {
	Start, End time.Time // identify the file among all of an index
	Region     string
}

// Signer is a private key and the name under which phones know its public half.
// Both parts of the name consist of letters, digits and underscores.
type Signer struct {
	Key         crypto.Signer // ECDSA P-256; gives ASN.1 DER
	ID, Version string
}

func (s Signer) name() KeyName { return KeyName{ID: s.ID, Version: s.Version} }

// PublicKey is a key that verifies signatures made under its name.
type PublicKey struct {
	ID, Version string
	Key         *ecdsa.PublicKey
}

func (k PublicKey) name() KeyName { return KeyName{ID: k.ID, Version: k.Version} }

// KeyName is how a signature says which key verifies it.
type KeyName struct{ ID, Version string }

// String is the form in which phones look a key up.
func (n KeyName) String() string { return n.ID + "-" + n.Version }

// Summary is what Write has written.
type Summary struct {
	Keys, Revised int
	BinSHA256     [32]byte // of export.bin: equal for equal content, unlike the zip with its signatures
}

// Contents is what a file holds.
type Contents struct {
	Meta
	Keys, Revised int
	BinSHA256     [32]byte
	Signatures    []KeyName // in the order of the file: newest key first
}
