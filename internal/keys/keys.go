// Package keys opens the keys that sign export files and those that wrap the
// keys of revision tokens; what they are made of stays with their keeper.
package keys

import (
	"context"
	"crypto"
	"net/url"
	"path/filepath"
	"sync"

	"enkeyserver/internal/errs"
)

// Wrapper encrypts small secrets. Whoever unwraps must name the same context as
// whoever wrapped.
type Wrapper interface {
	// Wrap encrypts a secret of at most 32 KiB and binds it to the context.
	Wrap(ctx context.Context, plaintext, context []byte) ([]byte, error)

	// Unwrap gives the secret back. What was wrapped by another key or for
	// another context, or was changed, is errs.Invalid; any other error means
	// that the keeper cannot be asked now.
	Unwrap(ctx context.Context, ciphertext, context []byte) ([]byte, error)
}

// OpenSigner gives the signing key behind a URL: file:///key.pem. It is ECDSA
// P-256, as phones want it.
func OpenSigner(_ context.Context, keyURL string) (_ crypto.Signer, err error) {
	defer errs.Wrap(&err, "OpenSigner(%s)", redact(keyURL))
	scheme, path, err := split(keyURL)
	if err != nil {
		return nil, err
	}
	switch scheme {
	case "file":
		return openSignerFile(path)
	}
	return nil, unsupported(scheme)
}

// OpenWrapper gives the wrapping key behind a URL: file:///wrapping.key.
func OpenWrapper(_ context.Context, keyURL string) (_ Wrapper, err error) {
	defer errs.Wrap(&err, "OpenWrapper(%s)", redact(keyURL))
	scheme, path, err := split(keyURL)
	if err != nil {
		return nil, err
	}
	switch scheme {
	case "file":
		return openWrapperFile(path)
	}
	return nil, unsupported(scheme)
}

// CheckURL refuses the URL of a key that this release could not open. It touches
// nothing.
func CheckURL(keyURL string) error {
	scheme, _, err := split(keyURL)
	if err != nil {
		return err
	}
	if scheme != "file" {
		return unsupported(scheme)
	}
	return nil
}

// split gives the kind of a key and, of a file, its absolute path.
func split(keyURL string) (scheme, path string, err error) {
	u, err := url.Parse(keyURL)
	if err != nil || u.Scheme == "" {
		return "", "", errs.Invalid("key_url", "a key must be a URL such as file:///etc/en/key.pem")
	}
	if u.Scheme == "file" && (u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" || u.User != nil) {
		return "", "", errs.Invalid("key_url", "a key file must be written with three slashes and an absolute path: file:///etc/en/key.pem")
	}
	return u.Scheme, u.Path, nil
}

func unsupported(scheme string) error {
	return errs.Invalid("key_url", "keys of the kind %q are not supported by this release: use file:///key.pem", scheme)
}

// redact keeps out of errors what does not look like a URL: it might be the key
// itself, put into the wrong variable.
func redact(keyURL string) string {
	u, err := url.Parse(keyURL)
	if err != nil || u.Scheme == "" {
		return "not a URL"
	}
	return u.Redacted()
}

// Ring opens each signing key once and hands it out again. Its zero value is
// ready.
type Ring struct {
	mu   sync.Mutex
	open map[string]crypto.Signer
}

// Signer gives the signing key behind a URL. A failure is not remembered.
func (r *Ring) Signer(ctx context.Context, keyURL string) (crypto.Signer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.open[keyURL]; ok {
		return s, nil
	}
	s, err := OpenSigner(ctx, keyURL)
	if err != nil {
		return nil, err
	}
	if r.open == nil {
		r.open = map[string]crypto.Signer{}
	}
	r.open[keyURL] = s
	return s, nil
}
