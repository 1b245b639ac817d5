package remote

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"enkeyserver/internal/errs"
)

// told is what is said of a failure. The libraries' words hold addresses, whole
// URLs, and whatever the server sent: none of it is passed on.
func told(ctx context.Context, err error) error {
	var ours *errs.Error
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &tooLong):
		return tooLarge()
	case errors.Is(context.Cause(ctx), errSlow):
		return errs.New(errs.Internal, "remote_slow", "the server is too slow: it has REMOTE_TIMEOUT, and a second more for each 64 KiB")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return errs.New(errs.Internal, "remote_broken", "%s", reason(err))
	}
}

// reason says why an exchange broke.
func reason(err error) string {
	var (
		dns     *net.DNSError
		errno   syscall.Errno
		record  tls.RecordHeaderError
		cert    *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		other   x509.HostnameError
		op      *net.OpError
		damaged flate.CorruptInputError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &dns):
		return "the server's name does not resolve"
	case errors.As(err, &unknown):
		return "nobody we trust vouches for the server's certificate: REMOTE_CA_FILE can name more"
	case errors.As(err, &other):
		return "the server's certificate is for another name"
	case errors.As(err, &cert):
		return "the server's certificate is not valid, now or for this"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the server does not speak TLS"
	case errors.As(err, &op) && op.Op == "remote error":
		return "the server refuses our TLS"
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &damaged):
		return "the server's compressed body is damaged"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the server's answer was cut"
	case errors.As(err, &errno):
		return "the connection failed: " + errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the server did not answer in time"
	default:
		return "the server does not speak HTTP as it should"
	}
}
