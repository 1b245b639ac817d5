package main

import (
	"context"
	"fmt"
	"time"

	"enkeyserver/internal/cleanup"
	"enkeyserver/internal/database"
	"enkeyserver/internal/system"
)

// expiredDays is how long ago the key day was that is forgotten.
const expiredDays = 30

// cleanup measures how a day of keys is forgotten.
func (b *bench) cleanup(ctx context.Context) error {
	return b.stage(ctx, nil, func(s *stage) error {
		p, err := s.launch(ctx, system.Cleanup)
		if err != nil {
			return err
		}
		f := newForgetting(b, s, p)
		repeats := min(b.repeats, slowRepeats)
		for n := range repeats {
			b.say("cleanup: %d of %d", n+1, repeats)
			if err := f.repeat(ctx, b.keys); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetting is the figures of cleanup, and what they are measured on.
type forgetting struct {
	*stage
	service *system.Process

	time, postgres, written *figure
	vacuum                  *figure
}

func newForgetting(b *bench, s *stage, p *system.Process) *forgetting {
	g := b.report.group("cleanup", "a key day of %s keys", number(float64(b.keys)))
	const plain = "DELETE of the same rows"
	return &forgetting{
		stage:    s,
		service:  p,
		time:     g.figure("forget it", "s", atMost(0.1)).beside(plain),
		postgres: g.figure("PostgreSQL", "CPU s", nil).beside(plain),
		written:  g.figure("write-ahead log", "MB", atMost(1)).beside(plain),
		vacuum:   g.figure("(VACUUM that a DELETE leaves to do)", "s", nil),
	}
}

func (f *forgetting) repeat(ctx context.Context, keys int) error {
	if err := f.expire(ctx, keys); err != nil {
		return err
	}
	if err := f.copyDay(ctx); err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	if err := f.forget(ctx); err != nil {
		return err
	}
	return f.deletePlainly(ctx)
}

// expire fills one key day that nobody needs any more.
func (f *forgetting) expire(ctx context.Context, keys int) error {
	day := f.today() - expiredDays
	if _, err := f.Store.EnsurePartitions(ctx, day.Time(), 0); err != nil {
		return err
	}
	return f.exec(ctx, `
		INSERT INTO exposure (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, epoch, padding)
		SELECT decode(md5(random()::text || n), 'hex'), 0, $2, 144, 2, 1, 3, false, '{US}', 0, 1, false
		FROM   generate_series(1, $1) AS n`, keys, int(day.Start()))
}

func (f *forgetting) copyDay(ctx context.Context) error {
	if err := f.exec(ctx, `CREATE TABLE plain_exposure (LIKE exposure INCLUDING ALL)`); err != nil {
		return err
	}
	return f.exec(ctx, `INSERT INTO plain_exposure SELECT * FROM exposure`)
}

func (f *forgetting) forget(ctx context.Context) error {
	return f.note(ctx, f.time.add, f.postgres.add, f.written.add, func() error {
		var done cleanup.Forgotten
		err := f.service.Trigger(ctx, "/cleanup-exposures", &done)
		if err == nil && done.Days == 0 {
			err = fmt.Errorf("nothing was forgotten: %+v", done)
		}
		return err
	})
}

func (f *forgetting) deletePlainly(ctx context.Context) error {
	if err := f.note(ctx, f.time.plain, f.postgres.plain, f.written.plain, func() error {
		return f.exec(ctx, `DELETE FROM plain_exposure`)
	}); err != nil {
		return err
	}
	begin := time.Now()
	if err := f.exec(ctx, `VACUUM plain_exposure`); err != nil {
		return err
	}
	f.vacuum.add(time.Since(begin).Seconds())
	return f.exec(ctx, `DROP TABLE plain_exposure`)
}

// note observes an action and tells seconds, processor time and megabytes
// written ahead.
func (f *forgetting) note(ctx context.Context, seconds, cpu, megabytes func(float64), action func() error) error {
	from, err := f.writtenAhead(ctx)
	if err != nil {
		return err
	}
	used, err := f.observe(0, action)
	if err != nil {
		return err
	}
	to, err := f.writtenAhead(ctx)
	seconds(used.elapsed.Seconds())
	cpu(used.postgres.Seconds())
	megabytes((to - from) / 1e6)
	return err
}

// writtenAhead is the length of PostgreSQL's write-ahead log so far.
func (f *forgetting) writtenAhead(ctx context.Context) (float64, error) {
	bytes, _, err := database.One[float64](ctx, f.Store, `SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8`)
	return bytes, err
}
