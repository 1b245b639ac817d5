package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// TakeLease takes a named lease until the given time, unless somebody holds it.
// Its fence tells this holder from later ones.
func (db *DB) TakeLease(ctx context.Context, name string, now, until time.Time) (fence int64, ok bool, err error) {
	defer errs.Wrap(&err, "TakeLease(%s)", name)
	return database.One[int64](ctx, db, `
		INSERT INTO lease AS l (name, fence, held_until)
		VALUES ($1, 1, $3)
		ON CONFLICT (name) DO UPDATE
		SET    fence = l.fence + 1, held_until = $3
		WHERE  l.held_until <= $2
		RETURNING fence`, name, now, until)
}

// ReturnLease ends a lease early, if this holder still has it.
func (db *DB) ReturnLease(ctx context.Context, name string, fence int64, now time.Time) (err error) {
	defer errs.Wrap(&err, "ReturnLease(%s)", name)
	_, err = db.Exec(ctx, `
		UPDATE lease
		SET    held_until = $3
		WHERE  name = $1 AND fence = $2`, name, fence, now)
	return err
}

// RecordProgress notes that a job has done its work.
func (db *DB) RecordProgress(ctx context.Context, name string, now time.Time) (err error) {
	defer errs.Wrap(&err, "RecordProgress(%s)", name)
	_, err = db.Exec(ctx, `
		INSERT INTO job_progress AS p (name, succeeded_at)
		VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE
		SET    succeeded_at = greatest(p.succeeded_at, $2)`, name, now)
	return err
}

// Progress gives when each job last did its work.
func (db *DB) Progress(ctx context.Context) (_ map[string]time.Time, err error) {
	defer errs.Wrap(&err, "Progress")
	type row struct {
		Name        string
		SucceededAt time.Time
	}
	at := map[string]time.Time{}
	for r, err := range database.Each[row](ctx, db, `SELECT name, succeeded_at FROM job_progress`) {
		if err != nil {
			return nil, err
		}
		at[r.Name] = r.SucceededAt
	}
	return at, nil
}
