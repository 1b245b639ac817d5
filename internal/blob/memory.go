package blob

import (
	"bytes"
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a bucket that lives as long as its process: for tests.
type Memory struct {
	mu      sync.Mutex
	objects map[string]memoryObject
}

type memoryObject struct {
	info Info
	body []byte // never changed once stored
}

// NewMemory makes an empty bucket.
func NewMemory() *Memory { return &Memory{objects: map[string]memoryObject{}} }

// Create implements Bucket.
func (m *Memory) Create(_ context.Context, name string, o Object) error {
	return m.put(name, o, 0, func(_ Info, exists bool) error {
		if exists {
			return taken(name)
		}
		return nil
	})
}

// Replace implements Bucket.
func (m *Memory) Replace(_ context.Context, name string, sequence int64, o Object) error {
	return m.put(name, o, sequence, func(stored Info, exists bool) error {
		if exists && stored.Sequence >= sequence {
			return stale(name, sequence, stored.Sequence)
		}
		return nil
	})
}

// put stores an object if may, asked under the lock, has no objection.
func (m *Memory) put(name string, o Object, sequence int64, may func(stored Info, exists bool) error) error {
	if err := CheckName(name); err != nil {
		return err
	}
	var body bytes.Buffer
	if err := copyBody(&body, o.Body, o.Size); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	stored, exists := m.objects[name]
	if err := may(stored.info, exists); err != nil {
		return err
	}
	m.objects[name] = memoryObject{body: body.Bytes(), info: Info{
		Name: name, ContentType: o.typed().ContentType, CacheControl: o.CacheControl,
		Size: o.Size, Sequence: sequence, ModTime: time.Now().UTC(),
	}}
	return nil
}

// Open implements Bucket.
func (m *Memory) Open(_ context.Context, name string) (io.ReadCloser, Info, error) {
	if err := CheckName(name); err != nil {
		return nil, Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return nil, Info{}, notFound(name)
	}
	return memoryReader{bytes.NewReader(o.body)}, o.info, nil
}

// Delete implements Bucket.
func (m *Memory) Delete(_ context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// List implements Bucket. What it gives is the state at its start.
func (m *Memory) List(_ context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			info := objects[name].info
			if strings.HasPrefix(name, prefix) && !yield(Entry{Name: name, Size: info.Size, ModTime: info.ModTime}, nil) {
				return
			}
		}
	}
}

// memoryReader can also seek, which lets Handler answer ranges.
type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// copyBody copies a whole body of this size, and nothing else than that.
func copyBody(w io.Writer, body io.ReadSeeker, size int64) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(body, size+1))
	if err != nil {
		return err
	}
	if n != size {
		return errSize
	}
	return nil
}
