package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// Configuration is who may upload and what is published, as operators write it.
// Zero times are no bounds. Lists are ordered by name.
type Configuration struct {
	Authorities []AuthorityConfig
	Apps        []AppConfig
	SigningKeys []SigningKeyConfig
	Exports     []ExportConfig
	Pulls       []PullConfig
	Allows      []AllowConfig
	Imports     []ImportConfig
	Mirrors     []MirrorConfig
}

// AuthorityConfig is a health authority; its issuer names it.
type AuthorityConfig struct {
	Issuer, Audience, Name string
	JWKSURI                string `db:"jwks_uri"`
	StatsAPI               bool
	Keys                   []AuthorityKeyConfig // by version
}

// AuthorityKeyConfig is a public key of an authority.
type AuthorityKeyConfig struct {
	Version    string
	PublicKey  string // PEM
	From, Thru time.Time
}

// AppConfig is an app that may upload.
type AppConfig struct {
	AppID             string // lower case
	Regions           []string
	Authorities       []string // issuers
	SkipCertificate   bool
	SkipRevisionToken bool
	Attestation       string // JSON of the policy for its devices; "": there is none
}

// SigningKeyConfig is a key with which exports can be signed.
type SigningKeyConfig struct {
	Name, KeyURL, KeyID, KeyVersion string
	From, Leads, Thru               time.Time // see SigningOrder
}

// ExportConfig is an export. Its bucket and root never change.
type ExportConfig struct {
	Name, Bucket, Root, Region   string
	InputRegions, ExcludeRegions []string
	Travelers                    Travelers
	Provenance                   Provenance
	Period                       time.Duration
	From, Thru                   time.Time
	Backfill                     bool
	SigningKeys                  []string // names
	MaxRecords                   int

	// Unfinished says that something is still to be signed: keys are to be
	// published, or files to be taken out of the index one day. It is only read.
	Unfinished bool
}

// Reconfiguration is what shall change. Exports cannot be removed, since the
// names of their objects must not be used again: they end.
type Reconfiguration struct {
	Put struct {
		Authorities []AuthorityConfig
		Apps        []AppConfig
		SigningKeys []SigningKeyConfig
		Exports     []ExportConfig
		Pulls       []PullConfig
		Allows      []AllowConfig
		Imports     []ImportConfig
		Mirrors     []MirrorConfig
	}
	Remove struct {
		Authorities, Apps, SigningKeys  []string
		Pulls, Allows, Imports, Mirrors []string
	}
	Audit []AuditEntry
}

// AuditEntry says what was changed, for those who ask later.
type AuditEntry struct {
	At                  time.Time
	Who, Action, Detail string
}

// configurationLock is the number of the lock under which one operator at a time
// changes the configuration. Services read without it.
const configurationLock = 0x636f6e66

// Configuration reads all of it in one snapshot.
func (db *DB) Configuration(ctx context.Context) (c Configuration, err error) {
	defer errs.Wrap(&err, "Configuration")
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		c, err = readConfiguration(ctx, tx)
		return err
	})
	return c, err
}

// Reconfigure changes the configuration in one transaction. decide gets what is
// there, which nobody else can change meanwhile; its error leaves all as it is.
func (db *DB) Reconfigure(ctx context.Context, now time.Time, decide func(current Configuration) (Reconfiguration, error)) (err error) {
	defer errs.Wrap(&err, "Reconfigure")
	return db.InTx(ctx, func(tx database.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, configurationLock); err != nil {
			return err
		}
		current, err := readConfiguration(ctx, tx)
		if err != nil {
			return err
		}
		r, err := decide(current)
		if err != nil {
			return err
		}
		return r.write(ctx, tx, now)
	})
}

// AuditLog gives the newest entries, newest first.
func (db *DB) AuditLog(ctx context.Context, limit int) (entries []AuditEntry, err error) {
	defer errs.Wrap(&err, "AuditLog(%d)", limit)
	return database.All[AuditEntry](ctx, db, `
		SELECT   at, who, action, detail
		FROM     audit_log
		ORDER BY audit_id DESC
		LIMIT    $1`, limit)
}

func readConfiguration(ctx context.Context, tx database.Tx) (c Configuration, err error) {
	if c.Authorities, err = readAuthorityConfigs(ctx, tx); err != nil {
		return c, err
	}
	c.Apps, err = database.All[AppConfig](ctx, tx, `
		SELECT   p.app_id, p.regions, p.skip_certificate, p.skip_revision_token, coalesce(p.attestation::text, '') AS attestation,
		         ARRAY (
		             SELECT   h.issuer
		             FROM     authorized_app_authority l
		             JOIN     health_authority h USING (authority_id)
		             WHERE    l.app_id = p.app_id
		             ORDER BY h.issuer
		         ) AS authorities
		FROM     authorized_app p
		ORDER BY p.app_id`)
	if err != nil {
		return c, err
	}
	if c.SigningKeys, err = readSigningKeyConfigs(ctx, tx); err != nil {
		return c, err
	}
	if c.Exports, err = readExportConfigs(ctx, tx); err != nil {
		return c, err
	}
	return c, c.readNeighbours(ctx, tx)
}

func readAuthorityConfigs(ctx context.Context, tx database.Tx) ([]AuthorityConfig, error) {
	all, err := database.All[AuthorityConfig](ctx, tx, `
		SELECT   issuer, audience, name, jwks_uri, stats_api
		FROM     health_authority
		ORDER BY issuer`)
	if err != nil {
		return nil, err
	}
	byIssuer := map[string]*AuthorityConfig{}
	for i := range all {
		byIssuer[all[i].Issuer] = &all[i]
	}
	type row struct {
		Issuer, Version, PublicKey string
		ValidFrom, ValidThru       pgtime
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   a.issuer, k.version, k.public_key, k.valid_from, k.valid_thru
		FROM     health_authority_key k
		JOIN     health_authority a USING (authority_id)
		WHERE    k.source = ''   -- those that were discovered are nobody's configuration
		ORDER BY a.issuer, k.version`) {
		if err != nil {
			return nil, err
		}
		a := byIssuer[r.Issuer]
		a.Keys = append(a.Keys, AuthorityKeyConfig{
			Version: r.Version, PublicKey: r.PublicKey, From: r.ValidFrom.bound(), Thru: r.ValidThru.bound(),
		})
	}
	return all, nil
}

func readSigningKeyConfigs(ctx context.Context, tx database.Tx) (all []SigningKeyConfig, err error) {
	for r, err := range database.Each[signingKeyRow](ctx, tx, `
		SELECT   name, key_url, key_id, key_version, valid_from, leads_from, valid_thru
		FROM     signing_key
		ORDER BY name`) {
		if err != nil {
			return nil, err
		}
		all = append(all, r.config())
	}
	return all, nil
}

func readExportConfigs(ctx context.Context, tx database.Tx) (all []ExportConfig, err error) {
	type row struct {
		Name, Bucket, Root, Region   string
		InputRegions, ExcludeRegions []string
		Travelers, Provenance        string
		Seconds                      float64
		ValidFrom, ValidThru         pgtime
		Backfill                     bool
		MaxRecords                   int
		SigningKeys                  []string
		Unfinished                   bool
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   x.name, x.bucket, x.root, x.region, x.input_regions, x.exclude_regions, x.travelers, x.provenance,
		         extract(epoch FROM x.period)::float8 AS seconds, x.valid_from, x.valid_thru, x.backfill, x.max_records,
		         ARRAY (SELECT k.name FROM export_signing_key k WHERE k.export_id = x.export_id ORDER BY k.name) AS signing_keys,
		         (
		             x.last_epoch IS NOT NULL AND x.cut_at < x.valid_thru   -- its last batch is not cut
		             OR EXISTS (SELECT FROM export_batch b WHERE b.export_id = x.export_id AND b.done_at IS NULL)
		             OR EXISTS (SELECT FROM export_file f WHERE f.export_id = x.export_id)
		             OR x.written_sequence < x.index_sequence
		         ) AS unfinished
		FROM     export x
		ORDER BY x.name`) {
		if err != nil {
			return nil, err
		}
		all = append(all, ExportConfig{
			Name: r.Name, Bucket: r.Bucket, Root: r.Root, Region: r.Region,
			InputRegions: r.InputRegions, ExcludeRegions: r.ExcludeRegions, Travelers: Travelers(r.Travelers), Provenance: Provenance(r.Provenance),
			Period: time.Duration(r.Seconds * float64(time.Second)), From: r.ValidFrom.bound(), Thru: r.ValidThru.bound(),
			Backfill: r.Backfill, MaxRecords: r.MaxRecords, SigningKeys: r.SigningKeys, Unfinished: r.Unfinished,
		})
	}
	return all, nil
}

// bound is the time, or the zero time where there is no bound.
func (t pgtime) bound() time.Time {
	if t.Equal(beginning) || t.Equal(never) {
		return time.Time{}
	}
	return t.Time
}

// unbounded is the inverse of bound for a parameter: nil stands for infinity.
func unbounded(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// write puts before it removes: an app may move from one authority to another.
func (r Reconfiguration) write(ctx context.Context, tx database.Tx, now time.Time) error {
	w := configurator{ctx, tx, now}
	for _, step := range []func() error{
		func() error { return each(r.Put.Authorities, w.putAuthority) },
		func() error { return each(r.Put.Apps, w.putApp) },
		func() error { return each(r.Put.SigningKeys, w.putSigningKey) },
		func() error { return each(r.Put.Exports, w.putExport) },
		func() error { return w.removeAllows(r.Remove.Allows) }, // first: another may take over who it was
		func() error { return each(r.Put.Pulls, w.putPull) },
		func() error { return each(r.Put.Allows, w.putAllow) },
		func() error { return each(r.Put.Imports, w.putImport) },
		func() error { return each(r.Put.Mirrors, w.putMirror) },
		func() error { return w.endNeighbours("federation", r.Remove.Pulls) },
		func() error { return w.endNeighbours("import", r.Remove.Imports) },
		func() error { return w.endMirrors(r.Remove.Mirrors) },
		func() error {
			return w.exec(`DELETE FROM authorized_app WHERE app_id = ANY ($1)`, notNull(r.Remove.Apps))
		},
		func() error {
			return w.exec(`DELETE FROM health_authority WHERE issuer = ANY ($1)`, notNull(r.Remove.Authorities))
		},
		func() error {
			return w.exec(`DELETE FROM signing_key WHERE name = ANY ($1)`, notNull(r.Remove.SigningKeys))
		},
		func() error { return each(r.Audit, w.putAudit) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// configurator is one transaction that changes the configuration. It lives no
// longer than that, so it may hold the context.
type configurator struct {
	ctx context.Context
	tx  database.Tx
	now time.Time
}

func (w configurator) exec(sql string, args ...any) error {
	_, err := w.tx.Exec(w.ctx, sql, args...)
	return err
}

func each[T any](all []T, f func(T) error) error {
	for _, v := range all {
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// putAuthority replaces the keys of the configuration. What was discovered stays,
// unless it was at another place: then it no longer counts, and the set at the
// new place has yet to be read.
func (w configurator) putAuthority(a AuthorityConfig) (err error) {
	defer errs.Wrap(&err, "health authority %s", a.Issuer)
	if err := w.exec(`
		INSERT INTO health_authority (issuer, audience, name, jwks_uri, stats_api)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (issuer) DO UPDATE
		SET audience = excluded.audience, name = excluded.name, jwks_uri = excluded.jwks_uri, stats_api = excluded.stats_api,
		    jwks_read_at = CASE WHEN health_authority.jwks_uri = excluded.jwks_uri THEN health_authority.jwks_read_at END,
		    jwks_failed_at = CASE WHEN health_authority.jwks_uri = excluded.jwks_uri THEN health_authority.jwks_failed_at END,
		    jwks_failure = CASE WHEN health_authority.jwks_uri = excluded.jwks_uri THEN health_authority.jwks_failure ELSE '' END`,
		a.Issuer, a.Audience, a.Name, a.JWKSURI, a.StatsAPI); err != nil {
		return err
	}
	if err := w.exec(`
		DELETE FROM health_authority_key
		WHERE  authority_id = (SELECT authority_id FROM health_authority WHERE issuer = $1)
		AND    (source = '' OR source <> $2)`, a.Issuer, a.JWKSURI); err != nil {
		return err
	}
	return each(a.Keys, func(k AuthorityKeyConfig) error {
		return w.exec(`
			INSERT INTO health_authority_key (authority_id, version, public_key, valid_from, valid_thru)
			SELECT authority_id, $2, $3, coalesce($4::timestamptz, '-infinity'), coalesce($5::timestamptz, 'infinity')
			FROM   health_authority
			WHERE  issuer = $1`, a.Issuer, k.Version, k.PublicKey, unbounded(k.From), unbounded(k.Thru))
	})
}

func (w configurator) putApp(a AppConfig) (err error) {
	defer errs.Wrap(&err, "app %s", a.AppID)
	if err := w.exec(`
		INSERT INTO authorized_app (app_id, regions, skip_certificate, skip_revision_token, attestation)
		VALUES ($1, $2, $3, $4, nullif($5, '')::jsonb)
		ON CONFLICT (app_id) DO UPDATE
		SET regions = excluded.regions, skip_certificate = excluded.skip_certificate, skip_revision_token = excluded.skip_revision_token,
		    attestation = excluded.attestation`,
		a.AppID, notNull(a.Regions), a.SkipCertificate, a.SkipRevisionToken, a.Attestation); err != nil {
		return err
	}
	if err := w.exec(`DELETE FROM authorized_app_authority WHERE app_id = $1`, a.AppID); err != nil {
		return err
	}
	n, err := database.Exec(w.ctx, w.tx, `
		INSERT INTO authorized_app_authority (app_id, authority_id)
		SELECT $1, authority_id
		FROM   health_authority
		WHERE  issuer = ANY ($2)`, a.AppID, notNull(a.Authorities))
	if err == nil && n != int64(len(a.Authorities)) {
		return errs.Invalid("configuration", "app %s names a health authority that is not there", a.AppID)
	}
	return err
}

func (w configurator) putSigningKey(k SigningKeyConfig) (err error) {
	defer errs.Wrap(&err, "signing key %s", k.Name)
	return w.exec(`
		INSERT INTO signing_key (name, key_url, key_id, key_version, valid_from, leads_from, valid_thru)
		VALUES ($1, $2, $3, $4, coalesce($5::timestamptz, '-infinity'), coalesce($6::timestamptz, '-infinity'), coalesce($7::timestamptz, 'infinity'))
		ON CONFLICT (name) DO UPDATE
		SET key_url = excluded.key_url, key_id = excluded.key_id, key_version = excluded.key_version,
		    valid_from = excluded.valid_from, leads_from = excluded.leads_from, valid_thru = excluded.valid_thru`,
		k.Name, k.KeyURL, k.KeyID, k.KeyVersion, unbounded(k.From), unbounded(k.Leads), unbounded(k.Thru))
}

// putExport leaves the bucket and root of an export that is there alone.
func (w configurator) putExport(x ExportConfig) (err error) {
	defer errs.Wrap(&err, "export %s", x.Name)
	if err := w.exec(`
		INSERT INTO export (name, bucket, root, region, input_regions, exclude_regions, travelers, period,
		                    valid_from, valid_thru, backfill, max_records, created_at, provenance)
		VALUES ($1, $2, $3, $4, $5, $6, $7, make_interval(secs => $8::float8),
		        coalesce($9::timestamptz, '-infinity'), coalesce($10::timestamptz, 'infinity'), $11, $12, $13, coalesce(nullif($14, ''), 'any'))
		ON CONFLICT (name) DO UPDATE
		SET region = excluded.region, input_regions = excluded.input_regions, exclude_regions = excluded.exclude_regions,
		    travelers = excluded.travelers, provenance = excluded.provenance, period = excluded.period, valid_from = excluded.valid_from,
		    valid_thru = excluded.valid_thru, backfill = excluded.backfill, max_records = excluded.max_records`,
		x.Name, x.Bucket, x.Root, x.Region, notNull(x.InputRegions), notNull(x.ExcludeRegions), string(x.Travelers), x.Period.Seconds(),
		unbounded(x.From), unbounded(x.Thru), x.Backfill, x.MaxRecords, w.now, string(x.Provenance)); err != nil {
		return err
	}
	if err := w.exec(`
		DELETE FROM export_signing_key
		WHERE  export_id = (SELECT export_id FROM export WHERE name = $1)`, x.Name); err != nil {
		return err
	}
	return each(x.SigningKeys, func(key string) error {
		return w.exec(`
			INSERT INTO export_signing_key (export_id, name)
			SELECT export_id, $2
			FROM   export
			WHERE  name = $1`, x.Name, key)
	})
}

func (w configurator) putAudit(e AuditEntry) error {
	return w.exec(`
		INSERT INTO audit_log (at, who, action, detail)
		VALUES ($1, $2, $3, $4)`, e.At, e.Who, e.Action, e.Detail)
}

// notNull is an empty list for nil, which would be NULL.
func notNull(list []string) []string { return append([]string{}, list...) }
