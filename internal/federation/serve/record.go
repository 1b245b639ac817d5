package serve

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/errs"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/telemetry"
	"enkeyserver/internal/web"
)

// answerCodes are the gRPC codes of kinds of failure. What is internal is so
// because the database, or an issuer, does not answer: it may the next time.
var answerCodes = map[errs.Kind]codes.Code{
	errs.Internal:        codes.Unavailable,
	errs.KindInvalid:     codes.InvalidArgument,
	errs.KindDenied:      codes.Unauthenticated,
	errs.KindNotFound:    codes.NotFound,
	errs.KindConflict:    codes.Aborted,
	errs.KindBusy:        codes.ResourceExhausted,
	errs.KindTooLarge:    codes.InvalidArgument,
	errs.KindWrongType:   codes.InvalidArgument,
	errs.KindWrongMethod: codes.Unimplemented,
}

// statusOf is what a neighbour is told of a failure: a code and the sentence
// that was meant for it.
func statusOf(ctx context.Context, err error) *status.Status {
	switch {
	case err == nil:
		return nil
	case errs.KindOf(err) != errs.Internal:
		return status.New(answerCodes[errs.KindOf(err)], errs.MessageOf(err))
	case errors.Is(ctx.Err(), context.Canceled):
		return status.New(codes.Canceled, "the request was cancelled")
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the server could not answer in time: ask for fewer keys, or give it longer")
	default:
		return status.New(answerCodes[errs.Internal], errs.MessageOf(err))
	}
}

// classes are the HTTP statuses under which answers are counted, beside those
// of other services.
var classes = map[codes.Code]int{
	codes.OK:               200,
	codes.Unavailable:      503,
	codes.DeadlineExceeded: 504,
	codes.Internal:         500,
}

// recorder writes the log; nil is slog.Default().
type recorder struct{ log *slog.Logger }

// intercept writes one log record, and one measurement, for each request: the
// method, the code of the answer, how long it took, and what note adds. Nothing
// in it comes from the caller: who it is, is said by the name of its allowance.
// A panic is an Internal error.
func (r recorder) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	if info.FullMethod != federationpb.Federation_Fetch_FullMethodName {
		return handler(ctx, req) // probes, which come every few seconds and say nothing new
	}
	rec := &record{begun: time.Now()}
	ctx = context.WithValue(ctx, recordKey{}, rec)
	defer func() {
		var told *status.Status
		if v := recover(); v != nil {
			err = web.Panicked(v)
			told = status.New(codes.Internal, errs.MessageOf(err))
		} else {
			told = statusOf(ctx, err)
		}
		rec.write(ctx, cmp.Or(r.log, slog.Default()), info.FullMethod, told.Code(), err)
		if err != nil {
			answer = nil
		}
		err = told.Err()
	}()
	return handler(ctx, req)
}

type recordKey struct{}

// record is what becomes of a request.
type record struct {
	begun time.Time

	mu    sync.Mutex
	notes []slog.Attr
}

// note adds to the record of the request that ctx belongs to.
func note(ctx context.Context, attrs ...slog.Attr) {
	rec, ok := ctx.Value(recordKey{}).(*record)
	if !ok {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.notes = append(rec.notes, attrs...)
}

func (rec *record) write(ctx context.Context, log *slog.Logger, method string, code codes.Code, err error) {
	took := time.Since(rec.begun)
	class, ours := classes[code]
	if !ours {
		class = 400
	}
	telemetry.RecordRequest(ctx, method, class, took)
	level := slog.LevelInfo
	if class >= 500 {
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("method", "gRPC"),
		slog.String("route", method),
		slog.String("status", code.String()),
		slog.Duration("duration", took),
	}
	if err != nil {
		attrs = append(attrs, slog.String("code", errs.CodeOf(err)), slog.String("error", err.Error()))
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	log.LogAttrs(ctx, level, "request", append(attrs, rec.notes...)...)
}
