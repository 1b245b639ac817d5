package web

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/telemetry"
)

// statusGone stands in the log for the answer to a client that hung up.
const statusGone = 499

// Record writes one log record, and one measurement, for each request: method,
// route pattern, status, duration, bytes of the answer, and what Note adds.
// Nothing in it comes from the client: no address, user agent, query, header
// or body. 5xx are errors, all else is info.
//
// A nil log is slog.Default(). Inside another Record this one does nothing.
func Record(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if recordOf(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		rec := &record{ResponseWriter: w, begun: time.Now(), level: slog.LevelInfo}
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, rec))
		defer func() {
			v := recover()
			if v != nil {
				rec.abort(v)
			}
			rec.write(cmp.Or(log, slog.Default()), r)
			if v != nil {
				panic(http.ErrAbortHandler) // closes the connection, prints nothing
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// Note adds attributes to the record of the request that ctx belongs to.
func Note(ctx context.Context, attrs ...slog.Attr) {
	if rec := recordOf(ctx); rec != nil {
		rec.note(attrs...)
	}
}

// Quiet makes the request's record one for debugging, unless the answer is an
// error: probes come every few seconds and say nothing new.
func Quiet(ctx context.Context) {
	if rec := recordOf(ctx); rec != nil {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.level = slog.LevelDebug
	}
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	rec, _ := ctx.Value(recordKey{}).(*record)
	return rec
}

// record is the ResponseWriter of a request, and remembers what went through
// it. Its lock guards what Note may touch from other goroutines.
type record struct {
	http.ResponseWriter
	begun  time.Time
	status int // 0: nothing is written yet
	bytes  int64

	mu       sync.Mutex
	level    slog.Level
	notes    []slog.Attr
	detached bool
}

// WriteHeader remembers the status. Informational ones are not the answer.
func (rec *record) WriteHeader(status int) {
	if rec.status == 0 && status >= http.StatusOK {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes.
func (rec *record) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (rec *record) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *record) started() bool { return rec.status != 0 }

// excuse makes a failure one that the client caused by hanging up, unless the
// work was detached from it.
func (rec *record) excuse(gone bool) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if gone && !rec.detached {
		rec.status = statusGone
	}
}

// detach notes that the work goes on without the client.
func (rec *record) detach() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.detached = true
}

// abort notes that the answer was given up: the connection will be closed.
func (rec *record) abort(v any) {
	if v != any(http.ErrAbortHandler) {
		rec.fail(Panicked(v))
	}
	rec.note(slog.Bool("aborted", true))
	if rec.status < http.StatusBadRequest {
		rec.status = http.StatusInternalServerError
	}
}

// fail notes why a request failed. The sentence for the client is enough when
// the client is to blame.
func (rec *record) fail(err error) {
	rec.note(slog.String("code", errs.CodeOf(err)))
	if errs.KindOf(err) != errs.Internal {
		rec.note(slog.String("reason", errs.MessageOf(err)))
		return
	}
	rec.note(slog.String("error", err.Error()))
}

func (rec *record) note(attrs ...slog.Attr) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.notes = append(rec.notes, attrs...)
}

// write ends the record.
func (rec *record) write(log *slog.Logger, r *http.Request) {
	took := time.Since(rec.begun)
	status := cmp.Or(rec.status, http.StatusOK) // net/http answers so when a handler writes nothing
	route := cmp.Or(r.Pattern, "none")          // set by the ServeMux inside; a path would be the client's words
	telemetry.RecordRequest(r.Context(), route, status, took)

	rec.mu.Lock()
	defer rec.mu.Unlock()
	level := rec.level
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	log.LogAttrs(r.Context(), level, "request", append([]slog.Attr{
		slog.String("method", method(r)),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Duration("duration", took),
		slog.Int64("bytes", rec.bytes),
	}, rec.notes...)...)
}

// method gives the request's method, which a client may make up.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	default:
		return "other"
	}
}
