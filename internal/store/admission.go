package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// Admission is everything that decides who may upload, read in one snapshot.
type Admission struct {
	Apps        map[string]App // by id, lower case
	Authorities map[string]Authority
}

// App is an application that may upload.
type App struct {
	ID                string
	Regions           []string
	Authorities       []string // issuers whose certificates it may send
	SkipCertificate   bool
	SkipRevisionToken bool
	Attestation       string // JSON of the policy for its devices; "": there is none
}

// Authority signs diagnosis certificates.
type Authority struct {
	ID       int
	Issuer   string
	Audience string
	Name     string
	StatsAPI bool
	Keys     []AuthorityKey
}

// AuthorityKey is one public key of an authority.
type AuthorityKey struct {
	Version    string // the kid
	PublicKey  string // PEM
	From, Thru time.Time
}

// Admission reads who may upload. It is small: a few apps and authorities.
func (db *DB) Admission(ctx context.Context) (a Admission, err error) {
	defer errs.Wrap(&err, "Admission")

	a = Admission{Apps: map[string]App{}, Authorities: map[string]Authority{}}
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		if err := a.readAuthorities(ctx, tx); err != nil {
			return err
		}
		return a.readApps(ctx, tx)
	})
	return a, err
}

func (a Admission) readAuthorities(ctx context.Context, tx database.Tx) error {
	type row struct {
		AuthorityID      int
		Issuer, Audience string
		Name             string
		StatsAPI         bool
		Version          *string
		PublicKey        *string
		ValidFrom        pgtime
		ValidThru        pgtime
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT    a.authority_id, a.issuer, a.audience, a.name, a.stats_api, k.version, k.public_key, k.valid_from, k.valid_thru
		FROM      health_authority a
		LEFT JOIN LATERAL (
		    SELECT   DISTINCT ON (version) version, public_key, valid_from, valid_thru
		    FROM     health_authority_key
		    WHERE    authority_id = a.authority_id AND source IN ('', a.jwks_uri)
		    ORDER BY version, source   -- a key of the configuration, '', hides one of the same name that was discovered
		) k ON true
		ORDER BY  a.issuer, k.version`) {
		if err != nil {
			return err
		}
		authority, ok := a.Authorities[r.Issuer]
		if !ok {
			authority = Authority{ID: r.AuthorityID, Issuer: r.Issuer, Audience: r.Audience, Name: r.Name, StatsAPI: r.StatsAPI}
		}
		if r.Version != nil {
			authority.Keys = append(authority.Keys, AuthorityKey{
				Version: *r.Version, PublicKey: *r.PublicKey, From: r.ValidFrom.Time, Thru: r.ValidThru.Time,
			})
		}
		a.Authorities[r.Issuer] = authority
	}
	return nil
}

func (a Admission) readApps(ctx context.Context, tx database.Tx) error {
	type row struct {
		AppID             string
		Regions           []string
		SkipCertificate   bool
		SkipRevisionToken bool
		Attestation       string
		Issuers           []string
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT p.app_id, p.regions, p.skip_certificate, p.skip_revision_token, coalesce(p.attestation::text, '') AS attestation,
		       ARRAY (
		           SELECT   h.issuer
		           FROM     authorized_app_authority l
		           JOIN     health_authority h USING (authority_id)
		           WHERE    l.app_id = p.app_id
		           ORDER BY h.issuer
		       ) AS issuers
		FROM   authorized_app p`) {
		if err != nil {
			return err
		}
		a.Apps[r.AppID] = App{
			ID: r.AppID, Regions: r.Regions, Authorities: r.Issuers,
			SkipCertificate: r.SkipCertificate, SkipRevisionToken: r.SkipRevisionToken,
			Attestation: r.Attestation,
		}
	}
	return nil
}
