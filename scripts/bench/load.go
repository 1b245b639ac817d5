package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load sends requests that were written down before: whoever sends shares the
// processors with whoever is measured, and should need little of them.
type load struct {
	addr        string
	connections int
	rate        float64 // requests a second; 0: each connection as fast as it is answered
}

// shot is one request and its answer.
type shot struct {
	due     time.Time     // when it was to be sent
	latency time.Duration // from then on, so that a stall counts for all that it delays
	status  int
}

// run sends all requests, or until stop is closed; nil is never. It gives what
// came of those that were sent.
func (l load) run(ctx context.Context, requests [][]byte, stop <-chan struct{}) ([]shot, error) {
	r := &loading{load: l, requests: requests, stop: stop, begin: time.Now()}
	group, ctx := errgroup.WithContext(ctx)
	for range l.connections {
		group.Go(func() error { return r.connection(ctx) })
	}
	err := group.Wait()
	return r.shots, err
}

// loading is one run of a load.
type loading struct {
	load
	requests [][]byte
	stop     <-chan struct{}
	begin    time.Time
	next     atomic.Int64

	mu    sync.Mutex
	shots []shot
}

// connection is one of those that share the requests.
func (r *loading) connection(ctx context.Context) error {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer hangUp()
	in := bufio.NewReaderSize(conn, 16<<10)
	var mine []shot
	for {
		i := int(r.next.Add(1)) - 1
		if i >= len(r.requests) || r.stopped() {
			break
		}
		s := shot{due: r.wait(i)}
		if s.status, err = exchange(conn, in, r.requests[i]); err != nil {
			return errors.Join(err, ctx.Err())
		}
		s.latency = time.Since(s.due)
		mine = append(mine, s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shots = append(r.shots, mine...)
	return nil
}

func (r *loading) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// wait waits for the moment at which a request is due, and gives it.
func (r *loading) wait(i int) time.Time {
	if r.rate == 0 {
		return time.Now()
	}
	due := r.begin.Add(time.Duration(float64(i) / r.rate * float64(time.Second)))
	time.Sleep(time.Until(due))
	return due
}

// exchange sends a request and reads the answer to its end.
func exchange(conn net.Conn, in *bufio.Reader, request []byte) (status int, err error) {
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// written is a request as it goes over the wire.
func written(path string, header string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n", path, header, len(body))
	b.Write(body)
	return b.Bytes()
}

// address is where a URL leads to.
func address(url string) string { return strings.TrimPrefix(url, "http://") }

// latencies are those of all shots.
func latencies(shots []shot) []time.Duration {
	all := make([]time.Duration, len(shots))
	for i, s := range shots {
		all[i] = s.latency
	}
	return all
}

// refused counts answers other than 200.
func refused(shots []shot) (n int) {
	for _, s := range shots {
		if s.status != http.StatusOK {
			n++
		}
	}
	return n
}
