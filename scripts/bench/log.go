package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/export"
	"enkeyserver/internal/system"
)

const (
	// slowRepeats bounds how often what takes long is measured.
	slowRepeats = 3

	// steadyRate is how many uploads a second go on while the log is sealed:
	// many times what a country sends, and few enough that they wait for
	// nobody but the sealer.
	steadyRate = 100

	// steadyBefore is for how long they are watched before that.
	steadyBefore = 3 * time.Second

	// steadySeconds is for how long uploads are written down in advance.
	steadySeconds = 60
)

// log measures how long it takes to seal what has arrived and to cut it into a
// batch, and what uploads notice of it.
func (b *bench) log(ctx context.Context) error {
	exports := []configuration.Export{system.ExportOf("us", exportPeriod, "US")}
	return b.stage(ctx, exports, func(s *stage) error {
		b.say("log: filling the log with %d keys", b.retained)
		retained, err := s.retain(ctx, realistic(), b.retained)
		if err != nil {
			return err
		}
		l, err := newSealing(ctx, b, s, retained)
		if err != nil {
			return err
		}
		repeats := min(b.repeats, slowRepeats)
		for n := range repeats {
			b.say("log: %d of %d", n+1, repeats)
			if err := l.repeat(ctx, b.keys); err != nil {
				return err
			}
		}
		return nil
	})
}

// sealing is the figures of the log, and what they are measured on.
type sealing struct {
	*stage
	sealer, cutter, service *system.Process

	seal, sealTime, cut, cutTime *figure
	before, during               struct{ p99, max *figure }
	refused                      *figure
}

func newSealing(ctx context.Context, b *bench, s *stage, retained int) (_ *sealing, err error) {
	g := b.report.group("log", "%s keys sealed beside %s retained, while %d uploads a second go on",
		number(float64(b.keys)), number(float64(retained)), steadyRate)
	const plain = "DELETE … RETURNING into one table with the same indexes"
	l := &sealing{stage: s}
	l.seal = g.figure("seal", "s", atMost(10)).beside(plain)
	l.sealTime = g.figure("seal, PostgreSQL", "CPU s", nil).beside(plain)
	l.cut = g.figure("cut a batch of it", "s", nil)
	l.cutTime = g.figure("cut, PostgreSQL", "CPU s", nil)
	l.before.p99 = g.figure("uploads before, 99 %", "ms", nil)
	l.during.p99 = g.figure("uploads meanwhile, 99 %", "ms", nil)
	l.before.max = g.figure("uploads before, slowest", "ms", nil)
	l.during.max = g.figure("uploads meanwhile, slowest", "ms", nil)
	l.refused = g.figure("uploads told to try again", "", nil)
	return l, l.start(ctx)
}

// start starts two batchers: one that seals but cuts nothing, for no export is
// due, and one that cuts whatever there is.
func (l *sealing) start(ctx context.Context) (err error) {
	if l.service, err = l.launch(ctx, system.Exposure); err != nil {
		return err
	}
	if l.sealer, err = l.launch(ctx, system.Batcher, "SEAL_PERIOD=1s"); err != nil {
		return err
	}
	if l.cutter, err = l.launch(ctx, system.Batcher, "DEBUG_SEAL_NOW=true"); err != nil {
		return err
	}
	_, err = createBatches(ctx, l.sealer) // meets the export, whose cursor begins here
	if err != nil {
		return err
	}
	for _, order := range []string{
		`CREATE TABLE plain_arrival (LIKE arrival INCLUDING ALL)`,
		`CREATE TABLE plain_exposure (LIKE exposure INCLUDING ALL)`,
	} {
		if err := l.exec(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func createBatches(ctx context.Context, p *system.Process) (done export.Cut, err error) {
	return done, p.Trigger(ctx, "/create-batches", &done)
}

func (l *sealing) repeat(ctx context.Context, keys int) error {
	if err := l.arrive(ctx, realistic(), keys); err != nil {
		return err
	}
	if err := l.copyArrivals(ctx); err != nil {
		return err
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	if err := l.sealUnderLoad(ctx, keys); err != nil {
		return err
	}
	if err := l.cutAll(ctx); err != nil {
		return err
	}
	return l.sealPlainly(ctx)
}

func (l *sealing) copyArrivals(ctx context.Context) error {
	if err := l.exec(ctx, `TRUNCATE plain_arrival, plain_exposure`); err != nil {
		return err
	}
	return l.exec(ctx, `INSERT INTO plain_arrival SELECT * FROM arrival`)
}

// sealUnderLoad seals while phones upload.
func (l *sealing) sealUnderLoad(ctx context.Context, keys int) error {
	requests, err := l.uploads(steadyRate * steadySeconds)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	type outcome struct {
		shots []shot
		err   error
	}
	uploaded := make(chan outcome, 1)
	go func() {
		to := load{addr: address(l.service.URL()), connections: 4 * uploaders, rate: steadyRate}
		shots, err := to.run(ctx, requests, stop)
		uploaded <- outcome{shots, err}
	}()
	time.Sleep(steadyBefore)
	begin := time.Now()
	err = l.sealOnce(ctx, keys)
	end := time.Now()
	close(stop)
	o := <-uploaded
	l.watch(o.shots, begin, end)
	return errors.Join(err, o.err)
}

func (l *sealing) sealOnce(ctx context.Context, keys int) error {
	var done export.Cut
	used, err := l.observe(0, func() (err error) {
		done, err = createBatches(ctx, l.sealer)
		return err
	})
	if err != nil {
		return err
	}
	if done.Keys < keys/uploadKeys*uploadKeys {
		return fmt.Errorf("%d keys were sealed, and not %d: %+v", done.Keys, keys, done)
	}
	l.seal.add(used.elapsed.Seconds())
	l.sealTime.add(used.postgres.Seconds())
	return nil
}

// watch notes what uploads noticed. Those sent first wait for connections.
func (l *sealing) watch(shots []shot, begin, end time.Time) {
	var before, during []shot
	for _, s := range shots {
		switch {
		case s.due.Before(begin.Add(-steadyBefore / 2)): // warming up
		case s.due.Before(begin):
			before = append(before, s)
		case s.due.Before(end):
			during = append(during, s)
		}
	}
	for _, w := range []struct {
		shots    []shot
		p99, max *figure
	}{{before, l.before.p99, l.before.max}, {during, l.during.p99, l.during.max}} {
		if len(w.shots) > 0 {
			ms := millis(latencies(w.shots))
			w.p99.add(quantile(ms, 0.99))
			w.max.add(quantile(ms, 1))
		}
	}
	l.refused.add(float64(refused(shots)))
}

func (l *sealing) cutAll(ctx context.Context) error {
	var done export.Cut
	used, err := l.observe(0, func() (err error) {
		done, err = createBatches(ctx, l.cutter)
		return err
	})
	if err != nil {
		return err
	}
	if done.Batches != 1 {
		return fmt.Errorf("%d batches were cut, and not 1: %+v", done.Batches, done)
	}
	l.cut.add(used.elapsed.Seconds())
	l.cutTime.add(used.postgres.Seconds())
	return nil
}

// sealPlainly moves the same rows without looking at them.
func (l *sealing) sealPlainly(ctx context.Context) error {
	if err := l.settle(ctx); err != nil {
		return err
	}
	used, err := l.observe(0, func() error {
		return l.exec(ctx, `
			WITH due AS (
				DELETE FROM plain_arrival
				RETURNING key, event, start_interval, period, risk, report, onset, traveler, regions, origin
			)
			INSERT INTO plain_exposure (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, epoch, padding)
			SELECT key, event, start_interval, period, risk, report, onset, traveler, regions, origin, 1, false
			FROM   due`)
	})
	l.seal.plain(used.elapsed.Seconds())
	l.sealTime.plain(used.postgres.Seconds())
	return err
}
