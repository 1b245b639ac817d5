// Package keys opens the keys that sign export files and those that wrap the
// keys of revision tokens; what they are made of stays with their keeper.
//
// A key is named by a URL, whose scheme says who keeps it:
//
//	file:///etc/en/export.pem
//	gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/versions/1
//	awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID
//	azurekms://NAME.vault.azure.net/KEY/VERSION
//	hashivault://KEY?version=1
//
// A signing key always names its version, since phones know one public key
// under one name. A wrapping key never does: what it wrapped remembers the
// version, so that the manager may turn the key over. (Keys of AWS have no
// versions; their URL is the same for both.)
//
// How to reach a manager, and as whom, comes from where its own tools take it:
//
//	gcpkms      GOOGLE_APPLICATION_CREDENTIALS, or the account of the machine
//	awskms      AWS_REGION (or ?region=, or the ARN), AWS_PROFILE, AWS_ACCESS_KEY_ID
//	            with AWS_SECRET_ACCESS_KEY, AWS_WEB_IDENTITY_TOKEN_FILE with
//	            AWS_ROLE_ARN, the role of the machine; AWS_ENDPOINT_URL_KMS
//	azurekms    AZURE_TENANT_ID, AZURE_CLIENT_ID with AZURE_CLIENT_SECRET or
//	            AZURE_FEDERATED_TOKEN_FILE, or the identity of the machine
//	hashivault  VAULT_ADDR, VAULT_CACERT, VAULT_NAMESPACE; VAULT_TOKEN, or
//	            VAULT_TOKEN_FILE, or VAULT_KUBERNETES_ROLE for the account of a pod
//
// DEBUG_GCP_KMS_ENDPOINT and DEBUG_AZURE_KEY_VAULT_ENDPOINT send the questions
// for Google and Azure to a server on the developer's own machine.
package keys

import (
	"context"
	"crypto"
	"net/url"
	"path/filepath"

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

// The schemes of keys.
const (
	schemeFile   = "file"
	schemeGoogle = "gcpkms"
	schemeAWS    = "awskms"
	schemeAzure  = "azurekms"
	schemeVault  = "hashivault"
)

// OpenSigner gives the signing key behind a URL. It is ECDSA P-256, as phones
// want it. A manager is asked for the public key now, and for each signature;
// it has a quarter of a minute.
func OpenSigner(ctx context.Context, keyURL string) (crypto.Signer, error) {
	return openSigner(ctx, keyURL, usual())
}

func openSigner(ctx context.Context, keyURL string, p patience) (_ crypto.Signer, err error) {
	defer errs.Wrap(&err, "OpenSigner(%s)", redact(keyURL))
	u, err := split(keyURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == schemeFile {
		return openSignerFile(u.Path)
	}
	version, err := newVersion(u)
	if err != nil {
		return nil, err
	}
	return newSigner(ctx, keyURL, version, p)
}

// OpenWrapper gives the wrapping key behind a URL. A manager is not asked before
// the key is used.
func OpenWrapper(_ context.Context, keyURL string) (Wrapper, error) {
	return openWrapper(keyURL, usual())
}

func openWrapper(keyURL string, p patience) (_ Wrapper, err error) {
	defer errs.Wrap(&err, "OpenWrapper(%s)", redact(keyURL))
	u, err := split(keyURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == schemeFile {
		return openWrapperFile(u.Path)
	}
	lock, err := newLock(u)
	if err != nil {
		return nil, err
	}
	return envelope{redact(keyURL), lock, p}, nil
}

// CheckURL refuses the URL of a signing key that this release could not open.
// It touches nothing.
func CheckURL(keyURL string) error {
	u, err := split(keyURL)
	if err != nil || u.Scheme == schemeFile {
		return err
	}
	_, err = newVersion(u)
	return err
}

// newVersion reads the URL of a version of a signing key; it asks nobody.
func newVersion(u *url.URL) (version, error) {
	switch u.Scheme {
	case schemeGoogle:
		return newGoogleVersion(u)
	case schemeAWS:
		return newAWSVersion(u)
	case schemeAzure:
		return newAzureVersion(u)
	case schemeVault:
		return newVaultVersion(u)
	}
	return nil, unsupported(u.Scheme)
}

// newLock reads the URL of a wrapping key; it asks nobody.
func newLock(u *url.URL) (lock, error) {
	switch u.Scheme {
	case schemeGoogle:
		return newGoogleLock(u)
	case schemeAWS:
		return newAWSLock(u)
	case schemeAzure:
		return newAzureLock(u)
	case schemeVault:
		return newVaultLock(u)
	}
	return nil, unsupported(u.Scheme)
}

// split reads what all URLs of keys have in common.
func split(keyURL string) (*url.URL, error) {
	u, err := url.Parse(keyURL)
	if err != nil || u.Scheme == "" {
		return nil, errs.Invalid("key_url", "a key must be a URL such as file:///etc/en/key.pem")
	}
	if u.Scheme == schemeFile && (u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" || u.User != nil) {
		return nil, errs.Invalid("key_url", "a key file must be written with three slashes and an absolute path: file:///etc/en/key.pem")
	}
	if u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, errs.Invalid("key_url", "the URL of a key is its scheme, its path and options: no user, no password, no #; what opens the manager comes from the environment")
	}
	return u, nil
}

// options gives the options of a URL; others than the named are refused, for a
// misspelt one would be ignored.
func options(u *url.URL, names ...string) (map[string]string, error) {
	known := map[string]string{}
	for _, name := range names {
		known[name] = ""
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errs.Invalid("key_url", "the options of a key's URL must be written like ?name=value")
	}
	for name, all := range values {
		if _, ok := known[name]; !ok || len(all) != 1 || all[0] == "" {
			return nil, errs.Invalid("key_url", "the URL of a %s key here has no option %q, or has it twice or empty", u.Scheme, name)
		}
		known[name] = all[0]
	}
	return known, nil
}

func unsupported(scheme string) error {
	return errs.Invalid("key_url", "keys of the kind %q are not supported: use %s, %s, %s, %s or %s", scheme, schemeFile, schemeGoogle, schemeAWS, schemeAzure, schemeVault)
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
