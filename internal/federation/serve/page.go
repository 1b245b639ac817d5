package serve

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/federation"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// maxPageBytes keeps an answer below the 4 MiB that gRPC clients take when
// nobody told them otherwise.
const maxPageBytes = 3 << 20

// answer is the page that follows a neighbour's state.
//
// All keys come before the revisions: a revision is told only when the key
// cursor has passed it, so that nobody hears of a revision before its key. A
// revision cursor that is ahead, since the other one was lost, waits.
func (s *Service) answer(ctx context.Context, share store.Share, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	log, err := s.store.Log(ctx)
	if err != nil {
		return nil, err
	}
	keyAt, err := s.position(ctx, log, ask.GetState().GetKeyCursor())
	if err != nil {
		return nil, err
	}
	revisionAt, err := s.position(ctx, log, ask.GetState().GetRevisedKeyCursor())
	if err != nil {
		return nil, err
	}
	a := new(federationpb.FederationFetchResponse)
	// Who is allowed nothing stays where it is: one day it may be allowed more,
	// and must not have been led past what it may know then.
	if len(share.Regions) > 0 {
		p := s.newPage(ctx, share, ask.GetMaxExposureKeys())
		if a.Keys, keyAt, err = p.fill(ctx, s.store.SharedKeys, keyAt, log.End()); err != nil {
			return nil, err
		}
		if a.RevisedKeys, revisionAt, err = p.fill(ctx, s.store.SharedRevisions, revisionAt, keyAt); err != nil {
			return nil, err
		}
		a.PartialResponse = keyAt.Before(log.End()) || revisionAt.Before(log.End())
	}
	a.NextFetchState, err = s.state(ctx, log, keyAt, revisionAt)
	return a, err
}

// state names two positions; at the end of the log, where most requests end,
// they are one.
func (s *Service) state(ctx context.Context, log store.Log, keyAt, revisionAt store.Position) (*federationpb.FetchState, error) {
	keys, err := s.cursor(ctx, log, keyAt)
	if err != nil || revisionAt == keyAt {
		return &federationpb.FetchState{KeyCursor: keys, RevisedKeyCursor: keys}, err
	}
	revisions, err := s.cursor(ctx, log, revisionAt)
	return &federationpb.FetchState{KeyCursor: keys, RevisedKeyCursor: revisions}, err
}

// page is an answer that is being filled.
type page struct {
	share store.Share
	room  int // for so many keys more
	bytes int // of those that are in it

	// enough ends when what was found must be sent: the rest of the time is
	// for the way back. It is four fifths of what the caller gives us.
	enough time.Time
}

func (s *Service) newPage(ctx context.Context, share store.Share, asked uint32) *page {
	p := &page{share: share, room: s.settings.Page}
	if asked > 0 {
		p.room = int(min(int64(asked), int64(s.settings.MaxPage)))
	}
	// The clock is that of contexts, which no setting moves.
	now := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		p.enough = now.Add(deadline.Sub(now) * 4 / 5)
	}
	return p
}

// reading is store.SharedKeys or store.SharedRevisions.
type reading func(ctx context.Context, s store.Share, from, thru store.Position, limit int) ([]store.SharedKey, store.Position, error)

// fill takes what the log has between two positions into the page, and tells
// how far that came: as far as the page has room and the time lasts.
func (p *page) fill(ctx context.Context, read reading, from, thru store.Position) (keys []*federationpb.ExposureKey, reached store.Position, err error) {
	for p.room > 0 && from.Before(thru) {
		found, reached, err := read(ctx, p.share, from, thru, p.room)
		if err != nil {
			return nil, from, err
		}
		for _, k := range found {
			wire := federation.ToWire(k.Exposure, k.Regions)
			if !p.take(wire) {
				return keys, from, nil
			}
			keys, from = append(keys, wire), k.At
		}
		from = reached
		if time.Now().After(p.enough) {
			p.room = 0
		}
	}
	return keys, from, nil
}

// take counts a key. It reports false when the page has no room for it; an
// empty page has, or nobody would ever come further.
func (p *page) take(k *federationpb.ExposureKey) bool {
	const framing = 6 // tag and length
	size := proto.Size(k) + framing
	if p.bytes > 0 && p.bytes+size > maxPageBytes {
		p.room = 0
		return false
	}
	p.room--
	p.bytes += size
	return true
}
