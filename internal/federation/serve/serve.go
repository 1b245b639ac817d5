// Package serve tells neighbours the keys that they may know, when they ask.
//
// A neighbour reads the log from its beginning to its end, page by page, and
// comes back for what was added. All that it sends is a filter and its place in
// the log; we remember nothing of it.
package serve

import (
	"context"
	"log/slog"
	"time"

	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
)

// Deps are what the service needs.
type Deps struct {
	Store  *store.DB // store.OpenForNeighbours
	Remote Fetcher
	Now    func() time.Time
}

// Fetcher reads what issuers publish, within bounds of size, time and
// addresses: remote.Client.
type Fetcher interface {
	Get(ctx context.Context, url string, limit int64) ([]byte, error)
}

// Service answers neighbours.
type Service struct {
	federationpb.UnimplementedFederationServer

	settings Settings
	store    *store.DB
	peers    *peers
	now      func() time.Time
}

// NewService refuses settings that cannot work together.
func NewService(s Settings, d Deps) (*Service, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return &Service{
		settings: s,
		store:    d.Store,
		peers:    &peers{store: d.Store, remote: d.Remote, now: d.Now, rate: s.Rate},
		now:      d.Now,
	}, nil
}

// Fetch gives a neighbour the next keys after its state. Called by a neighbour's
// scheduler every few minutes, and then again until nothing is left. It only
// reads: a repeat gives the same keys, and after the end of the log those that
// have come since.
func (s *Service) Fetch(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.settings.Timeout)
	defer cancel()
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("neighbour", c.Name))
	leave, err := c.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	answer, err := s.answer(ctx, shareOf(c.Peer, ask), ask)
	if err != nil {
		return nil, err
	}
	telemetry.RecordTold(ctx, c.Name, len(answer.GetKeys()), len(answer.GetRevisedKeys()))
	note(ctx,
		slog.Int("keys", len(answer.GetKeys())),
		slog.Int("revised", len(answer.GetRevisedKeys())),
		slog.Bool("partial", answer.GetPartialResponse()))
	return answer, nil
}
