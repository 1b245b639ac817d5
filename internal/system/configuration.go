package system

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// The names under which a system knows its apps and its authority.
const (
	AppUS   = "org.example.us"
	AppCA   = "org.example.ca"
	AppBoth = "org.example.both" // whose users live on the border

	issuer         = "org.example.verification"
	audience       = "org.example.keyserver"
	authorityKeyID = "v1"
)

// ExportOf is an export of some regions, the first of which it is named for in
// its files. Where it goes, and who signs it, the system fills in.
func ExportOf(name string, period time.Duration, regions ...string) configuration.Export {
	return configuration.Export{
		Name: name, Root: name, Region: regions[0], InputRegions: regions,
		Travelers: string(store.TravelersOwnRegion), Period: configuration.Duration(period),
	}
}

// Apply makes the system publish these exports, as an operator does: by a file.
func (s *System) Apply(ctx context.Context, exports ...configuration.Export) (err error) {
	defer errs.Wrap(&err, "Apply(%d exports)", len(exports))
	s.mu.Lock()
	s.exports = exports
	file := s.configuration()
	s.mu.Unlock()
	text, err := file.YAML()
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.configurationFile(), text, 0o600); err != nil {
		return err
	}
	_, err = s.Run(ctx, "enctl", "apply", "-f", s.configurationFile())
	return err
}

// Demand makes the system ask the devices of an app for proofs, as an operator
// does: by a file. The services find out by themselves.
func (s *System) Demand(ctx context.Context, app string, p attestation.Policy) (err error) {
	defer errs.Wrap(&err, "Demand(%s)", app)
	s.mu.Lock()
	s.policies[app] = p
	exports := s.exports
	s.mu.Unlock()
	return s.Apply(ctx, exports...)
}

// Amend makes the system's configuration say more than exports, as an operator
// does: by a file. What was amended before stays.
func (s *System) Amend(ctx context.Context, edit func(f *configuration.File)) (err error) {
	defer errs.Wrap(&err, "Amend")
	s.mu.Lock()
	s.amend = append(s.amend, edit)
	exports := s.exports
	s.mu.Unlock()
	return s.Apply(ctx, exports...)
}

func (s *System) configurationFile() string { return filepath.Join(s.Folder, "en.yaml") }

// configuration is the file; s.mu must be held.
func (s *System) configuration() configuration.File {
	trusted := []string{issuer}
	f := configuration.File{
		HealthAuthorities: []configuration.HealthAuthority{{
			Issuer: issuer, Audience: audience, Name: "Example Health", StatsAPI: true,
			Keys: []configuration.PublicKey{{ID: authorityKeyID, PublicKeyFile: s.publicKeyFile(authorityKey)}},
		}},
		AuthorizedApps: []configuration.AuthorizedApp{
			{ID: AppUS, Regions: []string{"US"}, HealthAuthorities: trusted},
			{ID: AppCA, Regions: []string{"CA"}, HealthAuthorities: trusted},
			{ID: AppBoth, Regions: []string{"US", "CA"}, HealthAuthorities: trusted},
		},
	}
	var signers []string
	for i, k := range signingKeys {
		signers = append(signers, k.file)
		f.SigningKeys = append(f.SigningKeys, configuration.SigningKey{
			Name: k.file, Key: s.signingKeyURL(i), ID: k.id, Version: k.version,
		})
	}
	for i, app := range f.AuthorizedApps {
		if p, ok := s.policies[app.ID]; ok {
			f.AuthorizedApps[i].Attestation = &p
		}
	}
	for _, e := range s.exports {
		e.Bucket, e.SigningKeys = s.bucketURL(), signers
		f.Exports = append(f.Exports, e)
	}
	for _, edit := range s.amend {
		edit(&f)
	}
	return f
}
