package main

import (
	"context"
	"errors"
	"fmt"

	"enkeyserver/internal/system"
)

// Chaff waits before it is answered, so that it takes many connections to send
// much of it. A country of 60 million phones sends 350 a second.
const (
	chaffConnections = 256
	chaffRate        = 1000 // a second
)

// chaffRequests measures what it costs to answer requests that only hide
// others, beside a server that does nothing.
func (b *bench) chaffRequests(ctx context.Context) error {
	return b.stage(ctx, nil, func(s *stage) error {
		up, err := s.upload()
		if err != nil {
			return err
		}
		p, err := s.launch(ctx, system.Exposure)
		if err != nil {
			return err
		}
		plain, err := startPlainServer()
		if err != nil {
			return err
		}
		c := newChaffing(b, s, written(publishPath, "X-Chaff: 1\r\n", up.Body))
		c.service, c.plain = target{address(p.URL()), p.PID()}, target{plain.addr, plain.cmd.Process.Pid}
		return errors.Join(b.chaffAll(ctx, c), plain.stop())
	})
}

// chaffing is the figures of chaff, and what they are measured on.
type chaffing struct {
	*stage
	requests       [][]byte
	service, plain target

	rate, busy, steady, postgres *figure
}

// target is a server, as others see it.
type target struct {
	addr string
	pid  int
}

func newChaffing(b *bench, s *stage, request []byte) *chaffing {
	g := b.report.group("chaff", "requests of %d bytes", len(request))
	const plain = "an empty handler of net/http, "
	c := &chaffing{
		stage:    s,
		busy:     g.figure("server, as fast as it can", "CPU ms", atMost(0.06)).beside(plain + "as fast as it can"),
		rate:     g.figure("requests then", "1/s", nil).beside(plain + "as fast as it can"),
		steady:   g.figure(fmt.Sprintf("server, %d a second", chaffRate), "CPU ms", nil).beside(plain + "at the same rate"),
		postgres: g.figure("PostgreSQL", "CPU ms", nil),
	}
	for range b.chaff {
		c.requests = append(c.requests, request)
	}
	return c
}

func (b *bench) chaffAll(ctx context.Context, c *chaffing) error {
	for n := range b.repeats + 1 {
		b.say("chaff: %d of %d", n, b.repeats)
		if n == 1 { // the first was to warm up
			c.rate.reset()
			c.busy.reset()
			c.steady.reset()
			c.postgres.reset()
		}
		if err := c.repeat(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaffing) repeat(ctx context.Context) error {
	busy, steady := c.requests, c.requests[:len(c.requests)/4]
	for _, run := range []struct {
		to        target
		requests  [][]byte
		rate      float64
		cpu, done func(float64)
	}{
		{c.service, busy, 0, c.busy.add, c.rate.add},
		{c.plain, busy, 0, c.busy.plain, c.rate.plain},
		{c.service, steady, chaffRate, c.steady.add, nil},
		{c.plain, steady, chaffRate, c.steady.plain, nil},
	} {
		n := len(run.requests)
		used, err := c.send(ctx, run.to, run.requests, run.rate)
		if err != nil {
			return err
		}
		run.cpu(each(used.service, n))
		if run.done != nil {
			run.done(perSecond(n, used.elapsed))
		}
		if run.to == c.service {
			c.postgres.add(each(used.postgres, n))
		}
	}
	return nil
}

func (c *chaffing) send(ctx context.Context, to target, requests [][]byte, rate float64) (usage, error) {
	l := load{addr: to.addr, connections: chaffConnections, rate: rate}
	return c.observe(to.pid, func() error {
		shots, err := l.run(ctx, requests, nil)
		if n := refused(shots); err == nil && n > 0 {
			err = fmt.Errorf("%d of %d were refused", n, len(shots))
		}
		return err
	})
}
