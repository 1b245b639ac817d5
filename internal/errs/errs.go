// Package errs names the kinds of failure and the HTTP status of each.
//
// An error made here carries three things: its kind, which decides the status;
// a code and a sentence, which are meant for the client; and the chain of
// causes, which is meant for the operator. Neither may ever hold a key, a
// token, a certificate, an HMAC or an address.
package errs

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind says what sort of failure an error is. The zero kind is Internal: what
// nobody classified is ours to mend, and the client may try again.
type Kind uint8

// The kinds. Their HTTP statuses stand in statuses.
const (
	Internal        Kind = iota // ours: try again later
	KindInvalid                 // the request is wrong and will stay so
	KindDenied                  // the caller is not who it should be, or may not
	KindNotFound                // there is no such thing
	KindConflict                // it exists already, or somebody newer was there first
	KindBusy                    // closed for now, on purpose: come again later
	KindTooLarge                // more than we read
	KindWrongType               // not the content type that we read
	KindWrongMethod             // not a method of this route
)

var statuses = map[Kind]int{
	Internal:        http.StatusInternalServerError,
	KindInvalid:     http.StatusBadRequest,
	KindDenied:      http.StatusUnauthorized,
	KindNotFound:    http.StatusNotFound,
	KindConflict:    http.StatusConflict,
	KindBusy:        http.StatusTooManyRequests,
	KindTooLarge:    http.StatusRequestEntityTooLarge,
	KindWrongType:   http.StatusUnsupportedMediaType,
	KindWrongMethod: http.StatusMethodNotAllowed,
}

// Status is the HTTP status that answers a failure of this kind.
func (k Kind) Status() int { return statuses[k] }

// Error is a failure with a kind and words for the client.
type Error struct {
	Kind    Kind
	Code    string // stable, for programs: "bad_request"
	Message string // one sentence, for people
	Err     error  // the cause, for the operator; may be nil
}

// Error tells the operator what happened.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind; format and args make the sentence that the
// client reads.
func New(kind Kind, code, format string, args ...any) error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// From makes an error of a kind out of its cause. The client reads the
// sentence, the operator the cause too.
func From(cause error, kind Kind, code, format string, args ...any) error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// Invalid is a request that is wrong, and will be wrong again.
func Invalid(code, format string, args ...any) error { return New(KindInvalid, code, format, args...) }

// Denied is a caller that is not who it must be.
func Denied(code, format string, args ...any) error { return New(KindDenied, code, format, args...) }

// NotFound is a thing that is not there.
func NotFound(code, format string, args ...any) error {
	return New(KindNotFound, code, format, args...)
}

// Conflict is a thing that is there already, or newer than ours.
func Conflict(code, format string, args ...any) error {
	return New(KindConflict, code, format, args...)
}

// KindOf tells the kind of an error: that of the outermost Error in its chain.
func KindOf(err error) Kind {
	if e, ok := find(err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf tells the code meant for the client, or "internal_error".
func CodeOf(err error) string {
	if e, ok := find(err); ok && e.Code != "" {
		return e.Code
	}
	return "internal_error"
}

// MessageOf tells the sentence meant for the client. An error that nobody
// wrote for clients gives none of its details away.
func MessageOf(err error) string {
	if e, ok := find(err); ok {
		return e.Message
	}
	return "the server could not do this now, try again later"
}

// Wrap puts the name of an operation before an error, if there is one. It is
// deferred at the door of a method: defer errs.Wrap(&err, "LeaseBatch(%s)", ttl).
func Wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), *err)
	}
}

func find(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
