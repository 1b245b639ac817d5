package main

import (
	"context"
	"errors"
	"fmt"

	"enkeyserver/internal/database"
	"enkeyserver/internal/system"
)

// uploaders is how many phones upload at once.
const uploaders = 8

// publish measures uploads beside a log that holds much.
func (b *bench) publish(ctx context.Context) error {
	return b.stage(ctx, nil, func(s *stage) error {
		b.say("publish: filling the log with %d keys", b.retained)
		retained, err := s.retain(ctx, realistic(), b.retained)
		if err != nil {
			return err
		}
		b.say("publish: signing the certificates of %d uploads", b.warmUp()+b.repeats*b.uploads)
		requests, err := s.uploads(b.warmUp() + b.repeats*b.uploads)
		if err != nil {
			return err
		}
		p, err := s.launch(ctx, system.Exposure)
		if err != nil {
			return err
		}
		return b.publishAll(ctx, newPublishing(b, s, p, retained), requests)
	})
}

// warmUp is how many uploads go before those that count.
func (b *bench) warmUp() int { return b.uploads / 3 }

// publishing is the figures of uploads, and what they are measured on.
type publishing struct {
	*stage
	service *system.Process
	load    load

	rate, server, postgres, client *figure
	p50, p95, p99                  *figure
	memory                         *figure
}

func newPublishing(b *bench, s *stage, p *system.Process, retained int) *publishing {
	g := b.report.group("publish", "uploads of %d keys, %d at once, each durable when it is answered; %s keys in the log",
		uploadKeys, uploaders, number(float64(retained)))
	const insert = "one INSERT of the same rows, %d at once"
	plain := fmt.Sprintf(insert, uploaders)
	return &publishing{
		stage:    s,
		service:  p,
		load:     load{addr: address(p.URL()), connections: uploaders},
		rate:     g.figure("uploads", "1/s", atLeast(1400)).beside(plain),
		server:   g.figure("server", "CPU ms", atMost(0.45)).beside("decode the JSON, verify the ES256 signature"),
		postgres: g.figure("PostgreSQL", "CPU ms", atMost(0.9)).beside(plain),
		client:   g.figure("load generator", "CPU ms", nil).beside(plain),
		p50:      g.figure("latency, median", "ms", nil).beside(plain),
		p95:      g.figure("latency, 95 %", "ms", nil).beside(plain),
		p99:      g.figure("latency, 99 %", "ms", nil).beside(plain),
		memory:   g.figure("server's memory, peak", "MiB", nil),
	}
}

func (b *bench) publishAll(ctx context.Context, p *publishing, requests [][]byte) error {
	if _, err := p.load.run(ctx, requests[:b.warmUp()], nil); err != nil {
		return err
	}
	plain, err := p.plainUploads(ctx)
	if err != nil {
		return err
	}
	requests = requests[b.warmUp():]
	for n := range b.repeats {
		b.say("publish: %d of %d", n+1, b.repeats)
		mine := requests[n*b.uploads : (n+1)*b.uploads]
		if err := p.repeat(ctx, mine); err != nil {
			return err
		}
		if err := plain.repeat(ctx, p, b.uploads); err != nil {
			return err
		}
		p.server.plain(milli(plainAdmission(mine[:min(len(mine), 1000)])))
	}
	_, peak, err := resident(p.service.PID())
	p.memory.add(peak)
	return errors.Join(err, p.verify(ctx, b.warmUp()+b.repeats*b.uploads))
}

func (p *publishing) repeat(ctx context.Context, requests [][]byte) error {
	client, err := startMeter(ownTime)
	if err != nil {
		return err
	}
	var shots []shot
	used, err := p.observe(p.service.PID(), func() (err error) {
		shots, err = p.load.run(ctx, requests, nil)
		return err
	})
	if err != nil {
		return err
	}
	if n := refused(shots); n > 0 {
		return fmt.Errorf("%d of %d uploads were refused", n, len(shots))
	}
	own, err := client.used()
	n := len(requests)
	p.rate.add(perSecond(n, used.elapsed))
	p.server.add(each(used.service, n))
	p.postgres.add(each(used.postgres, n))
	p.client.add(each(own, n))
	ms := millis(latencies(shots))
	p.p50.add(quantile(ms, 0.5))
	p.p95.add(quantile(ms, 0.95))
	p.p99.add(quantile(ms, 0.99))
	return err
}

// verify looks whether what was measured is what was meant.
func (p *publishing) verify(ctx context.Context, uploads int) error {
	stored, _, err := database.One[int](ctx, p.Store, `SELECT count(*) FROM arrival`)
	if err == nil && stored != uploads*uploadKeys {
		err = fmt.Errorf("%d uploads stored %d keys, and not %d each", uploads, stored, uploadKeys)
	}
	return err
}
