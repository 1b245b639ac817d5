package publish

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// waiter waits exactly. The runtime's own timers wake an idle process up to a
// millisecond late, which is as long as many an upload takes; the kernel's wake
// it within a tenth of that, and hold no thread meanwhile. Its zero value is
// ready.
type waiter struct{ idle sync.Pool }

// until waits for a moment. It reports whether the moment came before ctx ended.
func (w *waiter) until(ctx context.Context, moment time.Time) bool {
	d := time.Until(moment)
	if d <= 0 {
		return ctx.Err() == nil
	}
	c, err := w.clock()
	if err != nil {
		return pause(ctx, d) // no file descriptors are left
	}
	cancel := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	err = c.wait(d)
	if !cancel() || err != nil {
		_ = c.Close()
		return false
	}
	w.idle.Put(c)
	return true
}

func (w *waiter) clock() (*clock, error) {
	if c, ok := w.idle.Get().(*clock); ok {
		return c, nil
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &clock{os.NewFile(uintptr(fd), "timer"), fd}, nil
}

// clock is a timer of the kernel; the runtime waits for it as for a connection.
type clock struct {
	*os.File
	fd int
}

func (c *clock) wait(d time.Duration) error {
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(c.fd, 0, &once, nil); err != nil {
		return err
	}
	var expirations [8]byte
	_, err := c.Read(expirations[:])
	return err
}
