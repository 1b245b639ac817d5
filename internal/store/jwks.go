package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// KeySet is where a health authority publishes its keys.
type KeySet struct {
	AuthorityID int
	Issuer      string
	URI         string    `db:"jwks_uri"`
	ReadAt      time.Time // when it was last taken over; zero: never
}

// DiscoveredKey is a public key in a set.
type DiscoveredKey struct {
	Version   string // the kid
	PublicKey string // PEM
}

// Discovery is what a look at a key set found.
type Discovery struct {
	At time.Time

	// Keys are all of the set, at least one. None means that nobody knows what
	// is in it: then no key is lost.
	Keys []DiscoveredKey

	// Exposed are the public halves, in PEM, of keys whose private halves were
	// published. They are revoked in any case.
	Exposed []string

	Failure string // what is wrong, or ""
}

// KeySetChange names the keys, by version, that a discovery makes a difference to.
type KeySetChange struct {
	Added     []string `json:"added,omitempty"`
	Replaced  []string `json:"replaced,omitempty"`  // another key under the same name
	Revoked   []string `json:"revoked,omitempty"`   // not accepted from now on
	Overruled []string `json:"overruled,omitempty"` // the configuration has another key of the name, which counts
}

// KeySets gives the sets of all authorities that publish one, those first that
// were not looked at for longest.
func (db *DB) KeySets(ctx context.Context) (sets []KeySet, err error) {
	defer errs.Wrap(&err, "KeySets")
	type row struct {
		KeySet
		JWKSReadAt pgtime
	}
	for r, err := range database.Each[row](ctx, db, `
		SELECT   authority_id, issuer, jwks_uri, jwks_read_at
		FROM     health_authority
		WHERE    jwks_uri <> ''
		ORDER BY greatest(jwks_read_at, jwks_failed_at) NULLS FIRST, issuer`) {
		if err != nil {
			return nil, err
		}
		r.ReadAt = r.JWKSReadAt.Time
		sets = append(sets, r.KeySet)
	}
	return sets, nil
}

// SaveDiscovery makes the discovered keys of an authority those that a look at
// its set found, all in one transaction, and tells what changed. Keys of the
// configuration are left alone.
//
// When the authority has gone or moved its set since, or another look was saved
// first, this one says nothing about how things are now: saved is false and
// nothing has changed.
func (db *DB) SaveDiscovery(ctx context.Context, s KeySet, d Discovery) (c KeySetChange, saved bool, err error) {
	defer errs.Wrap(&err, "SaveDiscovery(%s)", s.Issuer)
	err = db.InTx(ctx, func(tx database.Tx) error {
		saved, err = lockKeySet(ctx, tx, s)
		if err != nil || !saved {
			return err
		}
		c, err = d.save(ctx, tx, s)
		return err
	})
	if err != nil {
		return KeySetChange{}, false, err
	}
	return c, saved, nil
}

// lockKeySet holds the authority until the end, if it is as it was read.
func lockKeySet(ctx context.Context, tx database.Tx, s KeySet) (same bool, err error) {
	_, same, err = database.One[int](ctx, tx, `
		SELECT authority_id
		FROM   health_authority
		WHERE  authority_id = $1 AND jwks_uri = $2 AND jwks_read_at IS NOT DISTINCT FROM $3
		FOR    UPDATE`, s.AuthorityID, s.URI, unbounded(s.ReadAt))
	return same, err
}

func (d Discovery) save(ctx context.Context, tx database.Tx, s KeySet) (KeySetChange, error) {
	known, err := readAuthorityKeys(ctx, tx, s.AuthorityID, s.URI)
	if err != nil {
		return KeySetChange{}, err
	}
	configured, err := readAuthorityKeys(ctx, tx, s.AuthorityID, "")
	if err != nil {
		return KeySetChange{}, err
	}
	after := d.after(known)
	c := compareKeys(known, after)
	c.Overruled = overruled(configured, after)
	if err := writeKeys(ctx, tx, s, c, after); err != nil {
		return KeySetChange{}, err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE health_authority
		SET    jwks_read_at = CASE WHEN $2 THEN $3 ELSE jwks_read_at END,
		       jwks_failed_at = CASE WHEN $4 <> '' THEN $3 ELSE jwks_failed_at END,
		       jwks_failure = CASE WHEN $4 <> '' THEN $4 ELSE jwks_failure END
		WHERE  authority_id = $1`, s.AuthorityID, len(d.Keys) > 0, d.At, d.Failure); err != nil {
		return KeySetChange{}, err
	}
	return c, c.audit(ctx, tx, s, d.At, known, after)
}

func readAuthorityKeys(ctx context.Context, tx database.Tx, authority int, source string) (map[string]string, error) {
	keys := map[string]string{}
	for k, err := range database.Each[DiscoveredKey](ctx, tx, `
		SELECT version, public_key
		FROM   health_authority_key
		WHERE  authority_id = $1 AND source = $2`, authority, source) {
		if err != nil {
			return nil, err
		}
		keys[k.Version] = k.PublicKey
	}
	return keys, nil
}

// after gives the keys that are accepted after this discovery, by version.
func (d Discovery) after(known map[string]string) map[string]string {
	after := map[string]string{}
	for _, k := range d.Keys {
		after[k.Version] = k.PublicKey
	}
	if len(d.Keys) == 0 {
		after = maps.Clone(known)
	}
	maps.DeleteFunc(after, func(_, key string) bool { return slices.Contains(d.Exposed, key) })
	return after
}

func compareKeys(known, after map[string]string) (c KeySetChange) {
	for version, key := range after {
		old, ok := known[version]
		if !ok {
			c.Added = append(c.Added, version)
		} else if old != key {
			c.Replaced = append(c.Replaced, version)
		}
	}
	for version := range known {
		if _, ok := after[version]; !ok {
			c.Revoked = append(c.Revoked, version)
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Replaced)
	slices.Sort(c.Revoked)
	return c
}

// overruled names the discovered keys that differ from the configured ones.
func overruled(configured, after map[string]string) (versions []string) {
	for version, key := range after {
		if other, ok := configured[version]; ok && other != key {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	return versions
}

func writeKeys(ctx context.Context, tx database.Tx, s KeySet, c KeySetChange, after map[string]string) error {
	gone, fresh := slices.Concat([]string{}, c.Revoked, c.Replaced), slices.Concat([]string{}, c.Added, c.Replaced)
	keys := make([]string, len(fresh))
	for i, version := range fresh {
		keys[i] = after[version]
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM health_authority_key
		WHERE  authority_id = $1 AND source = $2 AND version = ANY ($3)`, s.AuthorityID, s.URI, gone); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO health_authority_key (authority_id, source, version, public_key)
		SELECT $1, $2, k.version, k.public_key
		FROM   unnest($3::text[], $4::text[]) k (version, public_key)`, s.AuthorityID, s.URI, fresh, keys)
	return err
}

// discoverer signs for discovered keys in the audit log.
const discoverer = "jwks"

// audit notes what changed, if anything did.
func (c KeySetChange) audit(ctx context.Context, tx database.Tx, s KeySet, at time.Time, known, after map[string]string) error {
	var parts []string
	for _, version := range slices.Concat(c.Added, c.Replaced, c.Revoked) {
		parts = append(parts, fmt.Sprintf("discovered key %s: %s -> %s", version, fingerprint(known[version]), fingerprint(after[version])))
	}
	if len(parts) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO audit_log (at, who, action, detail)
		VALUES ($1, $2, $3, $4)`, at, discoverer, "change health authority "+s.Issuer, strings.Join(parts, "; "))
	return err
}

func fingerprint(key string) string {
	if key == "" {
		return "(none)"
	}
	return fmt.Sprintf("SHA-256 %x", sha256.Sum256([]byte(key)))
}

// AuthorityStatus says which keys of a health authority are accepted, and how
// its key set is.
type AuthorityStatus struct {
	Issuer     string
	KeySet     string    `db:"jwks_uri"`
	Configured []string  // versions, out of the configuration
	Discovered []string  // versions, out of the key set
	ReadAt     time.Time // when the set was last taken over; zero: never
	FailedAt   time.Time // when something was last wrong with it; zero: never
	Failure    string    `db:"jwks_failure"`
}

// AuthorityStatuses gives those of all authorities, by issuer.
func (db *DB) AuthorityStatuses(ctx context.Context) (all []AuthorityStatus, err error) {
	defer errs.Wrap(&err, "AuthorityStatuses")
	type row struct {
		AuthorityStatus
		JWKSReadAt, JWKSFailedAt pgtime
	}
	for r, err := range database.Each[row](ctx, db, `
		SELECT   a.issuer, a.jwks_uri, a.jwks_read_at, a.jwks_failed_at, a.jwks_failure,
		         ARRAY (
		             SELECT   version
		             FROM     health_authority_key
		             WHERE    authority_id = a.authority_id AND source = ''
		             ORDER BY version
		         ) AS configured,
		         ARRAY (
		             SELECT   version
		             FROM     health_authority_key
		             WHERE    authority_id = a.authority_id AND source = a.jwks_uri AND source <> ''
		             ORDER BY version
		         ) AS discovered
		FROM     health_authority a
		ORDER BY a.issuer`) {
		if err != nil {
			return nil, err
		}
		r.ReadAt, r.FailedAt = r.JWKSReadAt.Time, r.JWKSFailedAt.Time
		all = append(all, r.AuthorityStatus)
	}
	return all, nil
}
