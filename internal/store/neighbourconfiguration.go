package store

import (
	"context"
	"encoding/json"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// PullConfig is a neighbour whose federation server we ask.
type PullConfig struct {
	Name                           string
	Server                         string // host:port
	CA                             string `db:"ca"` // PEM of the authorities that its certificate may come from; "": the system's
	CertFile, KeyFile              string // of our own certificate for mutual TLS, on the machine of federation-in; "": none
	Audience                       string
	IncludeRegions, ExcludeRegions []string
	OnlyTravelers                  bool
	OnlyLocalProvenance            bool
	TokenKind                      TokenKind
	TokenFile                      string // TokenFromFile: read anew for each token
	TokenURL                       string // TokenFromClient, as the three that follow
	ClientID                       string
	ClientSecret                   string // a secret:// reference
}

// TokenKind says where the proof of who we are comes from.
type TokenKind string

// The kinds of tokens.
const (
	TokenFromFile   TokenKind = "file"
	TokenFromGoogle TokenKind = "google"
	TokenFromClient TokenKind = "client-credentials"
)

// AllowConfig is a neighbour that may ask our federation server.
type AllowConfig struct {
	Name                           string
	Issuer, Subject, Audience      string
	IncludeRegions, ExcludeRegions []string
}

// TrustedKey is a public key with which somebody else signs files.
type TrustedKey struct {
	ID        string    `json:"id"`
	Version   string    `json:"version"`
	PublicKey string    `json:"publicKey"` // PEM
	From      time.Time `json:"from,omitzero"`
	Thru      time.Time `json:"thru,omitzero"`
}

// ImportConfig is a public export whose keys we take.
type ImportConfig struct {
	Name              string
	IndexURL, RootURL string
	Region            string
	Traveler          bool
	ReportWhenMissing exposure.Report
	OnsetWhenMissing  *int16 // days; nil: none is told
	Keys              []TrustedKey
}

// MirrorConfig is a public export that we copy. Its bucket and root never
// change.
type MirrorConfig struct {
	Name              string
	IndexURL, RootURL string
	Bucket, Root      string
	Rewrite           string
	Keys              []TrustedKey // none: files are checked for everything but who signed them

	// Ended says that it is no longer kept up. Its place is still taken. It is
	// only read.
	Ended bool
}

func (c *Configuration) readNeighbours(ctx context.Context, tx database.Tx) (err error) {
	if c.Pulls, err = readPulls(ctx, tx); err != nil {
		return err
	}
	if c.Allows, err = readAllows(ctx, tx); err != nil {
		return err
	}
	if c.Imports, err = readImports(ctx, tx); err != nil {
		return err
	}
	c.Mirrors, err = readMirrors(ctx, tx)
	return err
}

func readPulls(ctx context.Context, tx database.Tx) ([]PullConfig, error) {
	return database.All[PullConfig](ctx, tx, `
		SELECT   n.name, p.server, p.ca, p.cert_file, p.key_file, p.audience, p.include_regions, p.exclude_regions,
		         p.only_travelers, p.only_local_provenance, p.token_kind, p.token_file, p.token_url, p.client_id, p.client_secret
		FROM     federation_pull p
		JOIN     neighbour n USING (origin)
		WHERE    n.ended_at IS NULL
		ORDER BY n.name`)
}

func readAllows(ctx context.Context, q database.Queryer) ([]AllowConfig, error) {
	return database.All[AllowConfig](ctx, q, `
		SELECT   name, issuer, subject, audience, include_regions, exclude_regions
		FROM     federation_allow
		ORDER BY name`)
}

func readImports(ctx context.Context, tx database.Tx) (all []ImportConfig, err error) {
	type row struct {
		Name, IndexURL, RootURL, Region string
		Traveler                        bool
		ReportWhenMissing               int16
		OnsetWhenMissing                *int16
		Keys                            []byte
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   n.name, i.index_url, i.root_url, i.region, i.traveler, i.report_when_missing, i.onset_when_missing, i.keys
		FROM     public_import i
		JOIN     neighbour n USING (origin)
		WHERE    n.ended_at IS NULL
		ORDER BY n.name`) {
		if err != nil {
			return nil, err
		}
		c := ImportConfig{
			Name: r.Name, IndexURL: r.IndexURL, RootURL: r.RootURL, Region: r.Region, Traveler: r.Traveler,
			ReportWhenMissing: exposure.Report(r.ReportWhenMissing), OnsetWhenMissing: r.OnsetWhenMissing,
		}
		if err := json.Unmarshal(r.Keys, &c.Keys); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func readMirrors(ctx context.Context, tx database.Tx) (all []MirrorConfig, err error) {
	type row struct {
		Name, IndexURL, RootURL, Bucket, Root, Rewrite string
		Keys                                           []byte
		Ended                                          bool
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   name, index_url, root_url, bucket, root, rewrite, keys, ended_at IS NOT NULL AS ended
		FROM     mirror
		ORDER BY name`) {
		if err != nil {
			return nil, err
		}
		c := MirrorConfig{
			Name: r.Name, IndexURL: r.IndexURL, RootURL: r.RootURL, Bucket: r.Bucket, Root: r.Root, Rewrite: r.Rewrite, Ended: r.Ended,
		}
		if err := json.Unmarshal(r.Keys, &c.Keys); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (w configurator) putPull(p PullConfig) (err error) {
	defer errs.Wrap(&err, "federation pull %s", p.Name)
	return w.exec(`
		WITH n AS (
			INSERT INTO neighbour (kind, name)
			VALUES ('federation', $1)
			ON CONFLICT (kind, name) DO UPDATE
			SET    ended_at = NULL
			RETURNING origin
		)
		INSERT INTO federation_pull (origin, server, ca, cert_file, key_file, audience, include_regions, exclude_regions,
		                             only_travelers, only_local_provenance, token_kind, token_file, token_url, client_id, client_secret)
		SELECT origin, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
		FROM   n
		ON CONFLICT (origin) DO UPDATE
		SET    server = excluded.server, ca = excluded.ca, cert_file = excluded.cert_file, key_file = excluded.key_file,
		       audience = excluded.audience, include_regions = excluded.include_regions, exclude_regions = excluded.exclude_regions,
		       only_travelers = excluded.only_travelers, only_local_provenance = excluded.only_local_provenance,
		       token_kind = excluded.token_kind, token_file = excluded.token_file, token_url = excluded.token_url,
		       client_id = excluded.client_id, client_secret = excluded.client_secret`,
		p.Name, p.Server, p.CA, p.CertFile, p.KeyFile, p.Audience, notNull(p.IncludeRegions), notNull(p.ExcludeRegions),
		p.OnlyTravelers, p.OnlyLocalProvenance, string(p.TokenKind), p.TokenFile, p.TokenURL, p.ClientID, p.ClientSecret)
}

func (w configurator) putAllow(a AllowConfig) (err error) {
	defer errs.Wrap(&err, "federation allow %s", a.Name)
	return w.exec(`
		INSERT INTO federation_allow (name, issuer, subject, audience, include_regions, exclude_regions)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (name) DO UPDATE
		SET    issuer = excluded.issuer, subject = excluded.subject, audience = excluded.audience,
		       include_regions = excluded.include_regions, exclude_regions = excluded.exclude_regions`,
		a.Name, a.Issuer, a.Subject, a.Audience, notNull(a.IncludeRegions), notNull(a.ExcludeRegions))
}

func (w configurator) putImport(i ImportConfig) (err error) {
	defer errs.Wrap(&err, "import %s", i.Name)
	return w.exec(`
		WITH n AS (
			INSERT INTO neighbour (kind, name)
			VALUES ('import', $1)
			ON CONFLICT (kind, name) DO UPDATE
			SET    ended_at = NULL
			RETURNING origin
		)
		INSERT INTO public_import (origin, index_url, root_url, region, traveler, report_when_missing, onset_when_missing, keys)
		SELECT origin, $2, $3, $4, $5, $6, $7, $8
		FROM   n
		ON CONFLICT (origin) DO UPDATE
		SET    index_url = excluded.index_url, root_url = excluded.root_url, region = excluded.region, traveler = excluded.traveler,
		       report_when_missing = excluded.report_when_missing, onset_when_missing = excluded.onset_when_missing, keys = excluded.keys`,
		i.Name, i.IndexURL, i.RootURL, i.Region, i.Traveler, int16(i.ReportWhenMissing), i.OnsetWhenMissing, marshal(i.Keys))
}

// putMirror leaves the bucket and root of a mirror that is there alone.
func (w configurator) putMirror(m MirrorConfig) (err error) {
	defer errs.Wrap(&err, "mirror %s", m.Name)
	return w.exec(`
		INSERT INTO mirror (name, index_url, root_url, bucket, root, rewrite, keys)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (name) DO UPDATE
		SET    index_url = excluded.index_url, root_url = excluded.root_url, rewrite = excluded.rewrite, keys = excluded.keys,
		       ended_at = NULL`,
		m.Name, m.IndexURL, m.RootURL, m.Bucket, m.Root, m.Rewrite, marshal(m.Keys))
}

// endNeighbours stops what is not wanted any more. The rows stay: an origin
// stands with keys, and a mirror's place in its bucket is taken for ever.
func (w configurator) endNeighbours(kind string, names []string) error {
	return w.exec(`
		UPDATE neighbour
		SET    ended_at = $3
		WHERE  kind = $1 AND name = ANY ($2) AND ended_at IS NULL`, kind, notNull(names), w.now)
}

func (w configurator) endMirrors(names []string) error {
	return w.exec(`
		UPDATE mirror
		SET    ended_at = $2
		WHERE  name = ANY ($1) AND ended_at IS NULL`, notNull(names), w.now)
}

func (w configurator) removeAllows(names []string) error {
	return w.exec(`DELETE FROM federation_allow WHERE name = ANY ($1)`, notNull(names))
}
