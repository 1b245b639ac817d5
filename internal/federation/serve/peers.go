package serve

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

const (
	// peersAge is for how long the list of neighbours counts: one that is no
	// longer allowed is refused that soon.
	peersAge = 5 * time.Second

	// peersTime bounds one attempt to read it.
	peersTime = 2 * time.Second

	// patience is how long a neighbour that asks too often is kept waiting
	// before it is refused. Waiting slows an honest one down; a refusal would
	// end its run.
	patience = 2 * time.Second

	// atOnce is how many requests of one neighbour are answered at the same
	// time: each may hold a page in memory. Those who ask as they should
	// ask one after the other.
	atOnce = 4
)

// caller is a neighbour that may ask.
type caller struct {
	store.Peer
	issuer *issuer
	gate   *gate
}

// peerList is one snapshot of who may ask. It is never changed.
type peerList struct {
	callers []caller
	readAt  time.Time
}

// peers knows who may ask. While the database is down it keeps what it knew
// last.
type peers struct {
	store  *store.DB
	remote Fetcher
	now    func() time.Time
	rate   int

	last   atomic.Pointer[peerList]
	flight singleflight.Group
}

// current gives the newest snapshot there is, read now if the last one is old.
// An error means that there never was one.
func (p *peers) current(ctx context.Context) (*peerList, error) {
	if known := p.last.Load(); known != nil && p.now().Sub(known.readAt).Abs() < peersAge {
		return known, nil
	}
	err := p.refresh(ctx)
	known := p.last.Load()
	if known == nil {
		return nil, errs.From(err, errs.Internal, "unavailable", "the server could not load its neighbours now, try again later")
	}
	if err != nil && ctx.Err() == nil {
		slog.WarnContext(ctx, "who may ask could not be read again: what was known last stays", "error", err)
	}
	return known, nil
}

// refresh reads a new snapshot; all who ask at the same time share one read.
func (p *peers) refresh(ctx context.Context) error {
	// The read is not the caller's alone, so it must not end with the caller.
	done := p.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peersTime)
		defer cancel()
		return nil, p.read(ctx)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *peers) read(ctx context.Context) error {
	readAt := p.now()
	all, err := p.store.Peers(ctx)
	if err != nil {
		return err
	}
	p.last.Store(p.prepare(all, readAt))
	return nil
}

// prepare hands on what is remembered of those who were there before: the
// issuers' keys, and how often a neighbour has asked. What is remembered is
// bounded by what is configured.
func (p *peers) prepare(all []store.Peer, readAt time.Time) *peerList {
	issuers, gates := map[string]*issuer{}, map[string]*gate{}
	if known := p.last.Load(); known != nil {
		for _, c := range known.callers {
			issuers[c.Issuer], gates[c.Name] = c.issuer, c.gate
		}
	}
	list := &peerList{readAt: readAt}
	for _, peer := range all {
		if issuers[peer.Issuer] == nil {
			issuers[peer.Issuer] = newIssuer(peer.Issuer, p.remote, p.now)
		}
		if gates[peer.Name] == nil {
			gates[peer.Name] = newGate(p.rate)
		}
		list.callers = append(list.callers, caller{peer, issuers[peer.Issuer], gates[peer.Name]})
	}
	return list
}

// match finds the one neighbour that a token would be of. A token of two
// neighbours is nobody's: who could tell what it may see.
func (l *peerList) match(c claims) (caller, bool) {
	var found []caller
	for _, one := range l.callers {
		if one.Issuer == c.Issuer && one.Subject == c.Subject && slices.Contains(c.Audience, one.Audience) {
			found = append(found, one)
		}
	}
	if len(found) != 1 {
		return caller{}, false
	}
	return found[0], true
}

// gate lets a neighbour in as often as it may ask.
type gate struct {
	pace  *rate.Limiter
	slots chan struct{}
}

func newGate(perSecond int) *gate {
	return &gate{pace: rate.NewLimiter(rate.Limit(perSecond), perSecond), slots: make(chan struct{}, atOnce)}
}

// enter waits for a turn. Whoever got one must leave.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.pace.Wait(ctx); err != nil {
		return nil, errs.New(errs.KindBusy, "too_often", "you ask too often: ask for more keys at once, one request after the other")
	}
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	case <-ctx.Done():
		return nil, errs.New(errs.KindBusy, "too_many", "you ask too much at the same time: send one request after the other")
	}
}
