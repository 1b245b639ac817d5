package serve

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// What tests of the parts use.
var (
	ShareOf    = shareOf
	TokenOf    = tokenOf
	ParseToken = parseToken
)

// Ages and pauses that tests let pass.
const (
	PeersAge  = peersAge
	KeysAge   = keysAge
	KeysPause = keysPause
	FilesAge  = filesAge
	AtOnce    = atOnce
)

// Fill fills a page with room for so many keys, whose time is up at an instant.
func Fill(ctx context.Context, room int, enough time.Time, read reading, from, thru store.Position) ([]*federationpb.ExposureKey, store.Position, error) {
	p := &page{room: room, enough: enough}
	return p.fill(ctx, read, from, thru)
}

// Record is the interceptor that writes records to a log.
func Record(log *slog.Logger) grpc.UnaryServerInterceptor { return recorder{log}.intercept }
