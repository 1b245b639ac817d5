package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"enkeyserver/internal/system"
)

// idle measures what the service for uploads needs to be there at all.
func (b *bench) idle(ctx context.Context) error {
	return b.stage(ctx, nil, func(s *stage) error {
		g := b.report.group("idle", "the service for uploads, with nothing to do")
		memory := g.figure("memory", "MiB", atMost(20)).beside("this program with an empty handler")
		start := g.figure("from its start to its first answer", "ms", atMost(31)).beside("this program with an empty handler")
		for n := range b.repeats {
			b.say("idle: %d of %d", n+1, b.repeats)
			if err := s.idleOnce(ctx, memory, start); err != nil {
				return err
			}
			if err := plainIdle(ctx, memory, start); err != nil {
				return err
			}
		}
		return nil
	})
}

// rest is how long a service is left alone before its memory is read.
const rest = time.Second

func (s *stage) idleOnce(ctx context.Context, memory, start *figure) error {
	begin := time.Now()
	p, err := s.Launch(ctx, system.Exposure)
	if err != nil {
		return err
	}
	if err := live(ctx, p.URL()+"/live"); err != nil {
		return err
	}
	start.add(milli(time.Since(begin)))
	if err := p.Ready(ctx); err != nil {
		return err
	}
	if err := pause(ctx, rest); err != nil {
		return err
	}
	now, _, err := resident(p.PID())
	memory.add(now)
	return errors.Join(err, p.Stop())
}

func plainIdle(ctx context.Context, memory, start *figure) error {
	begin := time.Now()
	p, err := startPlainServer()
	if err != nil {
		return err
	}
	if err := live(ctx, "http://"+p.addr); err != nil {
		return errors.Join(err, p.stop())
	}
	start.plain(milli(time.Since(begin)))
	if err := pause(ctx, rest); err != nil {
		return errors.Join(err, p.stop())
	}
	now, _, err := resident(p.cmd.Process.Pid)
	memory.plain(now)
	return errors.Join(err, p.stop())
}

// live asks until there is an answer.
func live(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		resp, err := client.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		if pausing := pause(ctx, time.Millisecond); pausing != nil {
			return errors.Join(err, pausing)
		}
	}
}

// pause lets what was just started come to rest.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
