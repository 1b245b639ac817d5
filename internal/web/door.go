package web

import (
	"net/http"
	"slices"
	"strings"

	"enkeyserver/internal/errs"
)

// maintenanceRetry is when clients may come back during maintenance, in
// seconds: long enough that a country of phones does not knock all the time.
const maintenanceRetry = "300"

// Methods lets only these methods through.
func Methods(h Handler, methods ...string) Handler {
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) error {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", allow)
			return errs.New(errs.KindWrongMethod, badRequest, "the method must be %s", allow)
		}
		return h(w, r)
	}
}

// Maintenance refuses every request while it is on, and says when to come back.
func Maintenance(on bool, h Handler) Handler {
	if !on {
		return h
	}
	return func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Retry-After", maintenanceRetry)
		return errs.New(errs.KindBusy, "maintenance", "the server is being maintained, try again later")
	}
}

// MaxBytes bounds the body of every request: whoever reads on gets an error,
// and the connection is closed. It stands outside of Record, because it needs
// the writer of net/http itself for that.
func MaxBytes(limit int64, next http.Handler) http.Handler {
	return http.MaxBytesHandler(next, limit)
}
