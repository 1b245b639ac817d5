package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// SignRequest is what a certificate shall say. Zero values are left out.
type SignRequest struct {
	Issuer    string
	Audience  string
	IssuedAt  time.Time
	NotBefore time.Time
	Expires   time.Time

	MAC    []byte          // of the keys: see MAC
	Report exposure.Report // Unknown: none, as in a request for statistics
	Onset  exposure.Interval
}

// Sign makes a certificate, or the token of a request for statistics. It is for
// tools and simulated authorities: this server signs no diagnoses.
func Sign(key crypto.Signer, kid string, r SignRequest) (_ string, err error) {
	defer errs.Wrap(&err, "certificate.Sign(kid %s)", kid)
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return "", errors.New("the key must be ECDSA P-256")
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, r.body())
	token.Header["kid"] = kid
	text, err := token.SigningString()
	if err != nil {
		return "", err
	}
	signature, err := signES256(key, text)
	if err != nil {
		return "", err
	}
	return text + "." + token.EncodeSegment(signature), nil
}

func (r SignRequest) body() body {
	b := body{Onset: onset(r.Onset)}
	b.Issuer = r.Issuer
	b.Audience = optional(r.Audience != "", jwt.ClaimStrings{r.Audience})
	b.IssuedAt = optional(!r.IssuedAt.IsZero(), jwt.NewNumericDate(r.IssuedAt))
	b.NotBefore = optional(!r.NotBefore.IsZero(), jwt.NewNumericDate(r.NotBefore))
	b.ExpiresAt = optional(!r.Expires.IsZero(), jwt.NewNumericDate(r.Expires))
	b.MAC = base64.StdEncoding.EncodeToString(r.MAC)
	if r.Report != exposure.Unknown {
		b.Report = r.Report.String()
	}
	return b
}

func optional[T any](said bool, value T) (none T) {
	if said {
		return value
	}
	return none
}

// signES256 signs with a key that may live in a key manager: those give ASN.1,
// a JWT wants the two numbers side by side.
func signES256(key crypto.Signer, text string) ([]byte, error) {
	digest := sha256.Sum256([]byte(text))
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	raw := make([]byte, 64)
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return raw, nil
}
