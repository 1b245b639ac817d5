package attestation

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"enkeyserver/internal/exposure"
)

// safetyNetHost is for whom the certificate that signs is issued.
const safetyNetHost = "attest.android.com"

const maxSafetyNetChain = 4

// safetyNetVerdict is what a SafetyNet proof says, as far as it matters.
type safetyNetVerdict struct {
	Nonce        string   `json:"nonce"`
	Time         millis   `json:"timestampMs"`
	Package      string   `json:"apkPackageName"`
	Certificates []string `json:"apkCertificateDigestSha256"`
	Profile      bool     `json:"ctsProfileMatch"`
	Basic        bool     `json:"basicIntegrity"`
	Evaluation   string   `json:"evaluationType"`
	Error        string   `json:"error"`
}

func (v *Verifier) verifySafetyNet(token string, digest Digest, a *Android, now time.Time) error {
	if err := v.safetyNet.configured(); err != nil {
		return err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return Refused("it is not a JWS with RS256")
	}
	leaf, err := v.safetyNet.host(token, now)
	if err != nil {
		return err
	}
	payload, err := signed.Verify(leaf)
	if err != nil {
		return Refused("its signature does not verify")
	}
	var said safetyNetVerdict
	if json.Unmarshal(payload, &said) != nil {
		return Refused("its verdict is not the JSON that Google documents")
	}
	return said.check(digest, a, now)
}

// host gives the key of the certificate in the header, if it belongs to
// Google's host.
func (a *anchors) host(token string, now time.Time) (*rsa.PublicKey, error) {
	ders, ok := headerChain(token)
	if !ok || len(ders) == 0 || len(ders) > maxSafetyNetChain {
		return nil, Refused("its header does not hold one to %d certificates", maxSafetyNetChain)
	}
	chain, ok := parseChain(ders)
	if !ok {
		return nil, Refused("its certificates cannot be read")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: between, CurrentTime: now, DNSName: safetyNetHost})
	if err != nil {
		return nil, Refused("its certificate is not one of %s under a trusted root", safetyNetHost)
	}
	key, ok := chain[0].PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, Refused("its certificate has no RSA key")
	}
	return key, nil
}

func headerChain(token string) (ders [][]byte, ok bool) {
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		return nil, false
	}
	var header struct {
		Chain [][]byte `json:"x5c"` // encoding/json reads the standard base64
	}
	return header.Chain, json.Unmarshal(raw, &header) == nil
}

func (s safetyNetVerdict) check(digest Digest, a *Android, now time.Time) error {
	if s.Error != "" {
		return Refused("the device could not be judged: make a new one")
	}
	if err := fresh(s.Time.time(), a, now); err != nil {
		return err
	}
	if !s.binds(digest) {
		return Refused("its nonce is not the digest of this upload")
	}
	if !slices.Contains(a.Packages, s.Package) {
		return Refused("it is about another package")
	}
	if !a.signs(s.Certificates) {
		return Refused("the app is not signed with the certificate of this app")
	}
	if !a.trusts(s.labels()) {
		return Refused("the device does not meet the integrity that this app needs")
	}
	return nil
}

// binds looks through two layers: apps gave the interface the characters of the
// digest's base64, and it wrote base64 of these.
func (s safetyNetVerdict) binds(digest Digest) bool {
	text, err := exposure.DecodeBase64(s.Nonce)
	return err == nil && digest.isBase64(string(text))
}

// labels says the same in the words of Play Integrity. What a proof tells about
// the app is worth nothing without ctsProfileMatch, so that is the least.
func (s safetyNetVerdict) labels() []string {
	if !s.Profile || !s.Basic {
		return nil
	}
	if slices.Contains(strings.Split(s.Evaluation, ","), "HARDWARE_BACKED") {
		return []string{meetsStrong}
	}
	return []string{meetsDevice}
}
