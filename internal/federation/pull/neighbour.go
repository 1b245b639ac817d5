package pull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

const (
	// leaseMargin is how much longer than a run the lease of a neighbour is
	// held: it runs out by itself when the run was killed.
	leaseMargin = 30 * time.Second

	// fetchTimeout bounds one question. Servers answer in time with what they
	// have by then.
	fetchTimeout = time.Minute
)

// errTime ends a run that has not come to the end.
var errTime = errors.New("it had more than there was time for: the next run goes on; if that does not end, FEDERATION_TIMEOUT is too short, or the neighbour never stops")

// pull asks one neighbour, unless another instance does.
func (s *Service) pull(ctx context.Context, p store.Pull, share time.Duration) (o Outcome) {
	o.Name = p.Name
	lease := jobName + "/" + p.Name
	now := s.now()
	fence, ok, err := s.store.TakeLease(ctx, lease, now, now.Add(s.settings.Timeout+leaseMargin))
	if err != nil || !ok {
		o.err, o.Busy = err, err == nil
		return o
	}
	defer func() {
		tidy, cancel := tidying(ctx)
		defer cancel()
		if err := s.store.ReturnLease(tidy, lease, fence, s.now()); err != nil {
			slog.WarnContext(ctx, "the lease of a neighbour will have to run out", "neighbour", p.Name, "error", err)
		}
	}()
	c := &conversation{Service: s, Pull: p, outcome: &o, seen: map[exposure.Key]bool{}}
	o.err = guarded(func() error { return c.run(ctx, share) })
	c.record(ctx)
	return o
}

// guarded makes an error of a panic: one neighbour's message must not end the
// process that asks them all.
func guarded(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = web.Panicked(v)
		}
	}()
	return f()
}

// conversation is one run with one neighbour.
type conversation struct {
	*Service
	store.Pull
	outcome *Outcome

	conn     *connection
	token    source
	mark     []byte // before the cursors of this conversation
	audience audience
	watch    watch
	seen     map[exposure.Key]bool // in the list that is being read
}

// run asks for pages while the last one is being stored. It ends at the first
// page that is not partial, at an error, or when the share of time is used up;
// what was fetched by then is stored.
func (c *conversation) run(ctx context.Context, share time.Duration) (err error) {
	if err := c.open(ctx); err != nil {
		return err
	}
	defer c.conn.Close()

	asking, stop := context.WithTimeoutCause(ctx, share, errTime)
	defer stop()
	pages := make(chan page)
	ended := make(chan error, 1)
	go func() {
		defer close(pages)
		ended <- guarded(func() error { return c.fetchAll(asking, pages) })
	}()
	for p := range pages {
		if err == nil {
			err = c.keep(ctx, p)
		}
		if err != nil {
			stop() // and let the other side come to its end
		}
	}
	if fetchErr := <-ended; err == nil {
		err = fetchErr
	}
	return err
}

// open reads where to go on, after the lease: the last holder has moved it.
func (c *conversation) open(ctx context.Context) (err error) {
	if c.Cursor, err = c.store.Cursor(ctx, c.Origin); err != nil {
		return err
	}
	if err := c.store.NeighbourAttempted(ctx, c.Origin, c.now()); err != nil {
		return err
	}
	c.mark, c.audience = markOf(c.PullConfig), newAudience(c.PullConfig)
	if c.token, err = c.tokens.source(c.PullConfig); err != nil {
		return err
	}
	c.conn, err = dial(c.PullConfig, c.settings)
	return err
}

// fetchAll asks for one page after another and hands them over.
func (c *conversation) fetchAll(ctx context.Context, pages chan<- page) error {
	for cursor := c.Cursor; ; {
		answer, err := c.fetch(ctx, cursor)
		if err != nil {
			return err
		}
		p, err := c.read(answer, cursor)
		if err != nil {
			return err
		}
		pages <- p // the other side always takes it
		if !answer.GetPartialResponse() {
			return nil
		}
		if err := c.watch.advances(p); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		cursor = p.To
	}
}

// fetch asks once, and once more with a new token when the first is refused:
// whoever gave it out may have changed keys.
func (c *conversation) fetch(ctx context.Context, cursor []byte) (*federationpb.FederationFetchResponse, error) {
	ask, err := c.question(cursor)
	if err != nil {
		return nil, err
	}
	answer, err := c.ask(ctx, ask)
	if refused(err) && c.token.forget() {
		answer, err = c.ask(ctx, ask)
	}
	switch {
	case err == nil:
		return answer, nil
	case c.watch.pages > 0 && timeIsUp(ctx):
		return nil, errTime
	case c.watch.pages > 0 && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, c.conn.explain(err, c.settings)
}

// timeIsUp tells whether the time of a run is over. The other side knows our
// deadline too, and its answer to it may be here a moment before our clock.
func timeIsUp(ctx context.Context) bool {
	const moment = 100 * time.Millisecond
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < moment
}

func (c *conversation) ask(ctx context.Context, question *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	token, err := c.token.token(ctx)
	if err != nil {
		return nil, err
	}
	credentials := grpc.PerRPCCredentials(bearer{token: token, secure: c.conn.secure})
	return federationpb.NewFederationClient(c.conn).Fetch(ctx, question, credentials)
}

// keep stores a page with its cursor. It has the time of the whole run: a page
// that was fetched should not be fetched again.
func (c *conversation) keep(ctx context.Context, p page) error {
	c.outcome.Pages++
	c.outcome.Received += p.received
	if p.idle() {
		return nil
	}
	added, err := c.store.AddForeign(ctx, c.now(), p.ForeignPage, func(e exposure.Exposure) time.Time { return c.rules.Release(e) })
	if err != nil {
		return err
	}
	c.outcome.Add(added)
	telemetry.RecordNeighbourPage(ctx, c.Name, added.Inserted, added.Revised, added.Dropped)
	return nil
}

// record notes how the run ended, for the operator. A neighbour of which we
// have all may still have done what its people should be told.
func (c *conversation) record(ctx context.Context) {
	tidy, cancel := tidying(ctx)
	defer cancel()
	o := c.outcome
	if o.err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return // the process ends, which is nobody's fault
	}
	var notes error
	if o.err == nil {
		o.Complete = true
		o.Failure = c.watch.complaint()
		notes = c.store.NeighbourSucceeded(tidy, c.Origin, c.now())
	} else {
		o.Failure = o.err.Error()
	}
	if o.Failure != "" {
		slog.WarnContext(ctx, "a neighbour needs attention", "neighbour", c.Name, "failure", o.Failure)
		notes = errors.Join(notes, c.store.NeighbourFailed(tidy, c.Origin, c.now(), o.Failure))
	}
	if notes != nil {
		o.err = errors.Join(o.err, fmt.Errorf("its state could not be noted: %w", notes))
	}
}

// errOf makes an error out of words for the operator.
func errOf(format string, args ...any) error {
	return errs.New(errs.Internal, "neighbour", format, args...)
}
