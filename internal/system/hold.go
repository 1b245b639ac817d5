package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
)

// tickEvery is the pace of the scheduler of a system that is held up for a
// person to try things out.
const tickEvery = 20 * time.Second

// Hold runs a system until ctx ends, with a scheduler that ticks fast, and
// tells how to talk to it.
func Hold(ctx context.Context, out io.Writer, o Options) (err error) {
	defer errs.Wrap(&err, "Hold")
	fmt.Fprintln(out, "Starting a private PostgreSQL and the services ...")
	s, err := New(ctx, o)
	if err != nil {
		return err
	}
	err = s.hold(ctx, out)
	if ctx.Err() != nil {
		fmt.Fprintln(out, "Stopping ...")
		err = nil // it was asked to stop
	}
	return errors.Join(err, s.Close())
}

func (s *System) hold(ctx context.Context, out io.Writer) error {
	if err := s.Up(ctx); err != nil {
		return err
	}
	if err := s.introduce(out); err != nil {
		return err
	}
	for {
		s.schedule(ctx, out)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tickEvery):
		}
	}
}

func (s *System) introduce(out io.Writer) error {
	for _, service := range []string{Exposure, Batcher, Worker, Cleanup} {
		p, err := s.Some(service)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-16s %s\n", service, p.URL())
	}
	for _, row := range [][2]string{
		{"what phones read", s.BucketURL},
		{"database", s.dsn()},
		{"configuration", s.configurationFile()},
		{"keys and logs", s.Folder},
	} {
		fmt.Fprintf(out, "%-16s %s\n", row[0], row[1])
	}
	for _, e := range s.options.Exports {
		fmt.Fprintf(out, "%-16s %s%s\n", "index of "+e.Name, s.BucketURL, exportfile.IndexText(e.Root))
	}
	_, err := fmt.Fprintf(out, "The scheduler ticks every %s. Ctrl-C stops everything and removes it.\n", tickEvery)
	return err
}

// schedule is one tick. What fails is told, and tried again at the next.
func (s *System) schedule(ctx context.Context, out io.Writer) {
	cut, err := s.CreateBatches(ctx)
	done, workErr := s.DoWork(ctx)
	_, keysErr := s.CleanupExposures(ctx)
	_, filesErr := s.CleanupExports(ctx)
	if err := errors.Join(err, workErr, keysErr, filesErr); err != nil && ctx.Err() == nil {
		fmt.Fprintln(out, err)
	}
	if cut.Epochs+done.Files > 0 {
		fmt.Fprintf(out, "sealed %d keys and %d revisions, published %d files\n", cut.Keys, cut.Revisions, done.Files)
	}
}
