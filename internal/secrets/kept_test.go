package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"enkeyserver/internal/secrets"
)

const (
	ref     = "secret://projects/p/secrets/s"
	timeout = 9 * time.Second
	ttl     = 5 * time.Minute
)

// google is a manager whose answers are numbers, and which can fall silent.
type google struct {
	asked  atomic.Int64
	silent atomic.Bool
}

func (g *google) ask(ctx context.Context, _ string) ([]byte, error) {
	n := g.asked.Add(1)
	if g.silent.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return []byte(fmt.Sprint(n)), nil
}

// with runs a test in its own time.
func with(t *testing.T, test func(t *testing.T, g *google, r *secrets.Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &google{}
		r := newResolver(t, secrets.Settings{Manager: "gcp", CacheTTL: ttl, Timeout: timeout})
		r.Answer(g.ask)
		test(t, g, r)
	})
}

// timed wants a value after a time.
func timed(t *testing.T, why string, ask func(context.Context, string) (string, error), want string, after time.Duration) {
	t.Helper()
	begun := time.Now()
	got, err := ask(t.Context(), ref)
	if err != nil || got != want || time.Since(begun) != after {
		t.Errorf("%s: %q (error %v) after %s, want %q after %s", why, got, err, time.Since(begun), want, after)
	}
}

func TestAKnownValueIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	with(t, func(t *testing.T, g *google, r *secrets.Resolver) {
		timed(t, "at first", r.Value, "1", 0)
		g.silent.Store(true)
		time.Sleep(ttl - time.Nanosecond)
		timed(t, "within its life", r.Value, "1", 0)
		time.Sleep(time.Nanosecond)
		timed(t, "after its life, while the manager is silent", r.Value, "1", secrets.Patience)
		timed(t, "renewed meanwhile, to the end of the same question", r.Renewed, "1", timeout-secrets.Patience)
		timed(t, "while the manager is left alone", r.Value, "1", 0)
		time.Sleep(secrets.Respite)
		g.silent.Store(false)
		asked := g.asked.Load()
		timed(t, "when it is back", r.Value, fmt.Sprint(asked+1), 0)
	})
}

func TestOneThatWasNeverReadIsWaitedFor(t *testing.T) {
	t.Parallel()
	with(t, func(t *testing.T, g *google, r *secrets.Resolver) {
		g.silent.Store(true)
		begun := time.Now()
		_, err := r.Value(t.Context(), ref)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != timeout {
			t.Errorf("error %v after %s, want the end of %s", err, time.Since(begun), timeout)
		}
		if n := g.asked.Load(); n < 3 {
			t.Errorf("the manager was asked %d times, want three and more", n)
		}
	})
}

// When a password is refused, all connections want a new one at once.
func TestRenewingIsBounded(t *testing.T) {
	t.Parallel()
	with(t, func(t *testing.T, _ *google, r *secrets.Resolver) {
		timed(t, "at first", r.Renewed, "1", 0)
		timed(t, "at once again", r.Renewed, "1", 0)
		time.Sleep(secrets.Novelty)
		timed(t, "a moment later", r.Renewed, "2", 0)
		timed(t, "for the others", r.Value, "2", 0)
	})
}
