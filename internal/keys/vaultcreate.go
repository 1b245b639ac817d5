package keys

import (
	"context"
	"net/url"
)

// vaultMaker needs read, create and update on transit/keys/KEY, and update on
// transit/keys/KEY/rotate.
type vaultMaker struct{ vaultKey }

func newVaultMaker(u *url.URL) (maker, error) {
	key, err := parseVault(u)
	if err != nil {
		return nil, err
	}
	if key.version != "" {
		return nil, versioned()
	}
	return vaultMaker{key}, nil
}

func (m vaultMaker) makeSigning(ctx context.Context) (string, error) {
	found, err := m.find(ctx)
	switch {
	case err != nil:
		return "", err
	case found == nil:
		err = m.write(ctx, m.path("keys"), map[string]any{"type": vaultSigning})
	case found.kind != vaultSigning:
		return "", otherKind(m.name, found.kind)
	default:
		err = m.write(ctx, m.path("keys")+"/rotate", nil)
	}
	if err != nil {
		return "", err
	}
	made, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	if made == nil {
		return "", m.missing()
	}
	return m.url(url.Values{"version": {made.latest}}), nil
}

func (m vaultMaker) makeWrapping(ctx context.Context) (string, error) {
	found, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	if found != nil {
		return "", existing(m.name)
	}
	return m.url(url.Values{}), m.write(ctx, m.path("keys"), map[string]any{"type": vaultWrapping})
}

// find gives nil if there is no such key.
func (m vaultMaker) find(ctx context.Context) (*vaultVersions, error) {
	return ask(ctx, usual(), m.read)
}

func (m vaultMaker) write(ctx context.Context, path string, data map[string]any) error {
	_, err := m.login.write(ctx, path, data)
	return m.fault(err)
}

func (m vaultMaker) url(options url.Values) string {
	if m.engine != defaultEngine {
		options.Set("engine", m.engine)
	}
	u := url.URL{Scheme: schemeVault, Host: m.name, RawQuery: options.Encode()}
	return u.String()
}
