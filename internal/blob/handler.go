package blob

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"enkeyserver/internal/errs"
)

// Handler serves the objects of a bucket, read-only: it stands in for a CDN.
func Handler(b Bucket) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		body, info, err := b.Open(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			refuse(w, err)
			return
		}
		defer func() { _ = body.Close() }() // it was only read
		serve(w, r, body, info)
	})
}

func serve(w http.ResponseWriter, r *http.Request, body io.Reader, info Info) {
	h := w.Header()
	h.Set("Content-Type", info.ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", fmt.Sprintf(`"%x-%x-%x"`, info.Sequence, info.Size, info.ModTime.UnixNano()))
	if info.CacheControl != "" {
		h.Set("Cache-Control", info.CacheControl)
	}
	if seeker, ok := body.(io.ReadSeeker); ok {
		http.ServeContent(w, r, "", info.ModTime, seeker)
		return
	}
	h.Set("Content-Length", strconv.FormatInt(info.Size, 10))
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, body) // a client that went away is nobody's error
	}
}

// refuse answers in plain text. A name that cannot be is one that is not there.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Cache-Control", "no-store")
	switch errs.KindOf(err) {
	case errs.KindNotFound, errs.KindInvalid:
		http.Error(w, "no such object", http.StatusNotFound)
	default:
		slog.Error("serving an object", "error", err)
		http.Error(w, "try again later", http.StatusInternalServerError)
	}
}
