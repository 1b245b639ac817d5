package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"enkeyserver/internal/errs"
)

// download is the body of an object of a cloud while it is read.
type download struct {
	cloud *Cloud
	ctx   context.Context // of whoever opened it
	name  string
	state state // as it was opened
	at    int64 // bytes read

	body   io.ReadCloser
	hangUp context.CancelFunc

	left   time.Duration // for which the cloud may still keep a reader waiting
	breaks uint64        // of connections
}

// connect asks for the body from where it was read to, of the very version that
// was opened.
func (d *download) connect() error {
	return d.cloud.patience.persist(d.ctx, func(ctx context.Context) error {
		ctx, hangUp := context.WithCancelCause(ctx)
		late := time.AfterFunc(d.cloud.patience.answer, func() { hangUp(errSilent) })
		body, state, err := d.ask(ctx)
		if !late.Stop() && err == nil {
			err = errors.Join(errSilent, body.Close())
		}
		if err != nil {
			err = inTime(ctx, err)
			hangUp(nil)
			return err
		}
		if d.body == nil {
			d.state = state
		}
		d.body, d.hangUp = body, func() { hangUp(errSilent) }
		return nil
	})
}

func (d *download) ask(ctx context.Context) (io.ReadCloser, state, error) {
	p, err := d.cloud.provider(ctx)
	if err != nil {
		return nil, state{}, err
	}
	body, s, err := p.get(ctx, d.name, d.at, d.state.version)
	if errors.Is(err, errOvertaken) && d.state.version != "" {
		err = refusal{err} // what was opened will not come back
	}
	return body, s, err
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (_ int, err error) {
	for {
		n, err := d.read(p)
		if n > 0 || err == nil || errors.Is(err, io.EOF) && d.at == d.state.Size {
			return n, eofOnly(n, err)
		}
		if err := d.resume(err); err != nil {
			return 0, err
		}
	}
}

// eofOnly keeps an error for the next read, which will meet it again.
func eofOnly(n int, err error) error {
	if n > 0 {
		return nil
	}
	return err
}

// read is one read, in time. The time of the reader itself does not count: it
// may be slow.
func (d *download) read(p []byte) (int, error) {
	late := time.AfterFunc(d.left, d.hangUp)
	start := time.Now()
	n, err := d.body.Read(p)
	late.Stop()
	d.left -= time.Since(start)
	d.at += int64(n)
	return n, err
}

// resume connects again after a break.
func (d *download) resume(broken error) (err error) {
	defer errs.Wrap(&err, "reading %s, after %d of %d bytes", d.name, d.at, d.state.Size)
	if ended := context.Cause(d.ctx); ended != nil {
		return ended
	}
	if d.left <= 0 {
		return errSilent
	}
	if d.breaks++; d.breaks >= d.cloud.patience.tries {
		return fmt.Errorf("%d connections broke, the last one with: %w", d.breaks, broken)
	}
	d.hangUp()
	_ = d.body.Close() // it is broken
	err = d.connect()
	if errors.Is(err, errAbsent) || errors.Is(err, errOvertaken) {
		return fmt.Errorf("the connection broke and the object was replaced meanwhile, read it again: %w", broken)
	}
	return err
}

// Close implements io.Closer. What was not read is not waited for, and what was
// read has been checked: it cannot fail.
func (d *download) Close() error {
	d.hangUp()
	_ = d.body.Close()
	return nil
}
