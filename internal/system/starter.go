package system

import (
	"os/exec"
	"runtime"
	"sync"
)

// starter starts processes from one thread that lives as long as the system:
// Linux ties a child's life to the thread that started it, and Go's own
// threads come and go.
type starter struct {
	jobs chan func()
	once sync.Once
}

func newStarter() *starter {
	s := &starter{jobs: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with this goroutine, and with it
		// whatever it started that still runs.
		runtime.LockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	s.jobs <- func() { started <- cmd.Start() }
	return <-started
}

func (s *starter) close() { s.once.Do(func() { close(s.jobs) }) }
