package attestation

import "time"

// VerifyAppleAt checks an App Attest object against Apple's own root.
func VerifyAppleAt(object, clientDataHash []byte, i IOS, now time.Time) error {
	roots, err := newAnchors("", "", appleRoot)
	if err != nil {
		return err
	}
	return verifyAttestation(object, clientDataHash, &i, roots, now)
}

// Parsers are all that read what strangers wrote.
func Parsers() map[string]func([]byte) {
	return map[string]func([]byte){
		"attestation": func(b []byte) { _, _, _ = parseAttestation(b) },
		"assertion":   func(b []byte) { _, _ = parseAsserted(b) },
		"attested":    func(b []byte) { _, _ = parseAttested(b) },
		"cose":        func(b []byte) { authData{key: b}.holds(b) },
		"verdict":     func(b []byte) { _, _ = parsePlay(b) },
		"header":      func(b []byte) { headerChain(string(b)); compressed(string(b)) },
		"policy":      func(b []byte) { _, _ = ParsePolicy(b) },
	}
}

// AppleRoot is what is built in.
const AppleRootFingerprint = "1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932"

// AppleRoot gives the root that is built in.
func AppleRoot() string { return appleRoot }

// RememberMax bounds what is remembered of each vendor.
const RememberMax = rememberMax

// EnoughForeign is after how many tokens that nothing opens our keys are blamed.
const EnoughForeign = enoughForeign

// Remembered counts the answers of Google and Apple that are held.
func (v *Verifier) Remembered() (google, apple int) {
	return len(v.decoded.values), len(v.checked.values)
}
