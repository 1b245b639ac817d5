package main

import (
	"context"
	"errors"
	"os"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database"
	"enkeyserver/internal/system"
)

// stage is a system on which one group of figures is measured.
type stage struct {
	*system.System
	database   *database.DB // many connections, for the plain SQL beside the figures
	postmaster int          // process id of PostgreSQL
}

// build makes the services once for all stages. Call remove at the end.
func (b *bench) build(ctx context.Context) (remove func(), err error) {
	if b.binaries != "" {
		return func() {}, nil
	}
	b.say("building the services")
	if b.binaries, err = os.MkdirTemp("", "enkeyserver-bench-"); err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(b.binaries) }
	if err := system.Build(ctx, b.binaries); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// postgres is how a server for uploads would be set up on a small machine; all
// else is as PostgreSQL comes.
func postgres() []string {
	return []string{
		`ALTER SYSTEM SET shared_buffers = '1GB'`,
		`ALTER SYSTEM SET max_wal_size = '4GB'`,
	}
}

// stage starts a system with these exports, whose database waits for the disk,
// and calls f with it.
func (b *bench) stage(ctx context.Context, exports []configuration.Export, f func(s *stage) error) (err error) {
	sys, err := system.New(ctx, system.Options{Binaries: b.binaries, Durable: true, Exports: exports})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	s := &stage{System: sys}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.database.Close()
	if b.report.Machine == nil {
		if b.report.Machine, err = s.machine(ctx); err != nil {
			return err
		}
	}
	return f(s)
}

func (s *stage) prepare(ctx context.Context) (err error) {
	for _, order := range postgres() {
		if err := s.exec(ctx, order); err != nil {
			return err
		}
	}
	if err := s.RestartDatabase(ctx); err != nil {
		return err
	}
	if err := s.await(ctx); err != nil {
		return err
	}
	url := s.Store.Pool().Config().ConnString()
	if s.database, err = database.Open(ctx, database.Settings{URL: url, PoolMax: 16}); err != nil {
		return err
	}
	s.postmaster, err = s.findPostmaster(ctx)
	return err
}

// await waits until the connections that the restart has cut are replaced.
func (s *stage) await(ctx context.Context) (err error) {
	for range 100 {
		if err = s.Store.Ping(ctx); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func (s *stage) findPostmaster(ctx context.Context) (int, error) {
	backend, _, err := database.One[int](ctx, s.Store, `SELECT pg_backend_pid()`)
	if err != nil {
		return 0, err
	}
	own, err := readStat(backend)
	return own.parent, err
}

func (s *stage) exec(ctx context.Context, sql string, args ...any) error {
	_, err := s.Store.Exec(ctx, sql, args...)
	return err
}

// postgresTime is what PostgreSQL has used of the processors so far.
func (s *stage) postgresTime() (time.Duration, error) { return familyTime(s.postmaster) }

// launch starts one service and waits until it can work.
func (s *stage) launch(ctx context.Context, service string, env ...string) (*system.Process, error) {
	p, err := s.Launch(ctx, service, env...)
	if err != nil {
		return nil, err
	}
	return p, p.Ready(ctx)
}

// usage is what an action took.
type usage struct {
	elapsed, service, postgres time.Duration
}

// observe measures an action of a service; 0 is none, with PostgreSQL alone.
func (s *stage) observe(service int, action func() error) (u usage, err error) {
	database, err := startMeter(s.postgresTime)
	if err != nil {
		return u, err
	}
	own, err := startMeter(func() (time.Duration, error) {
		if service == 0 {
			return 0, nil
		}
		return processorTime(service)
	})
	if err != nil {
		return u, err
	}
	begin := time.Now()
	err = action()
	u.elapsed = time.Since(begin)
	var ownErr, databaseErr error
	u.service, ownErr = own.used()
	u.postgres, databaseErr = database.used()
	return u, errors.Join(err, ownErr, databaseErr)
}
