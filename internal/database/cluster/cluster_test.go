package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v4"

	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/database/dbtest"
)

func connect(t *testing.T, c *cluster.Cluster) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func show(t *testing.T, conn *pgx.Conn, name string) string {
	t.Helper()
	var value string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why      string
		settings cluster.Settings
		want     map[string]string
	}{
		{
			"the zero value is fast and private",
			cluster.Settings{},
			map[string]string{"fsync": "off", "synchronous_commit": "on", "listen_addresses": ""},
		},
		{
			"a durable one waits for the disk",
			cluster.Settings{Durable: true},
			map[string]string{"fsync": "on", "synchronous_commit": "on", "listen_addresses": ""},
		},
		{
			"what is extra wins, quotes included",
			cluster.Settings{Extra: map[string]string{"max_connections": "33", "application_name": "it's"}},
			map[string]string{"max_connections": "33", "application_name": "it's"},
		},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, dbtest.Server(t, tc.settings))
			got := map[string]string{}
			for name := range tc.want {
				got[name] = show(t, conn, name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAWrongSettingTellsTheServersReason(t *testing.T) {
	t.Parallel()
	_, err := cluster.Start(t.Context(), cluster.Settings{Extra: map[string]string{"shared_buffers": "plenty"}})
	if errors.Is(err, cluster.ErrMissing) {
		t.Skip(err)
	}
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("err = %v, want one that names shared_buffers", err)
	}
}

// What was committed before a crash is there after it.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	c := dbtest.Server(t, cluster.Settings{})
	conn := connect(t, c)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a connection outlived the crash")
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := connect(t, c).QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n); err != nil || n != 7 {
		t.Errorf("after the crash n = %d, %v; want 7", n, err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why    string
		before func(context.Context, *cluster.Cluster) error
	}{
		{"a running server", func(context.Context, *cluster.Cluster) error { return nil }},
		{"a killed server", func(ctx context.Context, c *cluster.Cluster) error { return c.Kill(ctx) }},
		{"a stopped server", func(_ context.Context, c *cluster.Cluster) error { return c.Stop() }},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			c := dbtest.Server(t, cluster.Settings{})
			dir, pid := folder(t, c), serverPID(t, c)
			if err := tc.before(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
			if left := leftovers(dir, pid); left != "" {
				t.Error(left)
			}
			if err := c.Restart(t.Context()); err == nil {
				t.Error("a stopped cluster was started again")
			}
		})
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	dbtest.Server(t, cluster.Settings{}) // skips where there is no PostgreSQL
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := cluster.Start(ctx, cluster.Settings{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
}

// The owner is another run of this test binary, killed at once while the
// server is being made, and killed when the server runs.
func TestServerDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	dbtest.Server(t, cluster.Settings{}) // skips where there is no PostgreSQL
	for _, tc := range []struct{ why, until string }{
		{"killed while initdb runs", "starting"},
		{"killed while the server runs", "running"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			tmp := sharedTempDir(t)
			owner := exec.Command(os.Args[0], "-test.run=^TestOwner$")
			owner.Env = append(os.Environ(), "CLUSTER_TEST_OWNER=1", "TMPDIR="+tmp)
			out, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != tc.until {
			}
			if tc.until == "starting" {
				waitFor(t, "the folder", func() bool { return len(folders(tmp)) > 0 })
			}
			if err := owner.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = owner.Wait() // "signal: killed"
			waitFor(t, "everything to be gone", func() bool {
				return len(folders(tmp)) == 0 && len(processesOf(tmp)) == 0
			})
		})
	}
}

// TestOwner is no test: it is the owner that TestServerDiesWithItsOwner kills.
func TestOwner(t *testing.T) {
	if os.Getenv("CLUSTER_TEST_OWNER") == "" {
		t.Skip("runs as the child of TestServerDiesWithItsOwner")
	}
	fmt.Println("starting")
	if _, err := cluster.Start(t.Context(), cluster.Settings{}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("running")
	select {}
}

// sharedTempDir is a short one in which the server's user may remove things.
func sharedTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "owner") //nolint:usetesting // its names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func folders(tmp string) []string {
	names, _ := filepath.Glob(filepath.Join(tmp, "*"))
	return names
}

// processesOf lists the processes whose command line names the folder.
func processesOf(dir string) []string {
	var found []string
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(text), dir) {
			found = append(found, string(text))
		}
	}
	return found
}

func folder(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Host
}

func serverPID(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder(t, c), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(text), "\n")
	return pid
}

func leftovers(dir, pid string) string {
	if _, err := os.Stat(dir); err == nil {
		return "the folder is still there"
	}
	// A process that is gone but not yet waited for has no command line.
	if text, _ := os.ReadFile("/proc/" + pid + "/cmdline"); len(text) > 0 {
		return "the server still runs: " + string(text)
	}
	return ""
}
