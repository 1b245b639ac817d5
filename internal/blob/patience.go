package blob

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sethvargo/go-retry"
)

// patience bounds how long a cloud is waited for.
type patience struct {
	answer time.Duration // for the answer of one attempt
	rate   int64         // bytes a second that a body must come or go at, on top of that
	tries  uint64        // attempts, the first one included
	wait   time.Duration // before the second attempt; it doubles with each
}

// usual is what a job can afford: half a minute for an attempt, and about six
// seconds of waiting in all between the attempts.
var usual = patience{answer: 30 * time.Second, rate: 256 << 10, tries: 6, wait: 200 * time.Millisecond}

// usualPage is what every cloud gives at once.
const usualPage = 1000

// with is the patience with one attempt that has a body of this size.
func (p patience) with(size int64) time.Duration {
	return p.answer + time.Duration(size/max(p.rate, 1))*time.Second
}

// errSilent is an attempt that got no answer in time.
var errSilent = errors.New("the bucket did not answer in time")

// persist makes attempts, each within its time, until one succeeds, or fails in
// a way that another would too, or enough have failed, or ctx ends.
func (c *Cloud) persist(ctx context.Context, within time.Duration, try func(ctx context.Context, p provider) error) error {
	return c.patience.persist(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, within, errSilent)
		defer cancel()
		p, err := c.provider(ctx)
		if err == nil {
			err = try(ctx, p)
		}
		return inTime(ctx, err)
	})
}

// persist makes attempts and waits between them.
func (p patience) persist(ctx context.Context, try func(ctx context.Context) error) error {
	backoff := retry.WithMaxRetries(p.tries-1, retry.WithJitterPercent(25, retry.NewExponential(p.wait)))
	var last error
	err := retry.Do(ctx, backoff, func(ctx context.Context) error {
		last = try(ctx)
		if isFinal(last) || ctx.Err() != nil {
			return last
		}
		return retry.RetryableError(last)
	})
	if ended := context.Cause(ctx); err != nil && ended != nil && last != nil && !errors.Is(last, ended) {
		return fmt.Errorf("%w, after: %w", ended, last)
	}
	return err
}

func isFinal(err error) bool {
	_, refused := errors.AsType[refusal](err)
	return err == nil || refused || errors.Is(err, errAbsent)
}

// inTime names the reason why an attempt ended, where clients only say that it
// did. One that was still looking for credentials may find them at the next.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() != nil && (!isFinal(err) || errors.Is(err, errNobody)) {
		return context.Cause(ctx)
	}
	return err
}
