// Package web turns a handler that returns an error into a served answer:
// JSON in and out, one log record a request, and bounds at the door.
package web

import (
	"context"
	"errors"
	"net/http"

	"enkeyserver/internal/errs"
)

// Handler answers a request, or says why it cannot. After an error it has
// written nothing but headers.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Wrap makes an http.Handler that answers errors with WriteError.
func Wrap(h Handler) http.Handler { return Responder{Error: WriteError}.Wrap(h) }

// Responder answers the errors of the handlers that it wraps in the shape that
// their clients expect.
type Responder struct {
	// Error writes the whole answer to a request that failed. It finds the
	// status by errs.KindOf, the client's words by errs.CodeOf and
	// errs.MessageOf, and leaves the headers that are set alone.
	Error func(w http.ResponseWriter, r *http.Request, err error)
}

// Wrap makes an http.Handler. A panic of the handler is an internal error. The
// request is recorded as by Record, unless that is done further out.
func (p Responder) Wrap(h Handler) http.Handler {
	return Record(nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := recovered(h, w, r)
		if err == nil {
			return
		}
		rec := recordOf(r.Context())
		rec.fail(err)
		if rec.started() {
			// Half an answer must not look like a whole one.
			panic(http.ErrAbortHandler)
		}
		p.Error(w, r, err)
		rec.excuse(clientGone(r, err))
	}))
}

// WriteError answers with {"error": sentence, "code": code} and the status of
// the error's kind. The chain of causes stays here.
func WriteError(w http.ResponseWriter, _ *http.Request, err error) {
	WriteJSON(w, errs.KindOf(err).Status(), struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{errs.MessageOf(err), errs.CodeOf(err)})
}

// clientGone tells whether a request failed only because its client hung up:
// that is no fault of ours and must wake nobody. When the process ends, or the
// work does not depend on the client, that is no excuse.
func clientGone(r *http.Request, err error) bool {
	process, ok := r.Context().Value(processKey{}).(context.Context)
	ending := ok && process.Err() != nil
	return errs.KindOf(err) == errs.Internal &&
		errors.Is(err, context.Canceled) &&
		r.Context().Err() != nil && !ending
}

// recovered runs a handler and makes an error of its panic.
func recovered(h Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: // meant for net/http
			panic(v)
		default:
			err = Panicked(v)
		}
	}()
	return h(w, r)
}
