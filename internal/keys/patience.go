package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sethvargo/go-retry"
	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/errs"
)

// patience bounds how a manager is asked. The retries of the vendors' clients
// are switched off: each has rules of its own, some without end.
type patience struct {
	attempt time.Duration // one question, connecting included; less than whole
	whole   time.Duration // the question with all its repetitions
	pause   time.Duration // before the first repetition; it doubles, to longestPause
}

const longestPause = time.Second

// usual allows for a slow HSM, and leaves a second try to whoever waits only
// five seconds.
func usual() patience {
	return patience{attempt: 3 * time.Second, whole: 15 * time.Second, pause: 100 * time.Millisecond}
}

// ask puts a question until it is answered or refused, or patience ends; then
// the last failure is the error. All questions asked this way may be asked
// twice: a second signature, or a second ciphertext, is as good as the first.
func ask[T any](ctx context.Context, p patience, question func(context.Context) (T, error)) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.whole)
	defer cancel()
	pauses := retry.WithJitterPercent(20, retry.WithCappedDuration(longestPause, retry.NewExponential(p.pause)))
	ended := retry.Do(ctx, pauses, func(ctx context.Context) error {
		if answer, err = once(ctx, p, question); final(err) {
			return err
		}
		return retry.RetryableError(err)
	})
	if ended != nil {
		return answer, cmp.Or(err, ended) // the last failure says more than "deadline exceeded"
	}
	return answer, nil
}

func once[T any](ctx context.Context, p patience, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	return question(ctx)
}

// refusal is an answer that will be the same next time, until somebody changes
// keys or rights. It has no kind of its own: whoever called this server can do
// nothing about it.
type refusal struct{ sentence string }

func (r *refusal) Error() string { return r.sentence }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// again is a fault that asking again may mend.
func again(format string, args ...any) error { return fmt.Errorf(format, args...) }

// final tells what asking again cannot change.
func final(err error) bool {
	var r *refusal
	return errors.As(err, &r) || errs.KindOf(err) == errs.KindInvalid
}

// voidCiphertext is what Wrapper calls invalid.
func voidCiphertext() error {
	return errs.Invalid("wrapped_key", "this was not wrapped by this key for this context")
}

// oneLine makes a sentence of what a manager says; some write a page.
func oneLine(text string) string {
	const enough = 300
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > enough {
		return string(runes[:enough]) + "…"
	}
	return string(runes)
}

// lazy makes a client when it is first needed: looking for credentials may ask
// servers, and no program should wait for that when it starts. A failure is
// not remembered.
type lazy[C any] struct {
	open   func(ctx context.Context) (*C, error)
	flight singleflight.Group
	client atomic.Pointer[C]
}

func newLazy[C any](open func(ctx context.Context) (*C, error)) *lazy[C] { return &lazy[C]{open: open} }

// get waits no longer than ctx; opening goes on for the next who asks, since
// not every vendor's way to look for credentials can be stopped.
func (l *lazy[C]) get(ctx context.Context) (*C, error) {
	if client := l.client.Load(); client != nil {
		return client, nil
	}
	opened := l.flight.DoChan("", func() (any, error) { return l.make(context.WithoutCancel(ctx)) })
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("looking for credentials: %w", ctx.Err())
	case got := <-opened:
		client, _ := got.Val.(*C)
		return client, got.Err
	}
}

func (l *lazy[C]) make(ctx context.Context) (*C, error) {
	if client := l.client.Load(); client != nil {
		return client, nil
	}
	client, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	l.client.Store(client)
	return client, nil
}
