package remote

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"enkeyserver/internal/errs"
)

// slowest is the rate that keeps a server in time, in bytes a second.
const slowest = 64 << 10

// wrapping is how much longer than its content a compressed body may be.
const wrapping = 1 << 10

var errSlow = errors.New("the server is too slow")

// pace ends a context when a body comes too slowly. A server has its time, and
// one second more for each 64 KiB that it has sent: so a drip ends with the
// time, and a long body may take long.
type pace struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	end    time.Time
}

func newPace(ctx context.Context, timeout time.Duration) *pace {
	p := &pace{end: time.Now().Add(timeout)}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.timer = time.AfterFunc(timeout, func() { p.cancel(errSlow) })
	return p
}

func (p *pace) stop() {
	p.timer.Stop()
	p.cancel(nil)
}

// paced is a body, whose bytes earn it time.
type paced struct {
	io.Reader
	pace *pace
}

func (r paced) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.pace.end = r.pace.end.Add(time.Duration(n) * time.Second / slowest)
	r.pace.timer.Reset(time.Until(r.pace.end))
	return n, err
}

// content is the body of an answer, decoded, of at most limit bytes.
func content(resp *http.Response, limit int64, p *pace) (io.Reader, error) {
	if err := checkAnswer(resp, limit); err != nil {
		return nil, err
	}
	// What is compressed is bounded before and after: there are long bodies of
	// nothing, too.
	wire := http.MaxBytesReader(nil, io.NopCloser(paced{resp.Body, p}), limit+wrapping)
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
		return http.MaxBytesReader(nil, wire, limit), nil
	case "gzip", "x-gzip": // we do not ask for it; stored so in some buckets
		plain, err := gzip.NewReader(wire)
		if err != nil {
			return nil, err
		}
		return http.MaxBytesReader(nil, plain, limit), nil
	default:
		return nil, errs.Invalid("remote_encoding", "the server sends an encoding that it was not asked for")
	}
}

// checkAnswer looks at all that comes before a body.
func checkAnswer(resp *http.Response, limit int64) error {
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return errs.NotFound("remote_not_found", "the server says %d: it is not there", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return errs.New(errs.Internal, "remote_status", "the server says %d, not 200", resp.StatusCode)
	case resp.ContentLength > limit:
		return tooLarge()
	case resp.ProtoMajor == 1 && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0:
		return errs.Invalid("remote_length", "the server does not say where the body ends: a part of it would pass for the whole")
	}
	return nil
}

func tooLarge() error {
	return errs.Invalid("remote_too_large", "the server sends more than is read of it")
}

// teller is a body whose errors are told in our words. An end that comes after
// we gave up is an error too: a server that sees us leave may end its body as if
// that were all.
type teller struct {
	ctx context.Context
	io.Reader
}

func (r teller) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && (r.ctx.Err() != nil || !errors.Is(err, io.EOF)) {
		err = told(r.ctx, err)
	}
	return n, err
}
