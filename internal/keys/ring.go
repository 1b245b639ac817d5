package keys

import (
	"context"
	"crypto"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Ring opens each signing key once and hands it out again. Its zero value is
// ready.
type Ring struct {
	flight singleflight.Group

	mu   sync.Mutex // guards open; not held while a manager is asked
	open map[string]crypto.Signer
}

// Signer gives the signing key behind a URL. A failure is not remembered.
func (r *Ring) Signer(ctx context.Context, keyURL string) (crypto.Signer, error) {
	if s := r.known(keyURL); s != nil {
		return s, nil
	}
	opened := r.flight.DoChan(keyURL, func() (any, error) {
		// Others may wait for it too: it does not end with this caller.
		return r.add(context.WithoutCancel(ctx), keyURL)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-opened:
		s, _ := got.Val.(crypto.Signer)
		return s, got.Err
	}
}

func (r *Ring) known(keyURL string) crypto.Signer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[keyURL]
}

func (r *Ring) add(ctx context.Context, keyURL string) (crypto.Signer, error) {
	if s := r.known(keyURL); s != nil {
		return s, nil
	}
	s, err := OpenSigner(ctx, keyURL)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[string]crypto.Signer{}
	}
	r.open[keyURL] = s
	return s, nil
}
