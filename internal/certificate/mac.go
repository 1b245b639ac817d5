package certificate

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"enkeyserver/internal/exposure"
)

// MAC is the HMAC-SHA256 that ties a certificate to keys: a phone makes it of
// the keys that it will send and gives it to the authority, which signs it
// without learning the keys.
func MAC(sent []exposure.Submitted, secret []byte) []byte {
	return mac(exposure.SignedText(sent), secret)
}

// covers tells whether a claim is the HMAC of the keys. Phones that do not
// know transmission risk leave it out; that is no ambiguity as long as every
// risk is zero.
func covers(claim string, sent []exposure.Submitted, secret []byte) bool {
	got, err := exposure.DecodeBase64(claim)
	if err != nil {
		return false
	}
	if hmac.Equal(got, MAC(sent, secret)) {
		return true
	}
	return noRisk(sent) && hmac.Equal(got, mac(exposure.SignedTextWithoutRisk(sent), secret))
}

func mac(text, secret []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(text)
	return h.Sum(nil)
}

func noRisk(sent []exposure.Submitted) bool {
	return !slices.ContainsFunc(sent, func(s exposure.Submitted) bool { return s.Risk != 0 })
}
