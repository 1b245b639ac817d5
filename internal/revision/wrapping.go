package revision

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
)

// Settings say how the keys of tokens are wrapped. They must be the same
// wherever these keys are used.
type Settings struct {
	Key    string `envconfig:"REVISION_TOKEN_KEY" required:"true" desc:"URL of the key that wraps the keys of revision tokens; with another one, and the old one not in REVISION_TOKEN_KEY_OLD, all tokens given out so far are void"`
	OldKey string `envconfig:"REVISION_TOKEN_KEY_OLD" desc:"URL of the wrapping key that was REVISION_TOKEN_KEY before: it only unwraps, until key-rotation has wrapped all keys anew; set it for exposure first"`
	AAD    string `envconfig:"REVISION_TOKEN_AAD" desc:"text to which revision tokens are bound; with another one all tokens given out so far are void"`
}

// Open gives the wrapping of the settings.
func (s Settings) Open(ctx context.Context) (_ Wrapping, err error) {
	defer errs.Wrap(&err, "open the wrapping keys")
	current, err := keys.OpenWrapper(ctx, s.Key)
	if err != nil {
		return Wrapping{}, fmt.Errorf("REVISION_TOKEN_KEY: %w", err)
	}
	var old keys.Wrapper
	if s.OldKey != "" {
		if old, err = keys.OpenWrapper(ctx, s.OldKey); err != nil {
			return Wrapping{}, fmt.Errorf("REVISION_TOKEN_KEY_OLD: %w", err)
		}
	}
	return NewWrapping(current, old, []byte(s.AAD)), nil
}

// Wrapping wraps the keys of tokens, and unwraps what the wrapping key of
// before has wrapped.
type Wrapping struct {
	current, old keys.Wrapper // old may be nil
	aad          []byte
}

// NewWrapping makes a wrapping by a current key and one of before, which may be
// nil. The AAD ties what is wrapped, and tokens, to this installation.
func NewWrapping(current, old keys.Wrapper, aad []byte) Wrapping {
	return Wrapping{current: current, old: old, aad: aad}
}

// context ties a wrapped key to its purpose and to this installation.
func (w Wrapping) context() []byte { return append([]byte("revision token key\n"), w.aad...) }

// keySize makes AES-256.
const keySize = 32

// Make gives a new key, wrapped.
func (w Wrapping) Make(ctx context.Context) (_ []byte, err error) {
	defer errs.Wrap(&err, "make a revision key")
	plain := make([]byte, keySize)
	_, _ = rand.Read(plain) // never fails
	defer clear(plain)
	return w.wrap(ctx, plain)
}

// wrap unwraps again what it has wrapped: a key that nobody could unwrap, for
// want of a right or of a version, must not be stored.
func (w Wrapping) wrap(ctx context.Context, plain []byte) ([]byte, error) {
	wrapped, err := w.current.Wrap(ctx, plain, w.context())
	if err != nil {
		return nil, unable(err)
	}
	again, err := w.current.Unwrap(ctx, wrapped, w.context())
	if err != nil {
		return nil, unable(err)
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(plain, again) != 1 {
		return nil, errors.New("the key manager unwraps another key than it wrapped")
	}
	return wrapped, nil
}

// unable is never errs.Invalid: it says nothing against what is wrapped already.
func unable(cause error) error {
	return errs.From(cause, errs.Internal, "wrapping_key", "the wrapping key does not wrap, or does not unwrap what it has just wrapped: see to its rights")
}

// Unwrap gives a key, and reports whether it is wrapped by the key of before.
// It is errs.Invalid only when no wrapping key will ever unwrap it; else the
// key manager may be asked again.
func (w Wrapping) Unwrap(ctx context.Context, wrapped []byte) (plain []byte, byOld bool, err error) {
	plain, err = w.current.Unwrap(ctx, wrapped, w.context())
	if err == nil || w.old == nil {
		return plain, false, err
	}
	plain, oldErr := w.old.Unwrap(ctx, wrapped, w.context())
	switch {
	case oldErr == nil:
		return plain, true, nil
	case errs.KindOf(oldErr) == errs.KindInvalid:
		return nil, false, err
	default:
		return nil, false, fmt.Errorf("by the key of before: %w", oldErr)
	}
}

// Rewrap wraps a key by the current wrapping key that was wrapped by the one of
// before. It reports false when that is not so: there is nothing to do.
func (w Wrapping) Rewrap(ctx context.Context, wrapped []byte) (rewrapped []byte, due bool, err error) {
	defer errs.Wrap(&err, "rewrap a revision key")
	plain, byOld, err := w.Unwrap(ctx, wrapped)
	defer clear(plain)
	if err != nil || !byOld {
		return nil, false, err
	}
	rewrapped, err = w.wrap(ctx, plain)
	return rewrapped, err == nil, err
}
