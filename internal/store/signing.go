package store

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// maxSigningKeys is how many signatures phones read at most (protocol, section 4).
const maxSigningKeys = 10

// ValidAt tells whether the key signs what is cut at a time.
func (k SigningKeyConfig) ValidAt(at time.Time) bool {
	return !k.From.After(at) && (k.Thru.IsZero() || k.Thru.After(at))
}

// LeadsFrom is when the key goes before those that were there: at once, unless
// it is to be rehearsed.
func (k SigningKeyConfig) LeadsFrom() time.Time { return latest(k.From, k.Leads) }

// SigningOrder gives those of an export's keys that sign what is cut at a time,
// in the order in which phones see them: the key that came to lead last is the
// first, and those that are rehearsed stand behind all that lead. Of more than
// phones read the last are left out.
func SigningOrder(keys []SigningKeyConfig, at time.Time) (order []SigningKeyConfig) {
	for _, k := range keys {
		if k.ValidAt(at) {
			order = append(order, k)
		}
	}
	slices.SortFunc(order, func(a, b SigningKeyConfig) int { return compareSigners(a, b, at) })
	return order[:min(len(order), maxSigningKeys)]
}

func compareSigners(a, b SigningKeyConfig, at time.Time) int {
	aLeads, bLeads := !a.LeadsFrom().After(at), !b.LeadsFrom().After(at)
	switch {
	case aLeads && !bLeads:
		return -1
	case bLeads && !aLeads:
		return 1
	case aLeads:
		return cmp.Or(b.LeadsFrom().Compare(a.LeadsFrom()), cmp.Compare(b.Name, a.Name))
	default: // of two that are rehearsed the one that leads sooner
		return cmp.Or(a.LeadsFrom().Compare(b.LeadsFrom()), cmp.Compare(b.Name, a.Name))
	}
}

// signingKeyRow is a signing key as the table holds it.
type signingKeyRow struct {
	Name, KeyURL, KeyID, KeyVersion string
	ValidFrom, LeadsFrom, ValidThru pgtime
}

func (r signingKeyRow) config() SigningKeyConfig {
	return SigningKeyConfig{
		Name: r.Name, KeyURL: r.KeyURL, KeyID: r.KeyID, KeyVersion: r.KeyVersion,
		From: r.ValidFrom.bound(), Leads: r.LeadsFrom.bound(), Thru: r.ValidThru.bound(),
	}
}

// exportSigningKeys gives the keys that an export names, valid or not.
func exportSigningKeys(ctx context.Context, tx database.Tx, exportID int) (all []SigningKeyConfig, err error) {
	for r, err := range database.Each[signingKeyRow](ctx, tx, `
		SELECT   k.name, k.key_url, k.key_id, k.key_version, k.valid_from, k.leads_from, k.valid_thru
		FROM     export_signing_key l
		JOIN     signing_key k USING (name)
		WHERE    l.export_id = $1
		ORDER BY k.name`, exportID) {
		if err != nil {
			return nil, err
		}
		all = append(all, r.config())
	}
	return all, nil
}

// signingKeys gives the keys that sign for an export at a time, in order.
func signingKeys(ctx context.Context, tx database.Tx, exportID int, now time.Time) ([]SigningKey, error) {
	all, err := exportSigningKeys(ctx, tx, exportID)
	return frozen(SigningOrder(all, now)), err
}

// indexKeys gives the keys that sign an index: those that sign files, or, where
// none is left because the export has ended, the last that did. Its files must
// still be taken out of the index when their time comes.
func indexKeys(ctx context.Context, tx database.Tx, exportID int, now time.Time) ([]SigningKey, error) {
	all, err := exportSigningKeys(ctx, tx, exportID)
	if err != nil {
		return nil, err
	}
	if order := SigningOrder(all, now); len(order) > 0 {
		return frozen(order), nil
	}
	var ended time.Time
	for _, k := range all {
		if !k.Thru.IsZero() && !k.Thru.After(now) {
			ended = latest(ended, k.Thru)
		}
	}
	return frozen(SigningOrder(all, ended.Add(-time.Microsecond))), nil
}

// frozen gives keys in the form in which a batch keeps them.
func frozen(order []SigningKeyConfig) []SigningKey {
	keys := []SigningKey{}
	for _, k := range order {
		keys = append(keys, SigningKey{Name: k.Name, URL: k.KeyURL, ID: k.KeyID, Version: k.KeyVersion})
	}
	return keys
}

// Signed is what an export has been signed with.
type Signed struct {
	Newest     SignedFile     // the last file that is listed; zero: there is none
	Unfinished map[string]int // by the name of a key: batches that were cut with it, and have no files yet
}

// SignedFile is a file in its bucket.
type SignedFile struct {
	Bucket, Object string
	Size           int64
	CutAt          time.Time
	SigningKeys    []SigningKey // as they were when it was cut
}

// Signed tells of every export, by name, with which keys its batches were cut.
func (db *DB) Signed(ctx context.Context) (all map[string]Signed, err error) {
	defer errs.Wrap(&err, "Signed")
	all = map[string]Signed{}
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		if err := readNewestFiles(ctx, tx, all); err != nil {
			return err
		}
		return readUnfinished(ctx, tx, all)
	})
	return all, err
}

func readNewestFiles(ctx context.Context, tx database.Tx, all map[string]Signed) error {
	type row struct {
		Name, Bucket, Object string
		Size                 int64
		CutAt                time.Time
		SigningKeys          []byte
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT DISTINCT ON (x.export_id)
		         x.name, x.bucket, f.object, f.size, b.cut_at, b.signing_keys
		FROM     export x
		JOIN     export_batch b USING (export_id)
		JOIN     export_file f USING (batch_id)
		WHERE    f.delisted_sequence IS NULL
		ORDER BY x.export_id, b.first_epoch DESC, f.number DESC`) {
		if err != nil {
			return err
		}
		file := SignedFile{Bucket: r.Bucket, Object: r.Object, Size: r.Size, CutAt: r.CutAt.UTC()}
		if err := json.Unmarshal(r.SigningKeys, &file.SigningKeys); err != nil {
			return err
		}
		all[r.Name] = Signed{Newest: file}
	}
	return nil
}

func readUnfinished(ctx context.Context, tx database.Tx, all map[string]Signed) error {
	type row struct {
		Name, Key string
		Batches   int
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   x.name, k.value->>'name' AS key, count(*)::int AS batches
		FROM     export x
		JOIN     export_batch b USING (export_id)
		CROSS JOIN jsonb_array_elements(b.signing_keys) k
		WHERE    b.done_at IS NULL
		GROUP BY x.name, k.value->>'name'`) {
		if err != nil {
			return err
		}
		of := all[r.Name]
		if of.Unfinished == nil {
			of.Unfinished = map[string]int{}
		}
		of.Unfinished[r.Key] = r.Batches
		all[r.Name] = of
	}
	return nil
}
