package keys

import (
	"context"
	"crypto"
	"fmt"
	"net/url"
	"slices"
	"time"

	"enkeyserver/internal/errs"
)

// Created is a key, or a version of one, that was just made.
type Created struct {
	URL    string           // for the configuration
	Public crypto.PublicKey // of a signing key
}

// createTimeout bounds the making of a key; an HSM may take half a minute.
const createTimeout = time.Minute

// CreateSigning makes a signing key where a URL says, or a new version if there
// is one there already. The URL names no version:
//
//	file:///etc/en/export.pem               never twice
//	gcpkms://projects/P/…/cryptoKeys/K      ?protection=hsm for a key in hardware
//	awskms:///alias/NAME, awskms:///        a new key each time; ?region=REGION
//	azurekms://NAME.vault.azure.net/KEY     ?protection=hsm
//	hashivault://KEY                        ?engine=PATH
//
// Nothing that is there is changed or destroyed. Making is never repeated by
// itself: after an error that is not a refusal, look before trying again.
func CreateSigning(ctx context.Context, keyURL string) (_ Created, err error) {
	defer errs.Wrap(&err, "CreateSigning(%s)", redact(keyURL))
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	u, err := split(keyURL)
	if err != nil {
		return Created{}, err
	}
	if u.Scheme == schemeFile {
		pub, err := CreateSigningKey(u.Path)
		return Created{keyURL, pub}, err
	}
	m, err := newMaker(u)
	if err != nil {
		return Created{}, err
	}
	made, err := m.makeSigning(ctx)
	if err != nil {
		return Created{}, err
	}
	key, err := OpenSigner(ctx, made)
	if err != nil {
		return Created{}, fmt.Errorf("%s was made, but: %w", made, err)
	}
	return Created{made, key.Public()}, nil
}

// CreateWrapping makes a wrapping key where a URL says, in the forms of
// CreateSigning. One that is there already is errs.Conflict: the managers turn
// wrapping keys over by themselves.
func CreateWrapping(ctx context.Context, keyURL string) (_ Created, err error) {
	defer errs.Wrap(&err, "CreateWrapping(%s)", redact(keyURL))
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	u, err := split(keyURL)
	if err != nil {
		return Created{}, err
	}
	if u.Scheme == schemeFile {
		return Created{URL: keyURL}, CreateWrappingKey(u.Path)
	}
	m, err := newMaker(u)
	if err != nil {
		return Created{}, err
	}
	made, err := m.makeWrapping(ctx)
	return Created{URL: made}, err
}

// maker makes keys in a manager. It gives the URL of what it made.
type maker interface {
	makeSigning(ctx context.Context) (keyURL string, err error)
	makeWrapping(ctx context.Context) (keyURL string, err error)
}

func newMaker(u *url.URL) (maker, error) {
	switch u.Scheme {
	case schemeGoogle:
		return newGoogleMaker(u)
	case schemeAWS:
		return newAWSMaker(u)
	case schemeAzure:
		return newAzureMaker(u)
	case schemeVault:
		return newVaultMaker(u)
	}
	return nil, unsupported(u.Scheme)
}

// protected takes the option "protection" out of a URL.
func protected(u *url.URL) (hsm bool, rest *url.URL, err error) {
	values := u.Query()
	level := values["protection"]
	values.Del("protection")
	plain := *u
	plain.RawQuery = values.Encode()
	if len(level) > 0 && !slices.Contains([]string{"hsm", "software"}, level[0]) {
		return false, nil, errs.Invalid("key_url", "the option protection must be hsm or software")
	}
	return len(level) > 0 && level[0] == "hsm", &plain, nil
}

// versioned refuses a URL that names a version where one is to be made.
func versioned() error {
	return errs.Invalid("key_url", "the URL of a key to make must not name a version: the manager numbers it")
}

func existing(name string) error {
	return errs.Conflict("key_exists", "there is a key %s already: keys are never overwritten, and the manager makes new versions of it by itself", name)
}

func otherKind(name, found string) error {
	return errs.Conflict("key_exists", "there is a key %s already, and it is %s: choose another name", name, found)
}
