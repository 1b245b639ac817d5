package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"io"

	"enkeyserver/internal/errs"
)

// version is one version of a signing key in its manager. The libraries that
// make a crypto.Signer of every manager's keys were looked at and left out:
// they ask without a bound or a context, take the public key of the newest
// version for that of an older one (Vault), fetch it anew every five minutes
// in the midst of signing, and do not check what comes back.
type version interface {
	// public fetches the public half. A version that cannot sign now is an
	// error, if the manager says so.
	public(ctx context.Context) (crypto.PublicKey, error)

	// sign makes an ECDSA signature over a SHA-256 digest, in ASN.1 DER.
	sign(ctx context.Context, digest []byte) ([]byte, error)
}

// signer is a version of a key whose public half is known to be right.
type signer struct {
	name     string // for errors
	version  version
	key      *ecdsa.PublicKey
	patience patience
}

func newSigner(ctx context.Context, keyURL string, v version, p patience) (crypto.Signer, error) {
	pub, err := ask(ctx, p, v.public)
	if err != nil {
		return nil, err
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, wrongAlgorithm("is another")
	}
	return &signer{redact(keyURL), v, key, p}, nil
}

// wrongAlgorithm is what phones could not verify.
func wrongAlgorithm(found string) error {
	return errs.Invalid("signing_key", "a signing key must be ECDSA on the curve P-256, with SHA-256; this one %s", found)
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.key }

// Sign implements crypto.Signer. It gives up when patience ends; no context
// comes in.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (_ []byte, err error) {
	defer errs.Wrap(&err, "Sign(%s)", s.name)
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("a manager's key signs SHA-256 digests and nothing else")
	}
	return ask(context.Background(), s.patience, func(ctx context.Context) ([]byte, error) {
		return s.verified(ctx, digest)
	})
}

// verified looks at a signature before anybody uses it: one wrong byte would
// blind every phone to the file. A fault on the way is worth another try.
func (s *signer) verified(ctx context.Context, digest []byte) ([]byte, error) {
	signature, err := s.version.sign(ctx, digest)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(s.key, digest, signature) {
		return nil, errors.New("the manager answered with a signature that its public key does not verify")
	}
	return signature, nil
}
