package store

import (
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// UploadDay is the statistics of one UTC day of one authority.
type UploadDay struct {
	Day          time.Time
	Unknown      int64
	Android      int64
	IOS          int64
	Keys         int64
	Revisions    int64
	MissingOnset int64
	KeyAges      []int64 // 17 counts: 0..15 whole days, more
	OnsetAges    []int64 // 31 counts: 0..29 whole days, more
}

// UploadDays gives the statistics of an authority, newest day first, without
// anything of the current hour: what sealing has added up, and the facts since.
func (db *DB) UploadDays(ctx context.Context, authorityID int, now time.Time) (_ []UploadDay, err error) {
	defer errs.Wrap(&err, "UploadDays(%d)", authorityID)
	type row struct {
		Day     time.Time
		Measure string
		Bin     int
		N       int64
	}
	var days []UploadDay
	for r, err := range database.Each[row](ctx, db, `
		SELECT   day, measure, bin, sum(n)::bigint AS n
		FROM     (
			SELECT day, measure, bin, n
			FROM   upload_count
			WHERE  authority_id = $1
			UNION ALL
			SELECT day, measure, bin, n
			FROM   (`+countsOf("upload_fact WHERE authority_id = $1 AND hour < $2")+`) AS recent
		) AS parts
		GROUP BY day, measure, bin
		ORDER BY day DESC`, authorityID, hourOf(now)) {
		if err != nil {
			return nil, err
		}
		if len(days) == 0 || !days[len(days)-1].Day.Equal(r.Day) {
			days = append(days, UploadDay{Day: r.Day, KeyAges: make([]int64, keyAgeBins), OnsetAges: make([]int64, onsetAgeBins)})
		}
		days[len(days)-1].add(r.Measure, r.Bin, r.N)
	}
	return days, nil
}

// AttestedUploads counts uploads of one platform whose proof had one outcome.
type AttestedUploads struct {
	Platform    Platform
	Attestation Attestation
	N           int64
}

// attestedDays are added up: enough to hide any one of them.
const attestedDays = 7

// AttestedUploads counts what became of the devices' proofs in the last seven
// whole UTC days, of all authorities. Anything finer would tell whoever may read
// it when somebody was ill.
func (db *DB) AttestedUploads(ctx context.Context, now time.Time) (_ []AttestedUploads, err error) {
	defer errs.Wrap(&err, "AttestedUploads")
	today := exposure.DayOf(now).Time()
	// A count that falls to nothing must be seen to: there is a row for each.
	return database.All[AttestedUploads](ctx, db, `
		SELECT     platform, attestation, coalesce(sum(c.n), 0)::bigint AS n
		FROM       generate_series(0, 2) AS platform
		CROSS JOIN generate_series(0, 2) AS attestation
		LEFT JOIN  upload_count c
		ON         c.measure = 'attestation' AND c.bin = platform * 10 + attestation
		AND        c.day >= $1::date AND c.day < $2::date
		GROUP BY   platform, attestation
		ORDER BY   platform, attestation`, today.AddDate(0, 0, -attestedDays), today)
}

// The last bin of each distribution holds all that is older.
const (
	keyAgeBins   = 17
	onsetAgeBins = 31
)

// add puts one sum where it belongs.
func (d *UploadDay) add(measure string, bin int, n int64) {
	switch measure {
	case "platform":
		*[]*int64{&d.Unknown, &d.Android, &d.IOS}[bin] += n
	case "keys":
		d.Keys += n
	case "revision":
		d.Revisions += n
	case "no-onset":
		d.MissingOnset += n
	case "key-age":
		d.KeyAges[bin] += n
	case "onset-age":
		d.OnsetAges[bin] += n
	}
}

const factColumns = `authority_id, hour, platform, keys, revision, key_ages, onset_age, attestation`

// countsOf is the query that adds facts up; source is where they come from.
func countsOf(source string) string {
	return `
		SELECT   f.authority_id, (f.hour AT TIME ZONE 'UTC')::date AS day, m.measure, m.bin, sum(m.n)::bigint AS n
		FROM     (SELECT ` + factColumns + ` FROM ` + source + `) AS f
		CROSS JOIN LATERAL (
			VALUES ('platform',  f.platform::integer, 1),
			       ('keys',      0, f.keys::integer),
			       ('revision',  0, f.revision::integer),
			       ('no-onset',  0, (f.onset_age IS NULL)::integer),
			       ('onset-age', least(greatest(f.onset_age, 0), 30), (f.onset_age IS NOT NULL)::integer),
			       ('attestation', f.platform * 10 + f.attestation, 1)
			UNION ALL
			SELECT 'key-age', least(greatest(age, 0), 16), 1
			FROM   unnest(f.key_ages) AS age
		) AS m (measure, bin, n)
		GROUP BY f.authority_id, (f.hour AT TIME ZONE 'UTC')::date, m.measure, m.bin`
}

// foldFacts moves the facts of the hours that are over into the sums.
func foldFacts(ctx context.Context, tx database.Tx, now time.Time) error {
	_, err := tx.Exec(ctx, `
		WITH over AS (
			DELETE FROM upload_fact
			WHERE  hour < $1
			RETURNING `+factColumns+`
		)
		INSERT INTO upload_count AS c (authority_id, day, measure, bin, n)
		`+countsOf("over")+`
		ON CONFLICT (authority_id, day, measure, bin) DO UPDATE
		SET    n = c.n + excluded.n`, hourOf(now))
	return err
}
