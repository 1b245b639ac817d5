package configuration

import (
	"bytes"
	"encoding/json"
	"time"

	"go.yaml.in/yaml/v3"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// FileOf is the file that says what a configuration says. Exports that have
// ended at now are left out: to the operator they are removed. A policy that
// cannot be read is an error, for a file without it would take it away.
func FileOf(c store.Configuration, now time.Time) (_ File, err error) {
	defer errs.Wrap(&err, "configuration.FileOf")
	f := File{
		HealthAuthorities: []HealthAuthority{}, AuthorizedApps: []AuthorizedApp{},
		SigningKeys: []SigningKey{}, Exports: []Export{},
	}
	for _, a := range c.Authorities {
		f.HealthAuthorities = append(f.HealthAuthorities, HealthAuthority{
			Issuer: a.Issuer, Audience: a.Audience, Name: a.Name, Keys: publicKeysOf(a.Keys), JWKSURI: a.JWKSURI, StatsAPI: a.StatsAPI,
		})
	}
	for _, a := range c.Apps {
		policy, err := policyOf(a)
		if err != nil {
			return File{}, err
		}
		f.AuthorizedApps = append(f.AuthorizedApps, AuthorizedApp{
			ID: a.AppID, Regions: a.Regions, HealthAuthorities: a.Authorities,
			SkipCertificate: a.SkipCertificate, SkipRevisionToken: a.SkipRevisionToken,
			Attestation: policy,
		})
	}
	for _, k := range c.SigningKeys {
		f.SigningKeys = append(f.SigningKeys, SigningKey{
			Name: k.Name, Key: k.KeyURL, ID: k.KeyID, Version: k.KeyVersion,
			From: optional(k.From), Leads: optional(k.Leads), Thru: optional(k.Thru),
		})
	}
	for _, x := range c.Exports {
		if x.Thru.IsZero() || x.Thru.After(now) {
			f.Exports = append(f.Exports, exportOf(x))
		}
	}
	f.Federation = federationOf(c)
	for _, i := range c.Imports {
		f.Imports = append(f.Imports, importOf(i))
	}
	for _, m := range c.Mirrors {
		if !m.Ended {
			f.Mirrors = append(f.Mirrors, mirrorOf(m))
		}
	}
	return f, nil
}

func publicKeysOf(list []store.AuthorityKeyConfig) []PublicKey {
	keys := []PublicKey{}
	for _, k := range list {
		keys = append(keys, PublicKey{ID: k.Version, PublicKey: k.PublicKey, From: optional(k.From), Thru: optional(k.Thru)})
	}
	return keys
}

func exportOf(x store.ExportConfig) Export {
	return Export{
		Name: x.Name, Bucket: x.Bucket, Root: x.Root, Region: x.Region,
		InputRegions: x.InputRegions, ExcludeRegions: x.ExcludeRegions, Travelers: string(x.Travelers), Provenance: string(x.Provenance),
		Period: Duration(x.Period), From: optional(x.From), Thru: optional(x.Thru),
		Backfill: x.Backfill, SigningKeys: x.SigningKeys, MaxRecords: x.MaxRecords,
	}
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// YAML is the file's text.
func (f File) YAML() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// JSON is the file's text in JSON, which is YAML too.
func (f File) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(f, "", "  ")
	return append(text, '\n'), err
}
