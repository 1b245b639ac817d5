package export

import (
	"context"
	"errors"
	"time"

	"enkeyserver/internal/store"
)

// errLeaseLost says that another worker has the batch. It will do all of it, so
// this is an outcome and no failure.
var errLeaseLost = errors.New("another worker has taken the batch over")

// holding calls f while the lease of a batch is kept from running out. Once the
// lease is lost f's context ends, and the error is errLeaseLost.
func (w *Worker) holding(ctx context.Context, b store.Batch, f func(context.Context, store.Batch) ([]madeFile, error)) ([]madeFile, error) {
	ctx, stop := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		w.keep(ctx, b, stop)
	}()
	made, err := f(ctx, b)
	stop(nil)
	<-kept
	if err != nil && errors.Is(context.Cause(ctx), errLeaseLost) {
		return nil, errLeaseLost
	}
	return made, err
}

// keep extends the lease at each beat until ctx ends, and calls lost when
// somebody else has it. A database that does not answer proves nothing yet; but
// when the time for which we had the batch is over, somebody may.
func (w *Worker) keep(ctx context.Context, b store.Batch, lost context.CancelCauseFunc) {
	beats := time.NewTicker(w.beat)
	defer beats.Stop()
	until := w.now().Add(w.lease)
	for {
		select {
		case <-ctx.Done():
			return
		case <-beats.C:
		}
		next := w.now().Add(w.lease)
		ok, err := w.extend(ctx, b, next)
		switch {
		case err == nil && ok:
			until = next
		case err == nil, w.now().After(until):
			lost(errLeaseLost)
		}
	}
}

// extend does not wait for a database that hangs until it is too late.
func (w *Worker) extend(ctx context.Context, b store.Batch, until time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseBeat/2)
	defer cancel()
	return w.store.ExtendLease(ctx, b, until)
}
