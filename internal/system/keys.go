package system

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/phone"
)

// The names of the key files.
const (
	authorityKey = "health-authority"
	wrappingKey  = "revision-tokens"
)

// signingKeys are those that every file is signed with. There are two, as
// during a change of keys: phones must accept both.
var signingKeys = []struct{ file, id, version string }{
	{"export-1", "310", "v1"},
	{"export-2", "310", "v2"},
}

func (s *System) keyFile(name string) string {
	return filepath.Join(s.Folder, "keys", name+".pem")
}

func (s *System) publicKeyFile(name string) string {
	return filepath.Join(s.Folder, "keys", name+".pub.pem")
}

// createKeys makes all keys that are not a cloud's, as an operator does, and
// writes the public ones down.
func (s *System) createKeys(ctx context.Context) error {
	if err := s.createSigningKey(ctx, authorityKey); err != nil {
		return err
	}
	for i, k := range signingKeys {
		if err := s.createOrFetch(ctx, k.file, s.signingKeyURL(i)); err != nil {
			return err
		}
	}
	if s.options.Cloud == nil {
		if _, err := s.Run(ctx, "enctl", "keys", "create", "wrapping", s.keyFile(wrappingKey)); err != nil {
			return err
		}
	}
	return s.meetAuthority(ctx)
}

func (s *System) createOrFetch(ctx context.Context, name, url string) error {
	if s.options.Cloud == nil {
		return s.createSigningKey(ctx, name)
	}
	public, err := s.Run(ctx, "enctl", "keys", "public", url)
	if err != nil {
		return err
	}
	return os.WriteFile(s.publicKeyFile(name), []byte(public), 0o644)
}

func (s *System) createSigningKey(ctx context.Context, name string) error {
	public, err := s.Run(ctx, "enctl", "keys", "create", "signing", s.keyFile(name))
	if err != nil {
		return err
	}
	return os.WriteFile(s.publicKeyFile(name), []byte(public), 0o644)
}

// meetAuthority makes the verification server that the system trusts.
func (s *System) meetAuthority(ctx context.Context) error {
	key, err := keys.OpenSigner(ctx, "file://"+s.keyFile(authorityKey))
	if err != nil {
		return err
	}
	s.Authority = phone.Authority{
		Issuer: issuer, Audience: audience, KeyID: authorityKeyID, Key: key, Lifetime: time.Hour,
	}
	return nil
}

// Trusted are the public keys that phones and mirrors know.
func (s *System) Trusted() ([]exportfile.PublicKey, error) {
	var trusted []exportfile.PublicKey
	for _, k := range signingKeys {
		text, err := os.ReadFile(s.publicKeyFile(k.file))
		if err != nil {
			return nil, err
		}
		public, err := keys.ParsePublicPEM(text)
		if err != nil {
			return nil, err
		}
		trusted = append(trusted, exportfile.PublicKey{ID: k.id, Version: k.version, Key: public})
	}
	return trusted, nil
}

// Server is the key server as an app knows it.
func (s *System) Server(app string) (phone.Server, error) {
	p, err := s.Some(Exposure)
	if err != nil {
		return phone.Server{}, err
	}
	return phone.Server{URL: p.URL() + "/v1/publish", App: app, Pause: 100 * time.Millisecond}, nil
}

// Feed is an export as phones follow it.
func (s *System) Feed(root string) (phone.Feed, error) {
	trusted, err := s.Trusted()
	return phone.Feed{Base: s.BucketURL, Index: exportfile.IndexText(root), Trusted: trusted}, err
}
