package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"

	"enkeyserver/internal/errs"
)

// badRequest is the code of every request that cannot be read.
const badRequest = "bad_request"

// ReadJSON reads a request's body, which must be application/json, at most
// limit bytes, and exactly one JSON object without unknown members. Names of
// members match whatever their case: deployed phones differ in it.
//
// Its errors say where the body is wrong and never what stands there.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return errs.New(errs.KindWrongType, badRequest, "the content type must be application/json")
	}
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return unread(err, limit)
	}
	// null would leave into as it is, and look like an empty request.
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return errs.Invalid(badRequest, "the body must be a JSON object")
	}
	return decode(body, into)
}

func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return malformed(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errs.Invalid(badRequest, "the body must be one JSON object and nothing after it")
	}
	return nil
}

func tooLarge(limit int64) error {
	return errs.New(errs.KindTooLarge, badRequest, "the body must not be longer than %d bytes", limit)
}

// unread tells why a body could not be read to its end.
func unread(err error, limit int64) error {
	if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
		return tooLarge(min(limit, tooBig.Limit))
	}
	return errs.Invalid(badRequest, "the body ended early")
}

// malformed tells what is wrong with a body without repeating any of it, as
// the errors of encoding/json do.
func malformed(err error) error {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return errs.Invalid(badRequest, "the value of %s must be %s", mismatch.Field, words(mismatch.Type))
	case errors.As(err, &syntax):
		return errs.Invalid(badRequest, "the body is not JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.Invalid(badRequest, "the body is not JSON: it ends early")
	default:
		return errs.Invalid(badRequest, "a member of the body is unknown, or its value is not allowed")
	}
}

// words says what JSON a Go type is read from.
func words(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return fmt.Sprintf("a whole number that fits %s", t.Kind())
	}
}

// WriteJSON answers with a status and a JSON value. A value that cannot be
// written as JSON is our mistake, and panics.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left is no error of ours
}
