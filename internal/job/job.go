// Package job runs one scheduled task: one at a time (lease), in time, on the
// record.
package job

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

const (
	// leaseMargin is how much longer than the job's time its lease is held:
	// enough for a job whose time is up to stop before another one starts.
	leaseMargin = 30 * time.Second

	// tidyTimeout bounds what is written after the work, out of its time.
	tidyTimeout = 5 * time.Second
)

// Func does a job's work. Its result is counts and names that say what was
// done; it is answered as JSON, and logged. It is safe to repeat, and safe to
// kill: it stops when ctx ends, and a later run does what is left.
type Func func(ctx context.Context) (result any, err error)

// Runner serves jobs.
type Runner struct {
	Store *store.DB
	Now   func() time.Time
}

// Exclusive serves a job of which one runs at a time, on all instances
// together. The others answer {"busy":true} with 200: the scheduler need not
// call again.
//
// The order is: take the lease, work, record the progress, return the lease.
// A run that is killed at any point leaves the lease to run out; then the next
// run starts from what the database says. One that is killed before its
// progress is recorded has worked but looks as if it had not: an alarm comes
// too early, never too late.
func (r Runner) Exclusive(name string, timeout time.Duration, f Func) http.Handler {
	return r.handler(name, timeout, func(ctx context.Context) (any, telemetry.Outcome, error) {
		now := r.Now()
		fence, ok, err := r.Store.TakeLease(ctx, name, now, now.Add(timeout+leaseMargin))
		if err != nil {
			return nil, telemetry.Failure, err
		}
		if !ok {
			return map[string]bool{"busy": true}, telemetry.Busy, nil
		}
		defer r.returnLease(ctx, name, fence)
		return r.work(ctx, name, f)
	})
}

// Shared serves a job that runs any number of times at once: it leases its own
// pieces of work.
//
// The order is: work, record the progress. A repeat finds less to do.
func (r Runner) Shared(name string, timeout time.Duration, f Func) http.Handler {
	return r.handler(name, timeout, func(ctx context.Context) (any, telemetry.Outcome, error) {
		return r.work(ctx, name, f)
	})
}

// handler answers POST, and GET for old schedulers, with what one run says.
func (r Runner) handler(name string, timeout time.Duration, run func(context.Context) (any, telemetry.Outcome, error)) http.Handler {
	serve := func(w http.ResponseWriter, req *http.Request) error {
		stayOpen(w, timeout)
		ctx, cancel := within(req.Context(), timeout)
		defer cancel()
		result, err := r.recorded(ctx, name, run)
		if err != nil {
			// Whatever kind it was inside: a job that did not finish is to be
			// called again.
			return errs.From(err, errs.Internal, "job_failed", "the job %s did not finish, call it again", name)
		}
		if result == nil {
			result = struct{}{}
		}
		web.WriteJSON(w, http.StatusOK, result)
		return nil
	}
	return web.Wrap(web.Methods(serve, http.MethodPost, http.MethodGet))
}

// recorded puts a run into the metrics and the log, a panicking one too.
func (r Runner) recorded(ctx context.Context, name string, run func(context.Context) (any, telemetry.Outcome, error)) (result any, err error) {
	begun := time.Now()
	outcome := telemetry.Failure
	defer func() {
		telemetry.RecordJob(ctx, name, outcome, time.Since(begun), r.Now())
		web.Note(ctx, slog.String("job", name), slog.String("outcome", string(outcome)))
		if result != nil {
			web.Note(ctx, slog.Any("did", result))
		}
	}()
	result, outcome, err = run(ctx)
	return result, err
}

// work does the work and records that it is done.
func (r Runner) work(ctx context.Context, name string, f Func) (any, telemetry.Outcome, error) {
	result, err := f(ctx)
	if err != nil {
		return result, telemetry.Failure, err
	}
	tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	if err := r.Store.RecordProgress(tidy, name, r.Now()); err != nil {
		return result, telemetry.Failure, err
	}
	return result, telemetry.Success, nil
}

// returnLease lets the next run start at once. When it fails, the lease runs
// out by itself.
func (r Runner) returnLease(ctx context.Context, name string, fence int64) {
	tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	if err := r.Store.ReturnLease(tidy, name, fence, r.Now()); err != nil {
		web.Note(ctx, slog.String("lease", err.Error()))
	}
}

// within gives the work its time. A scheduler that hangs up does not end it:
// half-done work would only have to be done again. The end of the process does.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	detached, end := web.Detach(ctx)
	bounded, cancel := context.WithTimeout(detached, timeout)
	return bounded, func() { cancel(); end() }
}

// stayOpen moves the deadlines of the connection, which are meant for phones,
// behind the end of the job. Where it cannot, the work is done all the same and
// only its answer may be lost.
func stayOpen(w http.ResponseWriter, timeout time.Duration) {
	c := http.NewResponseController(w)
	until := time.Now().Add(timeout + leaseMargin)
	_ = c.SetReadDeadline(until)
	_ = c.SetWriteDeadline(until)
}
