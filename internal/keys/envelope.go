package keys

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"enkeyserver/internal/errs"
)

// lock is a wrapping key in its manager. It encrypts keys of 32 bytes, which is
// all that some of them can.
type lock interface {
	// lock encrypts a key. Managers that authenticate additional data bind the
	// key to the 32 bytes of bound; envelope binds what it seals in any case.
	lock(ctx context.Context, key, bound []byte) ([]byte, error)

	// unlock undoes lock. Its errors keep the contract of Wrapper.Unwrap: a
	// manager that refuses to answer is never errs.Invalid.
	unlock(ctx context.Context, locked, bound []byte) ([]byte, error)
}

// envelope seals each secret with a fresh key, and lets the manager lock that
// key. So a secret may be longer than what the managers take (AWS 4096 bytes,
// RSA a few hundred bits), and every one of them binds it to its context, also
// those that know no additional data. It writes
//
//	format (1 byte), check (8), length of the locked key (2), the locked key,
//	the secret under AES-256-GCM with the context as additional data
//
// The check, a piece of a SHA-256, tells damage from what a manager refuses:
// the first is final, the second may be a right that is missing today. It
// keeps nobody out, GCM and the manager do.
//
// Keys that lock with RSA (Azure outside its managed HSM) keep the secret, but
// do not prove who sealed it: whoever may write into the database could put
// an envelope of their own there. Its rows are trusted in any case.
type envelope struct {
	name     string // for errors
	lock     lock
	patience patience
}

const (
	envelopeFormat = 2 // 1 is what a key from a file makes
	checkSize      = 8
	envelopeHead   = 1 + checkSize
	longestLocked  = 1<<16 - 1
)

// Wrap implements Wrapper.
func (e envelope) Wrap(ctx context.Context, plaintext, context []byte) (_ []byte, err error) {
	defer errs.Wrap(&err, "Wrap(%s)", e.name)
	key := make([]byte, wrappingKeySize)
	rand.Read(key) // it never fails
	defer clear(key)
	locked, err := e.locked(ctx, key, context)
	if err != nil {
		return nil, err
	}
	aead, err := envelopeCipher(key)
	if err != nil {
		return nil, err
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(len(locked)))
	body = aead.Seal(append(body, locked...), nil, plaintext, context)
	return append(head(body), body...), nil
}

func (e envelope) locked(ctx context.Context, key, bound []byte) ([]byte, error) {
	locked, err := ask(ctx, e.patience, func(ctx context.Context) ([]byte, error) {
		return e.lock.lock(ctx, key, digest(bound))
	})
	if err == nil && (len(locked) == 0 || len(locked) > longestLocked) {
		return nil, refuse("the manager answered with a ciphertext of %d bytes", len(locked))
	}
	return locked, err
}

// Unwrap implements Wrapper.
func (e envelope) Unwrap(ctx context.Context, ciphertext, context []byte) (_ []byte, err error) {
	defer errs.Wrap(&err, "Unwrap(%s)", e.name)
	locked, sealed, ok := openEnvelope(ciphertext)
	if !ok {
		return nil, voidCiphertext()
	}
	key, err := e.unlocked(ctx, locked, context)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := envelopeCipher(key)
	if err != nil {
		return nil, voidCiphertext() // a key of another length: not ours
	}
	plaintext, err := aead.Open(nil, nil, sealed, context)
	if err != nil {
		return nil, voidCiphertext()
	}
	return plaintext, nil
}

func (e envelope) unlocked(ctx context.Context, locked, bound []byte) ([]byte, error) {
	return ask(ctx, e.patience, func(ctx context.Context) ([]byte, error) {
		return e.lock.unlock(ctx, locked, digest(bound))
	})
}

// digest makes a context of any length fit the managers, and keeps it out of
// their logs.
func digest(context []byte) []byte {
	sum := sha256.Sum256(context)
	return sum[:]
}

func head(body []byte) []byte {
	return append([]byte{envelopeFormat}, digest(body)[:checkSize]...)
}

func openEnvelope(ciphertext []byte) (locked, sealed []byte, ok bool) {
	if len(ciphertext) < envelopeHead+2 || !bytes.Equal(head(ciphertext[envelopeHead:]), ciphertext[:envelopeHead]) {
		return nil, nil, false
	}
	size, rest := int(binary.BigEndian.Uint16(ciphertext[envelopeHead:])), ciphertext[envelopeHead+2:]
	if size == 0 || size > len(rest) {
		return nil, nil, false
	}
	return rest[:size], rest[size:], true
}

// envelopeCipher takes AES-256 keys alone.
func envelopeCipher(key []byte) (cipher.AEAD, error) {
	if len(key) != wrappingKeySize {
		return nil, aes.KeySizeError(len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
