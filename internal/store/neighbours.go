package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// Pull is a neighbour whose federation server we ask, and where to go on.
type Pull struct {
	PullConfig
	Origin int
	Cursor []byte // as package pull wrote it; nil: from the beginning
}

// Pulls gives the neighbours to ask, first those that have waited longest.
func (db *DB) Pulls(ctx context.Context) (_ []Pull, err error) {
	defer errs.Wrap(&err, "Pulls")
	return database.All[Pull](ctx, db, `
		SELECT   n.origin, n.cursor, n.name, p.server, p.ca, p.cert_file, p.key_file, p.audience, p.include_regions, p.exclude_regions,
		         p.only_travelers, p.only_local_provenance, p.token_kind, p.token_file, p.token_url, p.client_id, p.client_secret
		FROM     federation_pull p
		JOIN     neighbour n USING (origin)
		WHERE    n.ended_at IS NULL
		ORDER BY n.attempted_at NULLS FIRST, n.name`)
}

// Cursor gives where to go on with a neighbour: whoever has just taken its
// lease asks again, for the last holder has moved it.
func (db *DB) Cursor(ctx context.Context, origin int) (cursor []byte, err error) {
	defer errs.Wrap(&err, "Cursor(%d)", origin)
	row, ok, err := database.One[struct{ Cursor []byte }](ctx, db, `SELECT cursor FROM neighbour WHERE origin = $1 AND ended_at IS NULL`, origin)
	if err == nil && !ok {
		return nil, errNotNeighbour
	}
	return row.Cursor, err
}

var errNotNeighbour = errs.NotFound("no_neighbour", "the configuration has no such neighbour to pull from")

// RestartPull lets the next run ask a neighbour from the beginning. What came
// before is known when it comes again.
func (db *DB) RestartPull(ctx context.Context, name string) (err error) {
	defer errs.Wrap(&err, "RestartPull(%s)", name)
	n, err := database.Exec(ctx, db, `
		UPDATE neighbour
		SET    cursor = NULL
		WHERE  kind = 'federation' AND name = $1 AND ended_at IS NULL`, name)
	if err == nil && n == 0 {
		return errNotNeighbour
	}
	return err
}

// NeighbourAttempted notes that we begin to take what a neighbour has.
func (db *DB) NeighbourAttempted(ctx context.Context, origin int, now time.Time) (err error) {
	defer errs.Wrap(&err, "NeighbourAttempted(%d)", origin)
	_, err = db.Exec(ctx, `UPDATE neighbour SET attempted_at = $2 WHERE origin = $1`, origin, now)
	return err
}

// NeighbourSucceeded notes that we have all that the neighbour had.
func (db *DB) NeighbourSucceeded(ctx context.Context, origin int, now time.Time) (err error) {
	defer errs.Wrap(&err, "NeighbourSucceeded(%d)", origin)
	_, err = db.Exec(ctx, `
		UPDATE neighbour
		SET    succeeded_at = greatest(succeeded_at, $2), failure = ''
		WHERE  origin = $1`, origin, now)
	return err
}

// NeighbourFailed notes what went wrong, in words for the operator.
func (db *DB) NeighbourFailed(ctx context.Context, origin int, now time.Time, failure string) (err error) {
	defer errs.Wrap(&err, "NeighbourFailed(%d)", origin)
	_, err = db.Exec(ctx, `
		UPDATE neighbour
		SET    failed_at = $2, failure = $3
		WHERE  origin = $1`, origin, now, failure)
	return err
}

// The kinds of neighbours. Mirrors give us files, not keys.
const (
	KindFederation = "federation"
	KindImport     = "import"
	KindMirror     = "mirror"
)

// Neighbour is how it stands with somebody from whom we take keys or files.
type Neighbour struct {
	Kind, Name string

	Attempted time.Time        // when we last began; zero: never, as in what follows
	Succeeded time.Time        // when we last had all that there was
	Newest    time.Time        // how far the saved cursor is, by the neighbour's clock
	CursorAt  time.Time        // when it was saved
	FailedAt  time.Time        // when something last went wrong
	Failure   string           // of the last run; "": none
	Counts    map[string]int64 // of what was taken, and by reason of what was left out
}

// HadAllAt is the latest time of which we know that we have everything that the
// neighbour had then; zero: there is none. What its clock says of the future
// is not believed.
func (n Neighbour) HadAllAt(now time.Time) time.Time {
	if n.Newest.After(now) {
		return latest(n.Succeeded, now)
	}
	return latest(n.Succeeded, n.Newest)
}

// Neighbours tells how it stands with all of them.
func (db *DB) Neighbours(ctx context.Context) (all []Neighbour, err error) {
	defer errs.Wrap(&err, "Neighbours")
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		all, err = readNeighbours(ctx, tx)
		return err
	})
	return all, err
}

func readNeighbours(ctx context.Context, tx database.Tx) (all []Neighbour, err error) {
	type row struct {
		Kind, Name                                             string
		AttemptedAt, SucceededAt, NewestAt, CursorAt, FailedAt pgtime
		Failure                                                string
		What                                                   []string
		N                                                      []int64
	}
	for r, err := range database.Each[row](ctx, tx, `
		SELECT   kind, name, attempted_at, succeeded_at, newest_at, cursor_at, failed_at, failure,
		         ARRAY (SELECT what FROM neighbour_count c WHERE c.origin = n.origin ORDER BY what) AS what,
		         ARRAY (SELECT c.n FROM neighbour_count c WHERE c.origin = n.origin ORDER BY what) AS n
		FROM     neighbour n
		WHERE    ended_at IS NULL
		UNION ALL
		SELECT   'mirror', name, attempted_at, succeeded_at, NULL, NULL, failed_at, failure,
		         ARRAY ['files'],
		         ARRAY (SELECT count(*) FROM mirror_file f WHERE f.mirror_id = m.mirror_id AND copied_at IS NOT NULL)
		FROM     mirror m
		WHERE    ended_at IS NULL
		ORDER BY kind, name`) {
		if err != nil {
			return nil, err
		}
		n := Neighbour{
			Kind: r.Kind, Name: r.Name, Attempted: r.AttemptedAt.Time, Succeeded: r.SucceededAt.Time, Newest: r.NewestAt.Time,
			CursorAt: r.CursorAt.Time, FailedAt: r.FailedAt.Time, Failure: r.Failure, Counts: map[string]int64{},
		}
		for i, what := range r.What {
			n.Counts[what] = r.N[i]
		}
		all = append(all, n)
	}
	return all, nil
}
