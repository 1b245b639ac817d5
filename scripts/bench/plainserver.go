package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
)

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
