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
	chaffConnections = 64
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
		requests := make([][]byte, b.chaff)
		for i := range requests {
			requests[i] = written(publishPath, "X-Chaff: 1\r\n", up.Body)
		}
		g := b.report.group("chaff", "requests of %d bytes, %d a second", len(requests[0]), chaffRate)
		f := g.figure("server", "CPU ms", atMost(0.06)).beside("an empty handler of net/http, at the same rate")
		database := g.figure("PostgreSQL", "CPU ms", nil)
		return errors.Join(b.chaffAll(ctx, s, requests, chaffTargets{p, plain}, f, database), plain.stop())
	})
}

type chaffTargets struct {
	service *system.Process
	plain   *plainServer
}

func (b *bench) chaffAll(ctx context.Context, s *stage, requests [][]byte, to chaffTargets, server, database *figure) error {
	for n := range b.repeats + 1 {
		b.say("chaff: %d of %d", n, b.repeats)
		used, err := s.sendChaff(ctx, address(to.service.URL()), to.service.PID(), requests)
		if err != nil {
			return err
		}
		nothing, err := s.sendChaff(ctx, to.plain.addr, to.plain.cmd.Process.Pid, requests)
		if err != nil {
			return err
		}
		if n == 0 {
			continue // warming up
		}
		server.add(each(used.service, len(requests)))
		server.plain(each(nothing.service, len(requests)))
		database.add(each(used.postgres, len(requests)))
	}
	return nil
}

func (s *stage) sendChaff(ctx context.Context, addr string, pid int, requests [][]byte) (usage, error) {
	to := load{addr: addr, connections: chaffConnections, rate: chaffRate}
	return s.observe(pid, func() error {
		shots, err := to.run(ctx, requests, nil)
		if n := refused(shots); err == nil && n > 0 {
			err = fmt.Errorf("%d of %d were refused", n, len(shots))
		}
		return err
	})
}
