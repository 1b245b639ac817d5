package phone

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"enkeyserver/internal/exposure"
)

// Identifier is a rolling proximity identifier (RPI): what a phone broadcasts
// over Bluetooth for one interval.
type Identifier [16]byte

// The published labels of the Exposure Notification cryptography specification
// (v1.2, sections "Rolling Proximity Identifier Key" and "Rolling Proximity
// Identifier").
const (
	identifierKeyInfo = "EN-RPIK"
	identifierLabel   = "EN-RPI"
)

// Identifiers gives what a phone broadcasts with a key, interval by interval.
// Whoever has the key can make them all; whoever has one of them cannot tell
// the key, nor which other identifiers belong to it.
func Identifiers(key exposure.Key, start exposure.Interval, period int32) iter.Seq2[exposure.Interval, Identifier] {
	block, err := aes.NewCipher(identifierKey(key))
	return func(yield func(exposure.Interval, Identifier) bool) {
		if err != nil {
			return // a 16-byte key is always an AES-128 key
		}
		padded := [16]byte{}
		copy(padded[:], identifierLabel)
		for at := start; at < start+exposure.Interval(period); at++ {
			binary.LittleEndian.PutUint32(padded[12:], uint32(at))
			var id Identifier
			block.Encrypt(id[:], padded[:])
			if !yield(at, id) {
				return
			}
		}
	}
}

// identifierKey derives the key (RPIK) with which a day's identifiers are made.
func identifierKey(key exposure.Key) []byte {
	derived, err := hkdf.Key(sha256.New, key[:], nil, identifierKeyInfo, 16)
	if err != nil {
		return nil // only a length beyond 255 hashes fails
	}
	return derived
}
