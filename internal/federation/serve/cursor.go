package serve

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"

	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// margin is how much earlier than a state's time we begin again when its token
// says nothing to us. It covers clocks that differ, and the time that a key
// took from the other log to this one. A neighbour knows keys that it gets
// twice; one that it never gets warns nobody.
const margin = time.Hour

// A token is base64 of a version, the identity of the log and a position in it.
const (
	tokenVersion = 1
	tokenSize    = 1 + 16 + 4 + 4
)

// tokens reads one text for each token: bits that do not count are refused.
var tokens = base64.RawURLEncoding.Strict()

func tokenOf(log store.Log, p store.Position) string {
	raw := append(make([]byte, 0, tokenSize), tokenVersion)
	raw = append(raw, log.Identity[:]...)
	raw = binary.BigEndian.AppendUint32(raw, uint32(p.Epoch))
	raw = binary.BigEndian.AppendUint32(raw, uint32(p.Ordinal))
	return tokens.EncodeToString(raw)
}

// parseToken gives the position that a token names in this log. It reports
// false for whatever is no token of this log, and for a place that the log has
// not reached: it was restored from a backup since.
func parseToken(text string, log store.Log) (store.Position, bool) {
	if len(text) != tokens.EncodedLen(tokenSize) {
		return store.Position{}, false
	}
	raw, err := tokens.DecodeString(text)
	// The decoder skips line breaks, so that the text's length does not tell.
	if err != nil || len(raw) != tokenSize || raw[0] != tokenVersion || [16]byte(raw[1:17]) != log.Identity {
		return store.Position{}, false
	}
	epoch, ordinal := binary.BigEndian.Uint32(raw[17:]), binary.BigEndian.Uint32(raw[21:])
	if epoch > math.MaxInt32 || ordinal > math.MaxInt32 {
		return store.Position{}, false
	}
	p := store.Position{Epoch: int32(epoch), Ordinal: int32(ordinal)}
	return p, !log.End().Before(p)
}

// position is where a cursor goes on: where its token says, else after the
// epochs that were sealed well before its time, else at the beginning.
func (s *Service) position(ctx context.Context, log store.Log, c *federationpb.Cursor) (store.Position, error) {
	if p, ok := parseToken(c.GetNextToken(), log); ok {
		return p, nil
	}
	if c.GetTimestamp() <= 0 {
		return store.Position{}, nil
	}
	// Nobody has read what is still to come, whatever the cursor says.
	read := min(c.GetTimestamp(), s.now().Unix())
	p, err := s.store.PositionAt(ctx, time.Unix(read, 0).Add(-margin))
	if err != nil {
		return store.Position{}, err
	}
	if log.End().Before(p) { // an epoch came since we looked
		return log.End(), nil
	}
	return p, nil
}

// cursor names a position, and the time up to which everything before it was
// sealed; 0 when nobody knows any more.
func (s *Service) cursor(ctx context.Context, log store.Log, p store.Position) (*federationpb.Cursor, error) {
	at, err := s.store.SealedAt(ctx, p)
	if err != nil {
		return nil, err
	}
	return &federationpb.Cursor{Timestamp: max(at.Unix(), 0), NextToken: tokenOf(log, p)}, nil
}
