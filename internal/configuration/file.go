// Package configuration makes the database say what a file says: who may
// upload, and what is published.
package configuration

import (
	"strings"
	"time"

	"enkeyserver/internal/attestation"
)

// File is the configuration as operators write it, in YAML.
type File struct {
	HealthAuthorities []HealthAuthority `yaml:"healthAuthorities" json:"healthAuthorities"`
	AuthorizedApps    []AuthorizedApp   `yaml:"authorizedApps" json:"authorizedApps"`
	SigningKeys       []SigningKey      `yaml:"signingKeys" json:"signingKeys"`
	Exports           []Export          `yaml:"exports" json:"exports"`

	Federation *Federation `yaml:"federation,omitempty" json:"federation,omitempty"`
	Imports    []Import    `yaml:"imports,omitempty" json:"imports,omitempty"`
	Mirrors    []Mirror    `yaml:"mirrors,omitempty" json:"mirrors,omitempty"`

	lines lines
}

// HealthAuthority signs diagnosis certificates.
type HealthAuthority struct {
	Issuer   string      `yaml:"issuer" json:"issuer"`
	Audience string      `yaml:"audience" json:"audience"`
	Name     string      `yaml:"name,omitempty" json:"name,omitempty"`
	Keys     []PublicKey `yaml:"keys" json:"keys"`
	JWKSURI  string      `yaml:"jwksURI,omitempty" json:"jwksURI,omitempty"`
	StatsAPI bool        `yaml:"statsAPI" json:"statsAPI"`
}

// PublicKey is a key that verifies, in PEM: as text, or in a file beside the
// configuration.
type PublicKey struct {
	ID            string     `yaml:"id" json:"id"` // the kid of certificates
	Version       string     `yaml:"version,omitempty" json:"version,omitempty"`
	PublicKey     string     `yaml:"publicKey,omitempty" json:"publicKey,omitempty"`
	PublicKeyFile string     `yaml:"publicKeyFile,omitempty" json:"publicKeyFile,omitempty"`
	From          *time.Time `yaml:"from,omitempty" json:"from,omitempty"`
	Thru          *time.Time `yaml:"thru,omitempty" json:"thru,omitempty"`
}

// AuthorizedApp may upload.
type AuthorizedApp struct {
	ID                string   `yaml:"id" json:"id"`
	Regions           []string `yaml:"regions,flow" json:"regions"`
	HealthAuthorities []string `yaml:"healthAuthorities,flow" json:"healthAuthorities"`
	SkipCertificate   bool     `yaml:"skipCertificate" json:"skipCertificate"`
	SkipRevisionToken bool     `yaml:"skipRevisionToken" json:"skipRevisionToken"`

	// Attestation is what the app's devices must prove; nil: nothing.
	Attestation *attestation.Policy `yaml:"attestation,omitempty" json:"attestation,omitempty"`
}

// SigningKey signs the files of exports between From and Thru. Until Leads it is
// rehearsed: it stands behind the keys that lead.
type SigningKey struct {
	Name    string     `yaml:"name" json:"name"`
	Key     string     `yaml:"key" json:"key"` // URL
	ID      string     `yaml:"id" json:"id"`
	Version string     `yaml:"version" json:"version"`
	From    *time.Time `yaml:"from,omitempty" json:"from,omitempty"`
	Leads   *time.Time `yaml:"leads,omitempty" json:"leads,omitempty"`
	Thru    *time.Time `yaml:"thru,omitempty" json:"thru,omitempty"`
}

// Export is a series of files in a bucket.
type Export struct {
	Name           string     `yaml:"name" json:"name"`
	Bucket         string     `yaml:"bucket" json:"bucket"` // URL
	Root           string     `yaml:"root" json:"root"`
	Region         string     `yaml:"region" json:"region"`
	InputRegions   []string   `yaml:"inputRegions,flow" json:"inputRegions"`
	ExcludeRegions []string   `yaml:"excludeRegions,flow" json:"excludeRegions"`
	Travelers      string     `yaml:"travelers,omitempty" json:"travelers,omitempty"`
	Provenance     string     `yaml:"provenance,omitempty" json:"provenance,omitempty"` // any: also neighbours' keys (unless set) | local
	Period         Duration   `yaml:"period" json:"period"`
	From           *time.Time `yaml:"from,omitempty" json:"from,omitempty"`
	Thru           *time.Time `yaml:"thru,omitempty" json:"thru,omitempty"`
	Backfill       bool       `yaml:"backfill" json:"backfill"`
	SigningKeys    []string   `yaml:"signingKeys,flow" json:"signingKeys"`
	MaxRecords     int        `yaml:"maxRecords" json:"maxRecords"`
}

// Federation is the exchange of keys with neighbours.
type Federation struct {
	Pull  []Pull  `yaml:"pull,omitempty" json:"pull,omitempty"`
	Allow []Allow `yaml:"allow,omitempty" json:"allow,omitempty"`
}

// Pull is a neighbour whose keys we fetch.
type Pull struct {
	Name                string   `yaml:"name" json:"name"`
	Server              string   `yaml:"server" json:"server"`
	TLS                 TLS      `yaml:"tls,omitempty" json:"tls,omitzero"`
	Audience            string   `yaml:"audience,omitempty" json:"audience,omitempty"`
	IncludeRegions      []string `yaml:"includeRegions,flow" json:"includeRegions"`
	ExcludeRegions      []string `yaml:"excludeRegions,flow" json:"excludeRegions"`
	OnlyTravelers       bool     `yaml:"onlyTravelers" json:"onlyTravelers"`
	OnlyLocalProvenance bool     `yaml:"onlyLocalProvenance" json:"onlyLocalProvenance"`
	Token               Token    `yaml:"token" json:"token"`
}

// TLS says which certificates a neighbour's server may show, and which we show.
type TLS struct {
	CA       string `yaml:"ca,omitempty" json:"ca,omitempty"`             // PEM of the authorities; none: those of the system
	CAFile   string `yaml:"caFile,omitempty" json:"caFile,omitempty"`     // the same, in a file beside the configuration
	CertFile string `yaml:"certFile,omitempty" json:"certFile,omitempty"` // on the machine of federation-in, for mutual TLS
	KeyFile  string `yaml:"keyFile,omitempty" json:"keyFile,omitempty"`
}

// Token says where the proof of who we are comes from: one of the three.
type Token struct {
	File              string             `yaml:"file,omitempty" json:"file,omitempty"`     // on the machine of federation-in
	Google            bool               `yaml:"google,omitempty" json:"google,omitempty"` // the service account that it runs as
	ClientCredentials *ClientCredentials `yaml:"clientCredentials,omitempty" json:"clientCredentials,omitempty"`
}

// ClientCredentials are those of OAuth 2.0 (RFC 6749, section 4.4).
type ClientCredentials struct {
	TokenURL     string `yaml:"tokenURL" json:"tokenURL"`
	ClientID     string `yaml:"clientID" json:"clientID"`
	ClientSecret string `yaml:"clientSecret" json:"clientSecret"` // a secret:// reference
}

// Allow is a neighbour that may fetch our keys.
type Allow struct {
	Name           string   `yaml:"name" json:"name"`
	Issuer         string   `yaml:"issuer" json:"issuer"`
	Subject        string   `yaml:"subject" json:"subject"`
	Audience       string   `yaml:"audience" json:"audience"`
	IncludeRegions []string `yaml:"includeRegions,flow" json:"includeRegions"`
	ExcludeRegions []string `yaml:"excludeRegions,flow" json:"excludeRegions"`
}

// Import is a public export of somebody else whose keys we take.
type Import struct {
	Name     string      `yaml:"name" json:"name"`
	Index    string      `yaml:"index" json:"index"`
	Root     string      `yaml:"root" json:"root"`
	Region   string      `yaml:"region" json:"region"`
	Traveler bool        `yaml:"traveler" json:"traveler"`
	Keys     []PublicKey `yaml:"keys" json:"keys"`

	// What a key counts for whose file does not say.
	ReportWhenMissing string `yaml:"reportWhenMissing,omitempty" json:"reportWhenMissing,omitempty"` // confirmed (unless set), likely or user-report
	OnsetWhenMissing  *int   `yaml:"onsetWhenMissing,omitempty" json:"onsetWhenMissing,omitempty"`   // days since the onset, -14..14; none: unknown
}

// Mirror is a public export of somebody else that we copy.
type Mirror struct {
	Name    string `yaml:"name" json:"name"`
	Index   string `yaml:"index" json:"index"`
	Root    string `yaml:"root" json:"root"`
	Bucket  string `yaml:"bucket" json:"bucket"`
	To      string `yaml:"to" json:"to"`
	Rewrite string `yaml:"rewrite,omitempty" json:"rewrite,omitempty"`

	// Keys, where there are any, of which one must have signed each file.
	Keys []PublicKey `yaml:"keys,omitempty" json:"keys,omitempty"`
}

// Duration is written as "4h" or "1h30m".
type Duration time.Duration

// MarshalText leaves out what is zero.
func (d Duration) MarshalText() ([]byte, error) {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return []byte(text), nil
}

// UnmarshalText reads a duration with its unit.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// String is the duration as it is written.
func (d Duration) String() string {
	text, _ := d.MarshalText() // never fails
	return string(text)
}
