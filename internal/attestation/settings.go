package attestation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
)

// Settings are the keys and roots with which proofs are checked here. What
// differs from app to app stands in its Policy.
type Settings struct {
	PlayDecryptionKey   string `envconfig:"PLAY_INTEGRITY_DECRYPTION_KEY" desc:"secret; base64 of the key with which Google encrypts classic Play Integrity tokens, from the Play Console; for several apps package:key,package:key; empty: no classic tokens"`
	PlayVerificationKey string `envconfig:"PLAY_INTEGRITY_VERIFICATION_KEY" desc:"base64 of the public key with which Google signs them, from the same page; for several apps package:key,package:key"`

	AppAttestRoots string `envconfig:"APP_ATTEST_ROOTS" desc:"development only: PEM certificates that are trusted in place of Apple's App Attest root"`
	SafetyNetRoots string `envconfig:"SAFETYNET_ROOTS" desc:"development only, as nobody makes genuine SafetyNet proofs any more: PEM certificates trusted for them; empty: none are believed"`
}

// check refuses in production what believes anybody but Google and Apple.
func (s Settings) check(developmentOnly func(name string, set bool) error) error {
	if err := developmentOnly("APP_ATTEST_ROOTS", s.AppAttestRoots != ""); err != nil {
		return err
	}
	return developmentOnly("SAFETYNET_ROOTS", s.SafetyNetRoots != "")
}

func (s Settings) playKeys() (*playKeys, error) {
	k := &playKeys{decryption: map[string][][]byte{}, verification: map[string][]*ecdsa.PublicKey{}}
	for _, e := range entries(s.PlayDecryptionKey) {
		key, err := base64.StdEncoding.DecodeString(e.key)
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("PLAY_INTEGRITY_DECRYPTION_KEY must be base64 of 32 bytes, as the Play Console gives it")
		}
		k.decryption[e.app] = append(k.decryption[e.app], key)
	}
	for _, e := range entries(s.PlayVerificationKey) {
		key, ok := publicKey(e.key)
		if !ok {
			return nil, fmt.Errorf("PLAY_INTEGRITY_VERIFICATION_KEY must be base64 of a P-256 public key, as the Play Console gives it")
		}
		k.verification[e.app] = append(k.verification[e.app], key)
	}
	if len(k.decryption) == 0 != (len(k.verification) == 0) {
		return nil, fmt.Errorf("PLAY_INTEGRITY_DECRYPTION_KEY and PLAY_INTEGRITY_VERIFICATION_KEY must be set together: neither is of use alone")
	}
	return k, nil
}

// entry is a key, and the package that it is for; "": all.
type entry struct{ app, key string }

// entries reads "key", or "package:key,package:key". A package may have two
// keys, while one follows the other.
func entries(text string) (all []entry) {
	for part := range strings.SplitSeq(text, ",") {
		app, key, named := strings.Cut(strings.TrimSpace(part), ":")
		if !named {
			app, key = "", app
		}
		if part != "" {
			all = append(all, entry{strings.TrimSpace(app), strings.TrimSpace(key)})
		}
	}
	return all
}

func publicKey(text string) (*ecdsa.PublicKey, bool) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, false
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, false
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	return key, ok && key.Curve == elliptic.P256()
}
