package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"enkeyserver/internal/errs"
)

// Times that a process has for starting, for answering and for stopping. They
// are generous: a loaded machine must not fail a test.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 40 * time.Second // a service gives its requests 30 s
)

// Process is one running service.
type Process struct {
	Service string

	url    atomic.Pointer[string] // once it listens
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
	err    error         // how it ended; read it after exited
}

// Launch starts one instance of a service, with further environment variables
// for it, and returns when it listens. Any number may run at once.
func (s *System) Launch(ctx context.Context, service string, env ...string) (_ *Process, err error) {
	defer errs.Wrap(&err, "Launch(%s)", service)
	out, err := s.logFile(service)
	if err != nil {
		return nil, err
	}
	watch := &addressWatch{to: out, found: make(chan string, 1)}
	cmd := exec.Command(filepath.Join(s.binaries, service))
	cmd.Dir = s.Folder
	cmd.Env = append(s.environment(), env...)
	isolate(cmd)
	cmd.Stdout, cmd.Stderr = watch, watch
	p := &Process{Service: service, cmd: cmd, exited: make(chan struct{})}
	if err := s.starter.start(cmd); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		p.err = cmd.Wait()
		_ = out.Close()
		close(p.exited)
	}()
	s.adopt(p)
	return p, p.awaitAddress(ctx, watch.found, out.Name())
}

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// URL is where the service listens; empty while it does not.
func (p *Process) URL() string {
	if url := p.url.Load(); url != nil {
		return *url
	}
	return ""
}

// isolate keeps ^C in the terminal from reaching the services directly: they
// are stopped in order.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	orphansDie(cmd.SysProcAttr)
}

func (p *Process) awaitAddress(ctx context.Context, found <-chan string, log string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case addr := <-found:
		_, port, err := net.SplitHostPort(addr)
		url := "http://" + net.JoinHostPort("127.0.0.1", port)
		p.url.Store(&url)
		return err
	case <-p.exited:
		return fmt.Errorf("it ended before it listened: %w\n%s", p.err, tail(log))
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("it does not listen: %w\n%s", ctx.Err(), tail(log)), p.Kill())
	}
}

// Ready waits until the service says that it can do its work.
func (p *Process) Ready(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "Ready(%s)", p.Service)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	return untilReady(ctx, func(ctx context.Context) error {
		if !p.Running() {
			return fmt.Errorf("it has ended: %w", p.err)
		}
		status, body, err := request(ctx, http.MethodGet, p.URL()+"/health")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

// untilReady asks again and again: a loaded machine takes its time.
func untilReady(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Trigger calls a job as the scheduler does and reads what it did.
func (p *Process) Trigger(ctx context.Context, path string, into any) (err error) {
	defer errs.Wrap(&err, "Trigger(%s%s)", p.Service, path)
	status, body, err := request(ctx, http.MethodPost, p.URL()+path)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body)
	}
	return json.Unmarshal(body, into)
}

// Kill ends the process as a crash would.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Stop asks the process to finish what it does and to end. It must end with
// status 0, in time.
func (p *Process) Stop() (err error) {
	defer errs.Wrap(&err, "Stop(%s)", p.Service)
	if err := p.end(syscall.SIGTERM); err != nil {
		return err
	}
	return p.err
}

// Running tells whether the process is there.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *Process) end(signal syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("it did not end within %s of %s", stopTimeout, signal)
	}
}

func request(ctx context.Context, method, url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// addressWatch copies a service's output and looks in it for the record that
// says where it listens.
type addressWatch struct {
	to    io.Writer
	found chan string

	mu   sync.Mutex
	line []byte
	done bool
}

func (w *addressWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.to.Write(p)
	if !w.done {
		w.line = append(w.line, p...)
		w.scan()
	}
	return n, err
}

func (w *addressWatch) scan() {
	for {
		line, rest, whole := bytes.Cut(w.line, []byte{'\n'})
		if !whole {
			return
		}
		w.line = rest
		var record struct{ Msg, Addr string }
		if json.Unmarshal(line, &record) == nil && record.Msg == "listening" {
			w.found <- record.Addr
			w.line, w.done = nil, true
			return
		}
	}
}

// tail is the end of a log file, for errors.
func tail(name string) []byte {
	text, err := os.ReadFile(name)
	if err != nil {
		return []byte(err.Error())
	}
	const enough = 3000
	return text[max(0, len(text)-enough):]
}
