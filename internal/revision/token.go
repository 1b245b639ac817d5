package revision

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"

	"enkeyserver/internal/exposure"
)

// A token is, in bytes:
//
//	version     1   always 1
//	key id      4   which key of the ring sealed it
//	nonce      12   random
//	ciphertext  n   AES-256-GCM of the slots below
//	tag        16
//
// and the slots are: how many keys are real (2), then for each key its bytes
// (16), start (4) and period (1). Empty slots fill the last group, so that the
// length of a token tells little of how many keys a phone has uploaded.
// Numbers are big-endian. The tag also covers version, key id and the AAD of
// the settings.
const (
	version    = 1
	headerSize = 1 + 4
	countSize  = 2
	slotSize   = exposure.KeySize + 4 + 1
	groupSize  = 30 // keys; fixed by the wire contract
	sealing    = 12 + 16

	// MaxKeys is how many keys a token may name. An upload has 30 keys, and a
	// phone uploads rarely more than once a day of the two weeks in which its
	// keys count: 16 full uploads fit. Of more keys the newest are named.
	MaxKeys = 16 * groupSize
)

// maxText is the length of the longest token, in base64.
var maxText = base64.StdEncoding.EncodedLen(headerSize + sealing + slotsSize(MaxKeys))

// slotsSize is the plaintext's size for a number of keys.
func slotsSize(keys int) int {
	groups := max(1, (keys+groupSize-1)/groupSize)
	return countSize + groups*groupSize*slotSize
}

// header is the clear part of a token made with a key.
func header(keyID uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{version}, keyID)
}

// decode takes a token's text apart. It reports false for whatever cannot be a
// token of ours, which is most of the noise that phones send.
func decode(text string) (keyID uint32, raw []byte, ok bool) {
	if text == "" || len(text) > maxText {
		return 0, nil, false
	}
	raw, err := exposure.DecodeBase64(text)
	if err != nil || len(raw) < headerSize+sealing || raw[0] != version {
		return 0, nil, false
	}
	slots := len(raw) - headerSize - sealing - countSize
	if slots <= 0 || slots%(groupSize*slotSize) != 0 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(raw[1:]), raw, true
}

// pack writes covered keys into slots.
func pack(covered []exposure.Covered) []byte {
	size := slotsSize(len(covered))
	slots := make([]byte, 0, size)
	slots = binary.BigEndian.AppendUint16(slots, uint16(len(covered)))
	for _, c := range covered {
		slots = append(slots, c.Key[:]...)
		slots = binary.BigEndian.AppendUint32(slots, uint32(c.Start))
		slots = append(slots, uint8(c.Period))
	}
	return append(slots, make([]byte, size-len(slots))...)
}

// unpack reads slots. They were authenticated: that they are wrong means a
// form that this version does not know.
func unpack(slots []byte) (covered []exposure.Covered, ok bool) {
	count := int(binary.BigEndian.Uint16(slots))
	slots = slots[countSize:]
	if count*slotSize > len(slots) {
		return nil, false
	}
	for i := range count {
		slot := slots[i*slotSize:]
		covered = append(covered, exposure.Covered{
			Key:    exposure.Key(slot[:exposure.KeySize]),
			Start:  exposure.Interval(binary.BigEndian.Uint32(slot[exposure.KeySize:])),
			Period: int32(slot[slotSize-1]),
		})
	}
	return covered, true
}

// newCipher makes the cipher of an unwrapped key. Nonces are random: with 96
// bits, a key may seal 2^32 tokens.
func newCipher(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
