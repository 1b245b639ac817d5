package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"enkeyserver/internal/errs"
)

func openSignerFile(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parsePrivatePEM(text)
	if err != nil {
		return nil, err // not a nil key inside a signer
	}
	return key, nil
}

// CreateSigningKey makes a signing key and writes it to a new file, as PKCS#8 in
// PEM. A file that is there already is errs.Conflict.
func CreateSigningKey(path string) (_ crypto.PublicKey, err error) {
	defer errs.Wrap(&err, "CreateSigningKey(%s)", path)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: blockPKCS8, Bytes: der})
	if err := writeNew(path, text); err != nil {
		return nil, err
	}
	return key.Public(), nil
}

// wrappingKeySize makes AES-256.
const wrappingKeySize = 32

// CreateWrappingKey writes a new wrapping key to a new file. A file that is
// there already is errs.Conflict.
func CreateWrappingKey(path string) (err error) {
	defer errs.Wrap(&err, "CreateWrappingKey(%s)", path)
	key := make([]byte, wrappingKeySize)
	rand.Read(key) // it never fails
	return writeNew(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"))
}

// writeNew writes a secret to a file that must not exist yet: overwriting a key
// makes everything that was signed or wrapped with it worthless. The file
// gets its name when it is whole.
func writeNew(path string, secret []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-key-") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(secret)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	err = os.Link(file.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return errs.Conflict("key_exists", "there is a file %s already: keys are never overwritten", path)
	}
	return err
}

// fileWrapper wraps with AES-256-GCM under a key from a file. What it makes is
// a format byte, the nonce and the sealed text; the context is the additional
// data.
type fileWrapper struct{ aead cipher.AEAD }

// wrapFormat is the first byte of what fileWrapper makes.
const wrapFormat = 1

func openWrapperFile(path string) (Wrapper, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != wrappingKeySize {
		return nil, errs.Invalid("wrapping_key", "a wrapping key file must hold base64 of %d random bytes: make one with \"enctl keys create wrapping PATH\"", wrappingKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	// The nonces are random: good for 2^32 secrets, of which we wrap one a day.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return fileWrapper{aead}, err
}

// Wrap implements Wrapper.
func (w fileWrapper) Wrap(_ context.Context, plaintext, context []byte) ([]byte, error) {
	return w.aead.Seal([]byte{wrapFormat}, nil, plaintext, context), nil
}

// Unwrap implements Wrapper.
func (w fileWrapper) Unwrap(_ context.Context, ciphertext, context []byte) ([]byte, error) {
	if len(ciphertext) > 0 && ciphertext[0] == wrapFormat {
		if plaintext, err := w.aead.Open(nil, nil, ciphertext[1:], context); err == nil {
			return plaintext, nil
		}
	}
	return nil, voidCiphertext()
}
