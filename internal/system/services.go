package system

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/cleanup"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/export"
	"enkeyserver/internal/federation/pull"
)

// The services that every system needs. The names are those of their programs.
const (
	Exposure = "exposure"
	Batcher  = "export-batcher"
	Worker   = "export-worker"
	Cleanup  = "cleanup"
)

// Services that a system needs when it has neighbours.
const (
	FederationIn  = "federation-in"
	FederationOut = "federation-out"
)

// Up starts one instance of each service and waits until they are ready.
func (s *System) Up(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "Up")
	group, ctx := errgroup.WithContext(ctx)
	for _, service := range []string{Exposure, Batcher, Worker, Cleanup} {
		group.Go(func() error {
			p, err := s.Launch(ctx, service)
			if err != nil {
				return err
			}
			return p.Ready(ctx)
		})
	}
	return group.Wait()
}

// Down stops all services. What fails does not stop the rest.
func (s *System) Down() error {
	var group errgroup.Group
	running := s.running()
	failures := make([]error, len(running))
	for i, p := range running {
		group.Go(func() error {
			failures[i] = p.Stop()
			return nil
		})
	}
	return errors.Join(group.Wait(), errors.Join(failures...))
}

// Some gives any instance of a service that runs and listens.
func (s *System) Some(service string) (*Process, error) {
	running := s.listening(service)
	if len(running) == 0 {
		return nil, fmt.Errorf("no instance of %s runs", service)
	}
	return running[rand.IntN(len(running))], nil
}

func trigger[T any](ctx context.Context, s *System, service, path string) (answer T, err error) {
	p, err := s.Some(service)
	if err != nil {
		return answer, err
	}
	return answer, p.Trigger(ctx, path, &answer)
}

// CreateBatches is the scheduler's call of the batcher.
func (s *System) CreateBatches(ctx context.Context) (export.Cut, error) {
	return trigger[export.Cut](ctx, s, Batcher, "/create-batches")
}

// DoWork is the scheduler's call of the worker.
func (s *System) DoWork(ctx context.Context) (export.Done, error) {
	return trigger[export.Done](ctx, s, Worker, "/do-work")
}

// CleanupExposures is the scheduler's call of the cleanup that forgets keys.
func (s *System) CleanupExposures(ctx context.Context) (cleanup.Forgotten, error) {
	return trigger[cleanup.Forgotten](ctx, s, Cleanup, "/cleanup-exposures")
}

// CleanupExports is the scheduler's call of the cleanup that removes files.
func (s *System) CleanupExports(ctx context.Context) (cleanup.Removed, error) {
	return trigger[cleanup.Removed](ctx, s, Cleanup, "/cleanup-exports")
}

// Sync is the scheduler's call of the service that asks neighbours for keys.
func (s *System) Sync(ctx context.Context) (pull.Pulled, error) {
	return trigger[pull.Pulled](ctx, s, FederationIn, "/sync")
}
