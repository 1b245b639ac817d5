package secrets

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"
)

const (
	// patience is how long one waits for news of a value that is known.
	patience = 300 * time.Millisecond

	// respite is how long a manager that failed is left alone.
	respite = 5 * time.Second

	// novelty is how long a value is too new to be asked for again: when a
	// password is refused, all connections want a new one at once.
	novelty = 200 * time.Millisecond

	// attempts bounds how often a manager is asked for one value, and the others
	// how the time for it is shared: three attempts may be silent to their end,
	// and the pauses, of 1, 2 and 4 ninetieths, are short beside them.
	attempts     = 4
	attemptShare = 3
	pauseShare   = 90
)

// maxBytes bounds a secret. The managers' own limits are 25 and 64 KiB.
const maxBytes = 64 << 10

// kept is what is known of one secret.
type kept struct {
	mu      sync.Mutex
	content []byte    // nil: never read
	read    time.Time // when content was
	asked   time.Time // when the last question ended, however it did
}

func (r *Resolver) keptFor(id identity) *kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.kept[id]
	if !ok {
		k = &kept{}
		r.kept[id] = k
	}
	return k
}

// current is the content while it counts as known, and after that what the
// manager has now, if that is there in a moment.
func (r *Resolver) current(ctx context.Context, id identity) ([]byte, error) {
	k := r.keptFor(id)
	content, due := k.due(r.deps.Now(), r.settings.CacheTTL)
	if content == nil {
		return r.ask(ctx, id, k)
	}
	if !due {
		return content, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.askOr(ctx, id, k, content)
}

// renewed is what the manager has now, or else the last it had. A question that
// is on its way already counts: who must know better asks once more.
func (r *Resolver) renewed(ctx context.Context, id identity) ([]byte, error) {
	k := r.keptFor(id)
	content, asked := k.last()
	if content == nil {
		return r.ask(ctx, id, k)
	}
	if r.deps.Now().Sub(asked) < novelty {
		return content, nil
	}
	return r.askOr(ctx, id, k, content)
}

// askOr falls back on what is known. That the manager failed is told where it
// was asked.
func (r *Resolver) askOr(ctx context.Context, id identity, k *kept, known []byte) ([]byte, error) {
	if content, err := r.ask(ctx, id, k); err == nil {
		return content, nil
	}
	return known, nil
}

// ask waits for one question, which all who want the same secret share. It goes
// on when ctx has ended, for the next who wants it.
func (r *Resolver) ask(ctx context.Context, id identity, k *kept) ([]byte, error) {
	answer := r.asking.DoChan(id.manager+"\n"+id.name+"\n"+id.version, func() (any, error) {
		content, err := r.fetch(context.WithoutCancel(ctx), id)
		if known := k.store(content, err, r.deps.Now()); err != nil && known {
			warn(ctx, err)
		}
		return content, err
	})
	select {
	case a := <-answer:
		content, _ := a.Val.([]byte) // it is nothing else
		return content, a.Err
	case <-ctx.Done():
		return nil, &down{id, ctx.Err()}
	}
}

// store keeps what was read; a failure changes nothing but the time. It tells
// whether something is known.
func (k *kept) store(content []byte, err error, now time.Time) (known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = now
	if err == nil {
		k.content, k.read = content, now
	}
	return k.content != nil
}

func (k *kept) last() (content []byte, asked time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.content, k.asked
}

// due tells whether the content is old, and was not asked for in vain a moment
// ago.
func (k *kept) due(now time.Time, ttl time.Duration) (content []byte, due bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.content, now.Sub(k.read) >= ttl && now.Sub(k.asked) >= min(ttl, respite)
}

// fetch asks a manager, again when it could not answer. The vendors' clients do
// not repeat by themselves, so that this is the same for all.
func (r *Resolver) fetch(ctx context.Context, id identity) (content []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.Timeout)
	defer cancel()
	pauses := retry.WithMaxRetries(attempts-1, retry.WithJitterPercent(25, retry.NewExponential(r.settings.Timeout/pauseShare)))
	var last error
	err = retry.Do(ctx, pauses, func(ctx context.Context) error {
		content, last = r.attempt(ctx, id)
		if final := (*failure)(nil); last == nil || errors.As(last, &final) {
			return last
		}
		return retry.RetryableError(last)
	})
	switch {
	case err == nil:
		return content, nil
	case last == nil:
		last = err // the time was over before the first attempt
	}
	if final := (*failure)(nil); errors.As(last, &final) {
		return nil, final
	}
	return nil, &down{id, last}
}

func (r *Resolver) attempt(ctx context.Context, id identity) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.Timeout/attemptShare)
	defer cancel()
	m, err := r.opened(ctx, id.manager)
	if err != nil {
		return nil, &failure{verdict: unopened, identity: id, detail: brief(err)}
	}
	content, err := m.read(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxBytes:
		return nil, unusableFor(id, tooLong)
	case len(content) == 0:
		return nil, unusableFor(id, "is empty: give it a value")
	default:
		return content, nil
	}
}

const tooLong = "is longer than 64 KiB: it cannot be what was meant"
