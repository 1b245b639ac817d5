package attestation

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"io"

	"enkeyserver/internal/exposure"
)

// digestVersion starts the text, so that a later one can never be taken for it.
const digestVersion = "v1"

// Digest is what the proof of an upload must be bound to. Without that, the
// proof of one device could carry the keys of another.
type Digest [sha256.Size]byte

// DigestOf is the SHA-256 of
//
//	v1|<healthAuthorityID>|<keys>|<verificationPayload>
//
// with the texts exactly as sent, and the keys as exposure.SignedText writes
// them. No valid key, certificate or registered app holds a separator, so two
// uploads that could be published have two digests.
func DigestOf(app string, sent []exposure.Submitted, certificate string) (d Digest) {
	h := sha256.New()
	for _, part := range []string{digestVersion, app, string(exposure.SignedText(sent))} {
		_, _ = io.WriteString(h, part+"|") // a hash takes everything
	}
	_, _ = io.WriteString(h, certificate)
	h.Sum(d[:0])
	return d
}

// Text is the digest as Android apps give it to Google, as nonce or as request
// hash: 43 characters, none of which anything on the way would change.
func (d Digest) Text() string { return base64.RawURLEncoding.EncodeToString(d[:]) }

// isBase64 tells whether a text is the digest in any form of base64.
func (d Digest) isBase64(text string) bool {
	raw, err := exposure.DecodeBase64(text)
	return err == nil && d.equals(raw)
}

func (d Digest) equals(raw []byte) bool { return subtle.ConstantTimeCompare(d[:], raw) == 1 }
