package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"enkeyserver/internal/errs"
)

// Cloud is a bucket of a cloud, or of whatever speaks like one.
//
// No cloud knows sequence numbers, but each can make a write depend on the
// version that it replaces. So a write is: read what is there, decide, and write
// on condition that it is still there; whoever lost the race decides anew.
//
// An answer can get lost after a write has taken place, and then the next
// attempt finds the object there. Each write therefore leaves a random mark of
// its own beside the object: one that finds its mark has succeeded.
type Cloud struct {
	dial     func(ctx context.Context) (provider, error)
	patience patience
	page     int // entries that are asked for at once

	mu   sync.Mutex
	open provider // nil until the first use, so that a service starts fast
}

// provider is what one kind of cloud offers. Each call is one request, which is
// never repeated by itself. Its errors are errAbsent, errOvertaken, a refusal,
// or something that may be tried again.
type provider interface {
	// head tells what is known about an object.
	head(ctx context.Context, name string) (state, error)

	// put writes an object, all of it or nothing, on condition that what is
	// there has the version that it replaces.
	put(ctx context.Context, name string, u upload) error

	// get reads an object from an offset. With a version it is that one, or
	// errAbsent or errOvertaken. What comes lasts until ctx ends.
	get(ctx context.Context, name string, from int64, version string) (io.ReadCloser, state, error)

	// remove deletes an object; errAbsent if the cloud tells that there is none.
	remove(ctx context.Context, name string) error

	// list gives at most so many entries, from where the list before ended, or
	// from the start: "". It says where the next one starts: "" for none.
	list(ctx context.Context, prefix, from string, limit int) (_ []Entry, next string, _ error)
}

// state is what a cloud knows about an object.
type state struct {
	Info
	version string // changes with each write
	mark    string // of the write that made it; "" if that was not ours
}

// upload is an object on its way into a cloud.
type upload struct {
	Object
	Body     *loan             // that of the object
	metadata map[string]string // as state finds it again
	replaces string            // version; "" for none, which means that the name is free
}

var (
	errAbsent    = errors.New("there is no such object")
	errOvertaken = errors.New("the object is no longer what it was")
)

// Create implements Bucket.
func (c *Cloud) Create(ctx context.Context, name string, o Object) (err error) {
	defer errs.Wrap(&err, "Create(%s)", name)
	return c.write(ctx, change{name: name, object: o, may: func(Info) error { return taken(name) }})
}

// Replace implements Bucket.
func (c *Cloud) Replace(ctx context.Context, name string, sequence int64, o Object) (err error) {
	defer errs.Wrap(&err, "Replace(%s, %d)", name, sequence)
	return c.write(ctx, change{name: name, object: o, sequence: sequence, may: func(stored Info) error {
		if stored.Sequence >= sequence {
			return stale(name, sequence, stored.Sequence)
		}
		return nil
	}})
}

// change is one call of Create or Replace.
type change struct {
	name     string
	object   Object
	sequence int64
	mark     string
	may      func(stored Info) error // objects to replacing what is there
}

// write makes a change. Each race that it loses is one that somebody else won.
func (c *Cloud) write(ctx context.Context, w change) error {
	if err := CheckName(w.name); err != nil {
		return err
	}
	if err := checkSize(w.object); err != nil {
		return err
	}
	w.object, w.mark = w.object.typed(), rand.Text()
	const mostRaces = 20
	return c.persist(ctx, c.patience.with(w.object.Size), func(ctx context.Context, p provider) (err error) {
		for range mostRaces {
			if err = w.attempt(ctx, p); !errors.Is(err, errOvertaken) {
				break
			}
		}
		return err
	})
}

// attempt looks, decides and writes. It is errOvertaken when somebody came
// between the look and the write.
func (w change) attempt(ctx context.Context, p provider) error {
	stored, err := p.head(ctx, w.name)
	switch {
	case errors.Is(err, errAbsent):
		return w.send(ctx, p, "")
	case err != nil:
		return err
	case stored.mark == w.mark:
		return nil // an earlier attempt of ours, whose answer was lost
	}
	if err := w.may(stored.Info); err != nil {
		return refusal{err}
	}
	return w.send(ctx, p, stored.version)
}

// send writes over a version. Nothing is read of the body any more once it is
// over: the next attempt reads it again.
func (w change) send(ctx context.Context, p provider, version string) error {
	body := &loan{body: w.object.Body}
	defer body.end()
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return refusal{err}
	}
	err := p.put(ctx, w.name, upload{
		Object: w.object, Body: body, metadata: metadata(w.sequence, w.mark), replaces: version,
	})
	if broken := body.broken(); broken != nil {
		return broken
	}
	if errors.Is(err, errAbsent) {
		return errOvertaken // it was deleted after we had looked
	}
	return err
}

// Open implements Bucket. When the connection breaks while the body is read it
// goes on where it was, unless the object has been replaced by then: that is an
// error, and never a mixture.
func (c *Cloud) Open(ctx context.Context, name string) (_ io.ReadCloser, _ Info, err error) {
	defer errs.Wrap(&err, "Open(%s)", name)
	if err := CheckName(name); err != nil {
		return nil, Info{}, err
	}
	d := &download{cloud: c, ctx: ctx, name: name}
	if err := d.connect(); err != nil {
		if errors.Is(err, errAbsent) {
			err = notFound(name)
		}
		return nil, Info{}, err
	}
	d.left = c.patience.with(d.state.Size)
	return d, d.state.Info, nil
}

// Delete implements Bucket.
func (c *Cloud) Delete(ctx context.Context, name string) (err error) {
	defer errs.Wrap(&err, "Delete(%s)", name)
	if err := CheckName(name); err != nil {
		return err
	}
	err = c.persist(ctx, c.patience.answer, func(ctx context.Context, p provider) error {
		return p.remove(ctx, name)
	})
	if errors.Is(err, errAbsent) {
		return nil
	}
	return err
}

// List implements Bucket. It reads the whole list first: not every cloud orders
// names by their bytes.
func (c *Cloud) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		entries, err := c.list(ctx, prefix)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (c *Cloud) list(ctx context.Context, prefix string) (all []Entry, err error) {
	defer errs.Wrap(&err, "List(%s)", prefix)
	for from, more := "", true; more; {
		var entries []Entry
		var next string
		err := c.persist(ctx, c.patience.answer, func(ctx context.Context, p provider) (err error) {
			entries, next, err = p.list(ctx, prefix, from, c.page)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if isName(e.Name) { // the folders of consoles are not
				all = append(all, e)
			}
		}
		from, more = next, next != ""
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// provider opens the connection to the cloud at its first use. A failure is not
// remembered.
func (c *Cloud) provider(ctx context.Context) (provider, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		return c.open, nil
	}
	p, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.open = p
	return p, nil
}

// checkSize refuses a body of another size than was said, before anything is
// sent.
func checkSize(o Object) error {
	size, err := o.Body.Seek(0, io.SeekEnd)
	if err == nil && size != o.Size {
		err = errSize
	}
	return err
}

// loan lends the body of an object to one request. A client may go on reading
// after it has answered, which must not disturb the next one.
type loan struct {
	mu    sync.Mutex
	body  io.ReadSeeker
	ended bool
	err   error // of the body itself: no repeat mends it
}

func (l *loan) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, errEnded
	}
	n, err := l.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return n, err
}

// Seek implements io.Seeker: clients measure a body so, and rewind it.
func (l *loan) Seek(offset int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, errEnded
	}
	return l.body.Seek(offset, whence)
}

// Close implements io.Closer for clients that close what they send. The body
// stays its owner's.
func (*loan) Close() error { return nil }

func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// broken is why the body could not be read, if so.
func (l *loan) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return nil
	}
	return refusal{l.err}
}

var errEnded = errors.New("the request is over")

// The names under which a cloud keeps what it does not know itself. They are
// served with the object.
const (
	metaSequence = "sequence"
	metaMark     = "mark"
)

func metadata(sequence int64, mark string) map[string]string {
	return map[string]string{metaSequence: strconv.FormatInt(sequence, 10), metaMark: mark}
}

// recall adds what was kept beside the object. An object that somebody else put
// there has the number 0: anything may replace it. The case of names is lost on
// the way through some clients.
func (s *state) recall(kept map[string]string) {
	for name, value := range kept {
		switch strings.ToLower(name) {
		case metaMark:
			s.mark = value
		case metaSequence:
			s.Sequence, _ = strconv.ParseInt(value, 10, 64)
		}
	}
}
