// Package cluster runs a private PostgreSQL server for tests, benchmarks and
// the demo. The server listens on a Unix socket alone; it and its folder are
// gone as soon as the process that started it is gone, even when that was killed.
package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"enkeyserver/internal/errs"
)

// Settings shape a private server.
type Settings struct {
	// Durable waits for the disk at each commit, as production does. Without
	// it a commit survives Kill, though not a power cut, and costs less.
	Durable bool

	// Extra are further lines of postgresql.conf, by name.
	Extra map[string]string
}

// Cluster is a running private server.
type Cluster struct {
	dir string // short: a socket's path has at most 107 bytes

	mu      sync.Mutex // one order at a time
	keeper  *exec.Cmd
	orders  io.WriteCloser // its end is what the keeper waits for
	answers *bufio.Reader
}

//go:embed keeper.sh
var keeperScript string

// Start creates a server and returns when it takes connections.
func Start(ctx context.Context, s Settings) (_ *Cluster, err error) {
	defer errs.Wrap(&err, "cluster.Start")
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: filepath.Join(tempDir(), "enkeyserver-pg-"+rand.Text())}
	if err := c.startKeeper(bin); err != nil {
		return nil, err
	}
	if err := c.create(ctx, s); err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

// DSN is the URL of one of the server's databases; "postgres" is always there.
func (c *Cluster) DSN(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database}
	// Each value that the environment (PGPORT, PGSSLMODE) could bend is named.
	u.RawQuery = url.Values{"host": {c.dir}, "port": {"5432"}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// Kill ends the server as a crash would: no checkpoint, no goodbye to clients.
// The data stays for Restart.
func (c *Cluster) Kill(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "cluster.Kill")
	return c.order(ctx, "kill")
}

// Restart brings the server up again, stopping it first if it runs.
func (c *Cluster) Restart(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "cluster.Restart")
	return c.order(ctx, "restart")
}

// Stop ends the server and removes its folder. Stopping twice is no error.
func (c *Cluster) Stop() (err error) {
	defer errs.Wrap(&err, "cluster.Stop")
	return c.end()
}

func (c *Cluster) create(ctx context.Context, s Settings) error {
	if err := c.order(ctx, "init"); err != nil {
		return err
	}
	if err := c.configure(s); err != nil {
		return err
	}
	return c.order(ctx, "start")
}

// configure appends to the file that initdb wrote, so that its owner stays.
func (c *Cluster) configure(s Settings) error {
	f, err := os.OpenFile(filepath.Join(c.dir, "data", "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	lines := s.lines(c.dir)
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(f, "%s = '%s'\n", name, strings.ReplaceAll(lines[name], "'", "''"))
	}
	return f.Close()
}

func (s Settings) lines(socketDir string) map[string]string {
	lines := map[string]string{
		"listen_addresses":        "",
		"port":                    "5432", // names the socket file; no TCP port is opened
		"unix_socket_directories": socketDir,
		"max_connections":         "500",
		"shared_buffers":          "128MB",
	}
	if !s.Durable {
		maps.Copy(lines, map[string]string{
			"fsync":            "off",
			"full_page_writes": "off",
		})
	}
	maps.Copy(lines, s.Extra)
	return lines
}

// startKeeper starts the shell that starts, stops and outlives the server. It
// has a session of its own, so that Ctrl-C reaches the owner alone.
func (c *Cluster) startKeeper(bin string) error {
	cmd := exec.Command("/bin/sh", "-c", keeperScript, "keeper", c.dir, bin)
	cmd.Dir = "/"                                               // ours may be closed to the server's user
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // nothing of PGDATA, PGPORT, …
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		u, err := serverUser()
		if err != nil {
			return err
		}
		cmd.SysProcAttr.Credential = u
	}
	orders, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.keeper, c.orders, c.answers = cmd, orders, bufio.NewReader(answers)
	return nil
}

// serverUser is who runs the server when we are root: PostgreSQL refuses to.
func serverUser() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// order has the keeper do one thing and waits for its answer. When ctx ends
// first the cluster ends too: an order half done is of no use to anybody.
func (c *Cluster) order(ctx context.Context, word string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.orders == nil {
		return errors.New("the cluster has been stopped")
	}
	if _, err := fmt.Fprintln(c.orders, word); err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := c.answers.ReadString('\n')
		answered <- answer{strings.TrimSpace(text), err}
	}()
	select {
	case <-ctx.Done():
		return errors.Join(ctx.Err(), c.orders.Close())
	case a := <-answered:
		if a.err != nil {
			return fmt.Errorf("%s: the keeper of the server is gone (may its user write to %s?): %w", word, filepath.Dir(c.dir), a.err)
		}
		if a.text != "0" {
			return fmt.Errorf("%s: status %s: %s", word, a.text, c.lastWords())
		}
		return nil
	}
}

// end stops the server gently, lets the keeper remove everything and waits
// for it. A server that does not run, or will not stop, is no error here: the
// keeper ends it by force.
func (c *Cluster) end() error {
	_ = c.order(context.Background(), "stop")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.orders == nil {
		return nil
	}
	_ = c.orders.Close() // closed already when an order was cancelled
	c.orders = nil
	return errors.Join(c.keeper.Wait(), os.RemoveAll(c.dir))
}

// lastWords is the end of the server's log.
func (c *Cluster) lastWords() string {
	text, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		return err.Error()
	}
	const enough = 2000
	return string(bytes.TrimSpace(text[max(0, len(text)-enough):]))
}

// tempDir is the usual folder, unless its name is too long for a socket.
func tempDir() string {
	const room = 60
	if dir := os.TempDir(); len(dir) <= room {
		return dir
	}
	return "/tmp"
}
