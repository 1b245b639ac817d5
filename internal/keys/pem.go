package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"

	"enkeyserver/internal/errs"
)

const (
	blockPublic  = "PUBLIC KEY"
	blockPKCS8   = "PRIVATE KEY"
	blockSEC1    = "EC PRIVATE KEY"
	blockECParam = "EC PARAMETERS" // openssl ecparam -genkey writes one before the key
)

// PublicPEM writes a public key as phones' platforms and neighbours take it.
func PublicPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockPublic, Bytes: der}), nil
}

// ParsePublicPEM reads an ECDSA P-256 public key.
func ParsePublicPEM(text []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != blockPublic {
		return nil, errs.Invalid("public_key", `a public key must be PEM that starts with "-----BEGIN PUBLIC KEY-----"`)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errs.Invalid("public_key", "the PEM block does not hold a public key")
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errs.Invalid("public_key", "a public key must be ECDSA on the curve P-256")
	}
	return key, nil
}

// parsePrivatePEM reads the first private key of a PEM text. Its errors hold
// nothing of the text.
func parsePrivatePEM(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == blockECParam {
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, errs.Invalid("signing_key", "the file does not hold a PEM block")
	}
	key, err := parsePrivate(block)
	if err != nil {
		return nil, errs.Invalid("signing_key", "the PEM block %q is not a private key in PKCS#8 or SEC 1", block.Type)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errs.Invalid("signing_key", "a signing key must be ECDSA on the curve P-256")
	}
	return ec, nil
}

func parsePrivate(block *pem.Block) (any, error) {
	if block.Type == blockSEC1 {
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}
