package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// plainServerArg makes this program a server that does nothing but answer.
const plainServerArg = "plain-server"

// servePlain reads every request and answers it with nothing, until its input
// ends. It prints where it listens.
func servePlain(out io.Writer, in io.Reader) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, listener.Addr())
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		}),
	}
	go func() {
		_, _ = io.Copy(io.Discard, in) // until our parent is gone
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// plainServer is this program as a process that does nothing but answer.
type plainServer struct {
	addr string
	cmd  *exec.Cmd
	in   io.Closer
}

func startPlainServer() (*plainServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &plainServer{cmd: exec.Command(self, plainServerArg)}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.addr = strings.TrimSpace(addr)
	return p, nil
}

func (p *plainServer) stop() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }
