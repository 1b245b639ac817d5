package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/exposure"
)

const (
	// uploadKeys is how many keys a phone uploads: a fortnight's.
	uploadKeys = 14

	// leastKeys is what a log is filled with at least.
	leastKeys = uploadKeys * epochsAtLeast

	// epochsAtLeast is how many epochs an export of four hours holds.
	epochsAtLeast = 4

	// epochKeys is how many keys one statement fills in.
	epochKeys = 250_000
)

// metadata is a way in which generated keys differ from each other. Its query
// gives $1 uploads of fourteen keys, newest on the day before $2.
type metadata struct {
	name string
	size *goal // of the files, in bytes a key
	sql  string
}

// realistic is what a country's phones send: of each hundred uploads 85 are
// confirmed, 10 likely and 5 reported by their users; 60 tell the onset of
// symptoms, one to eight days ago, and four days are assumed for the others; a
// few phones were set up anew in the middle of a day.
func realistic() metadata {
	return metadata{"realistic", atMost(17.8), `
		SELECT decode(md5(random()::text || person.n || '/' || day), 'hex') AS key,
		       ($2::integer - day) * 144 AS start_interval,
		       CASE WHEN a < 248 THEN 144 ELSE 12 + a % 120 END AS period,
		       CASE WHEN b < 217 THEN 2 WHEN b < 243 THEN 4 ELSE 5 END AS risk,
		       CASE WHEN b < 217 THEN 1 WHEN b < 243 THEN 2 ELSE 3 END AS report,
		       CASE WHEN c < 154 THEN 1 + c % 8 ELSE 4 END - day AS onset,
		       a = 7 AS traveler
		FROM   (
			SELECT n, get_byte(h, 0) AS a, get_byte(h, 1) AS b, get_byte(h, 2) AS c
			FROM   generate_series(1, $1) AS n
			CROSS JOIN LATERAL decode(md5(random()::text || n), 'hex') AS h
		) AS person
		CROSS JOIN generate_series(1, 14) AS day`}
}

// even is the worst that can come: each value that is allowed, as often as any
// other, whatever the other keys of the phone.
func even() metadata {
	return metadata{"even", nil, `
		SELECT decode(md5(random()::text || n || '/' || day), 'hex') AS key,
		       ($2::integer - day) * 144 AS start_interval,
		       1 + floor(random() * 144) AS period,
		       floor(random() * 9) AS risk,
		       1 + floor(random() * 4) AS report,
		       floor(random() * 29) - 14 AS onset,
		       false AS traveler
		FROM   generate_series(1, $1) AS n
		CROSS JOIN generate_series(1, 14) AS day`}
}

// arrive puts so many keys where uploads put them, due now.
func (s *stage) arrive(ctx context.Context, m metadata, keys int) error {
	if err := s.exec(ctx, `
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		SELECT key, 0, start_interval, period, risk, report, onset, traveler, '{US}', $3
		FROM   (`+m.sql+`) AS k`, keys/uploadKeys, int(s.today()), s.Now().Truncate(time.Hour)); err != nil {
		return err
	}
	return s.exec(ctx, `VACUUM (ANALYZE) arrival`)
}

func (s *stage) today() exposure.Day { return exposure.DayOf(s.Now()) }

// retain puts so many keys into the log, as sealing leaves them, and gives how
// many those are exactly.
func (s *stage) retain(ctx context.Context, m metadata, keys int) (int, error) {
	if _, err := s.Store.EnsurePartitions(ctx, s.Now(), 16*24*time.Hour); err != nil {
		return 0, err
	}
	epochs := max(epochsAtLeast, keys/epochKeys)
	uploads := keys / epochs / uploadKeys
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for epoch := 1; epoch <= epochs; epoch++ {
		group.Go(func() error { return s.fillEpoch(inner, m, epoch, uploads) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if err := s.exec(ctx, `UPDATE log_head SET last_epoch = $1`, epochs); err != nil {
		return 0, err
	}
	return epochs * uploads * uploadKeys, s.settle(ctx)
}

func (s *stage) fillEpoch(ctx context.Context, m metadata, epoch, uploads int) error {
	if err := s.exec(ctx, `
		INSERT INTO exposure (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, epoch, padding)
		SELECT   key, 0, start_interval, period, risk, report, onset, traveler, '{US}', 0, $3, false
		FROM     (`+m.sql+`) AS k
		ORDER BY start_interval, period, report, risk, onset, key`, uploads, int(s.today()), epoch); err != nil {
		return err
	}
	return s.exec(ctx, `
		INSERT INTO epoch (epoch, sealed_at, keys, revisions, padding, discarded)
		VALUES ($1, $2, $3, 0, 0, 0)`, epoch, s.Now(), uploads*uploadKeys)
}

// settle does what PostgreSQL would do on its own sooner or later, so that it
// does not while something is measured.
func (s *stage) settle(ctx context.Context) error {
	for _, order := range []string{`VACUUM (ANALYZE)`, `CHECKPOINT`} {
		if err := s.exec(ctx, order); err != nil {
			return fmt.Errorf("%s: %w", order, err)
		}
	}
	return nil
}
