package keys

import (
	"context"
	"crypto"
	"net/url"
	"time"
)

// trial lets a question take half a second.
func trial() patience {
	return patience{attempt: 500 * time.Millisecond, whole: 30 * time.Second, pause: time.Millisecond}
}

// OpenSignerPatiently and OpenWrapperPatiently open keys that are asked for
// half a minute, a second each time.
func OpenSignerPatiently(ctx context.Context, keyURL string) (crypto.Signer, error) {
	return openSigner(ctx, keyURL, trial())
}

func OpenWrapperPatiently(keyURL string) (Wrapper, error) { return openWrapper(keyURL, trial()) }

// Hurried gives a manager's key that is asked no longer than this.
func Hurried(s crypto.Signer, whole time.Duration) crypto.Signer {
	hurried := *s.(*signer)
	hurried.patience.whole = whole
	return &hurried
}

// OpenVaultWrapperAt opens a key of Vault for whom time comes from now.
func OpenVaultWrapperAt(keyURL string, now func() time.Time) (Wrapper, error) {
	u, err := url.Parse(keyURL)
	if err != nil {
		return nil, err
	}
	key, err := parseVault(u)
	key.login = newLogin(now)
	return envelope{keyURL, vaultLock{key}, trial()}, err
}

// Envelope makes a body look like one that was not damaged.
func Envelope(body string) []byte { return append(head([]byte(body)), body...) }
