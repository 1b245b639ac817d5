package store

import (
	"context"
	"encoding/json"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Import is a public export whose keys we take.
type Import struct {
	ImportConfig
	Origin int
}

// Imports gives the public exports to import, first those that have waited
// longest.
func (db *DB) Imports(ctx context.Context) (all []Import, err error) {
	defer errs.Wrap(&err, "Imports")
	type row struct {
		Origin                          int
		Name, IndexURL, RootURL, Region string
		Traveler                        bool
		ReportWhenMissing               int16
		OnsetWhenMissing                *int16
		Keys                            []byte
	}
	for r, err := range database.Each[row](ctx, db, `
		SELECT   n.origin, n.name, i.index_url, i.root_url, i.region, i.traveler, i.report_when_missing, i.onset_when_missing, i.keys
		FROM     public_import i
		JOIN     neighbour n USING (origin)
		WHERE    n.ended_at IS NULL
		ORDER BY n.attempted_at NULLS FIRST, n.name`) {
		if err != nil {
			return nil, err
		}
		i := Import{Origin: r.Origin, ImportConfig: ImportConfig{
			Name: r.Name, IndexURL: r.IndexURL, RootURL: r.RootURL, Region: r.Region, Traveler: r.Traveler,
			ReportWhenMissing: exposure.Report(r.ReportWhenMissing), OnsetWhenMissing: r.OnsetWhenMissing,
		}}
		if err := json.Unmarshal(r.Keys, &i.Keys); err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

// SeeImportFiles records the files of an index that were not seen before, in
// its order, and tells how many.
func (db *DB) SeeImportFiles(ctx context.Context, origin int, files []string, now time.Time) (fresh int64, err error) {
	defer errs.Wrap(&err, "SeeImportFiles(%d, %d files)", origin, len(files))
	return database.Exec(ctx, db, `
		INSERT INTO import_file (origin, file, seen_at, retry_at)
		SELECT   $1, u.file, $3::timestamptz, $3::timestamptz
		FROM     unnest($2::text[]) WITH ORDINALITY AS u(file, place)
		-- Else each entry of each index would use up a number.
		WHERE    NOT EXISTS (SELECT FROM import_file f WHERE f.origin = $1 AND f.file = u.file)
		ORDER BY u.place
		ON CONFLICT (origin, file) DO NOTHING`, origin, notNull(files), now)
}

// ForgetImportFiles deletes what is known of files that were done before the
// given time and are not in the index: such a one would not be seen again.
func (db *DB) ForgetImportFiles(ctx context.Context, origin int, listed []string, doneBefore time.Time) (forgotten int64, err error) {
	defer errs.Wrap(&err, "ForgetImportFiles(%d)", origin)
	return database.Exec(ctx, db, `
		DELETE FROM import_file f
		WHERE  f.origin = $1 AND f.done_at < $3
		AND    NOT EXISTS (SELECT FROM unnest($2::text[]) AS u(file) WHERE u.file = f.file)`, origin, notNull(listed), doneBefore)
}

// WaitingImportFiles tells how many files are not done.
func (db *DB) WaitingImportFiles(ctx context.Context, origin int) (n int64, err error) {
	defer errs.Wrap(&err, "WaitingImportFiles(%d)", origin)
	n, _, err = database.One[int64](ctx, db, `SELECT count(*) FROM import_file WHERE origin = $1 AND done_at IS NULL`, origin)
	return n, err
}

// Backoff says when a file is tried again.
type Backoff struct {
	First, Most time.Duration // after one attempt; it doubles with each, up to the most
}

// ImportFile is a file that it is time to import.
type ImportFile struct {
	File   string
	SeenAt time.Time
	Ahead  bool // of others that were listed before it and failed
}

// BeginImportFile gives the first file, in the order of the index, that is
// neither done nor to be tried later, unless its import has ended. The attempt
// counts from now on and the next is for later: a file that kills whoever
// touches it is not touched again at once.
func (db *DB) BeginImportFile(ctx context.Context, origin int, now time.Time, b Backoff) (f ImportFile, ok bool, err error) {
	defer errs.Wrap(&err, "BeginImportFile(%d)", origin)
	return database.One[ImportFile](ctx, db, `
		UPDATE import_file
		SET    attempts = attempts + 1,
		       retry_at = $2::timestamptz + least($3::float8 * power(2, least(attempts, 30)), $4::float8) * interval '1 second'
		WHERE  (origin, file) = (
			SELECT   f.origin, f.file
			FROM     import_file f
			JOIN     neighbour n USING (origin)
			WHERE    f.origin = $1 AND f.done_at IS NULL AND f.retry_at <= $2 AND n.ended_at IS NULL
			ORDER BY f.number
			LIMIT    1
			FOR UPDATE OF f SKIP LOCKED
		)
		RETURNING file, seen_at, EXISTS (
			SELECT
			FROM   import_file w
			WHERE  w.origin = import_file.origin AND w.done_at IS NULL AND w.number < import_file.number
		) AS ahead`, origin, now, b.First.Seconds(), b.Most.Seconds())
}

// ImportOutcome says what became of a file.
type ImportOutcome string

// The outcomes.
const (
	ImportImported ImportOutcome = "imported"
	ImportVanished ImportOutcome = "vanished" // it was listed, and is not there
	ImportRefused  ImportOutcome = "refused"  // it stayed broken, or signed by nobody whom we trust
	ImportExpired  ImportOutcome = "expired"  // all its keys are too old
)

// EndImportFile notes what became of a file. What failed before stays on record
// unless it was imported.
func (db *DB) EndImportFile(ctx context.Context, origin int, file string, outcome ImportOutcome, now time.Time) (err error) {
	defer errs.Wrap(&err, "EndImportFile(%d, %s)", origin, outcome)
	_, err = db.Exec(ctx, `
		UPDATE import_file
		SET    done_at = $4, outcome = $3, failure = CASE WHEN $3 = 'imported' THEN '' ELSE failure END
		WHERE  origin = $1 AND file = $2 AND done_at IS NULL`, origin, file, string(outcome), now)
	return err
}

// ImportFileFailed notes why a file could not be read, through no fault of its
// own.
func (db *DB) ImportFileFailed(ctx context.Context, origin int, file, failure string) (err error) {
	defer errs.Wrap(&err, "ImportFileFailed(%d)", origin)
	_, err = db.Exec(ctx, `UPDATE import_file SET failure = $3 WHERE origin = $1 AND file = $2`, origin, file, failure)
	return err
}

// ImportFileMissed notes that a file was not there, or wrong, and how often
// that was so.
func (db *DB) ImportFileMissed(ctx context.Context, origin int, file, failure string) (misses int, err error) {
	defer errs.Wrap(&err, "ImportFileMissed(%d)", origin)
	misses, _, err = database.One[int](ctx, db, `
		UPDATE import_file
		SET    misses = misses + 1, failure = $3
		WHERE  origin = $1 AND file = $2
		RETURNING misses`, origin, file, failure)
	return misses, err
}
