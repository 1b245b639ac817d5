// Package certtest is a health authority for tests.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exposure"
)

// Authority signs what a test wants signed.
type Authority struct {
	Issuer   string
	Audience string
	Version  string // kid
	Private  *ecdsa.PrivateKey
}

// New makes an authority with a key of its own, version v1.
func New(t testing.TB, issuer, audience string) *Authority {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{Issuer: issuer, Audience: audience, Version: "v1", Private: private}
}

// Trusted is the authority as Verify wants it, its key always valid.
func (a *Authority) Trusted() map[string]certificate.Authority {
	return map[string]certificate.Authority{a.Issuer: {
		Issuer:   a.Issuer,
		Audience: a.Audience,
		Keys:     []certificate.Key{{Version: a.Version, Public: &a.Private.PublicKey}},
	}}
}

// PEM is the public key as it is configured.
func (a *Authority) PEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&a.Private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Request is a valid confirmed diagnosis for keys, good for a quarter of an
// hour from now.
func (a *Authority) Request(sent []exposure.Submitted, secret []byte, now time.Time) certificate.SignRequest {
	return certificate.SignRequest{
		Issuer:   a.Issuer,
		Audience: a.Audience,
		IssuedAt: now,
		Expires:  now.Add(15 * time.Minute),
		MAC:      certificate.MAC(sent, secret),
		Report:   exposure.Confirmed,
	}
}

// Certificate signs Request; edits change what the test is about.
func (a *Authority) Certificate(t testing.TB, sent []exposure.Submitted, secret []byte, now time.Time, edits ...func(*certificate.SignRequest)) string {
	t.Helper()
	r := a.Request(sent, secret, now)
	for _, edit := range edits {
		edit(&r)
	}
	signed, err := certificate.Sign(a.Private, a.Version, r)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
