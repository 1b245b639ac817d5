package phone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"time"

	"enkeyserver/internal/certificate"
)

// Authority is a health authority's verification server: it certifies that the
// owner of certain keys has a diagnosis.
type Authority struct {
	Issuer   string
	Audience string
	KeyID    string // the kid of its certificates
	Key      crypto.Signer
	Lifetime time.Duration // of a certificate
}

// certify signs a diagnosis for the keys of which it is given the MAC: the
// authority never learns the keys themselves.
func (a Authority) certify(mac []byte, d Diagnosis, now time.Time) (string, error) {
	return certificate.Sign(a.Key, a.KeyID, certificate.SignRequest{
		Issuer:   a.Issuer,
		Audience: a.Audience,
		IssuedAt: now,
		Expires:  now.Add(a.Lifetime),
		MAC:      mac,
		Report:   d.Report,
		Onset:    d.Onset,
	})
}

// Forged is somebody who says that he is this authority, and has a key of his
// own.
func (a Authority) Forged() (Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.Key = key
	return a, err
}
