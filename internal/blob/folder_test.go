package blob_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/errs"
)

// TestMain lets the test binary play another process.
func TestMain(m *testing.M) {
	switch os.Getenv("BLOB_TEST_PROCESS") {
	case "stale-writer":
		exit(staleWriter())
	case "steady-writer":
		exit(steadyWriter())
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// process starts this binary in another part; arguments go by environment.
func process(t *testing.T, part, dir string, number int) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(),
		"BLOB_TEST_PROCESS="+part, "BLOB_TEST_DIR="+dir, "BLOB_TEST_NUMBER="+strconv.Itoa(number))
	cmd.Stderr = os.Stderr
	return cmd
}

const (
	processes  = 4
	goroutines = 2
	writes     = 125 // of one goroutine; 1000 in all
)

// Several goroutines of several processes write one index a thousand times,
// with numbers that are often stale. It never goes back, nor mixes two states.
func TestFolderIndexNeverGoesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := blob.NewFolder(dir)
	if err := b.Replace(t.Context(), "us/index", 0, blobtest.Numbered(0)); err != nil {
		t.Fatal(err)
	}
	blobtest.WatchWriters(t, b, "us/index", func(context.Context) error {
		var all errgroup.Group
		for p := range processes {
			all.Go(process(t, "stale-writer", dir, p).Run)
		}
		return all.Wait()
	})
}

// staleWriter is several stale writers in one process.
func staleWriter() error {
	b := blob.NewFolder(os.Getenv("BLOB_TEST_DIR"))
	seed, err := strconv.ParseUint(os.Getenv("BLOB_TEST_NUMBER"), 10, 64)
	if err != nil {
		return err
	}
	var all errgroup.Group
	for g := range goroutines {
		all.Go(func() error {
			return blobtest.WriteStale(context.Background(), b, "us/index", writes, seed*goroutines+uint64(g))
		})
	}
	return all.Wait()
}

// A process that writes is killed again and again, somewhere in the middle.
// What it said to be stored is stored, data and attributes belong together,
// and the next one can go on.
func TestFolderSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := blob.NewFolder(dir)
	var said int64
	for round := range 30 {
		cmd := process(t, "steady-writer", dir, int(said)+1)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said = listenAndKill(t, cmd, out, said, 1+round%3, time.Duration(round)*97*time.Microsecond)
		n, err := blobtest.ReadNumbered(t.Context(), b, "us/index")
		if err != nil {
			t.Fatal(err)
		}
		if n != said && n != said+1 {
			t.Fatalf("round %d: sequence %d is stored, but %d was said to be", round, n, said)
		}
		checkCreated(t, b, said)
		said = n
	}
	if err := os.Chtimes(partialOf(t, dir), time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "tidy", blobtest.Text("x")); err != nil {
		t.Fatal(err)
	}
}

// listenAndKill kills the writer a while after its lines-th word, and gives the
// last number that it said.
func listenAndKill(t *testing.T, cmd *exec.Cmd, out io.Reader, said int64, lines int, after time.Duration) int64 {
	t.Helper()
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		n, err := strconv.ParseInt(scanner.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		said = n
		if lines--; lines == 0 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
	return said
}

// partialOf makes a file as a writer leaves it that was killed long ago.
func partialOf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, ".bucket", "partial", "left")
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("what a killed writer left is still there (error %v)", err)
		}
	})
	return path
}

// checkCreated expects a whole file for each number that was said.
func checkCreated(t *testing.T, b blob.Bucket, said int64) {
	t.Helper()
	seen := map[string]bool{}
	for entry, err := range b.List(t.Context(), "us/") {
		if err != nil {
			t.Fatal(err)
		}
		seen[entry.Name] = true
		number, ok := strings.CutPrefix(entry.Name, "us/file-")
		if !ok {
			continue
		}
		body, info, err := b.Open(t.Context(), entry.Name)
		if err != nil {
			t.Fatal(err)
		}
		_ = body.Close() // it was not even read
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		want := blobtest.Numbered(n)
		if info.Size != want.Size || info.CacheControl != want.CacheControl {
			t.Errorf("%s has %d bytes and %q, want %d and %q", info.Name, info.Size, info.CacheControl, want.Size, want.CacheControl)
		}
	}
	for n := int64(1); n <= said; n++ {
		if name := fmt.Sprintf("us/file-%d", n); !seen[name] {
			t.Fatalf("%s is not there, though it was said to be", name)
		}
	}
}

// steadyWriter makes a file and the index for each number, and says it when
// both are stored, as a worker does.
func steadyWriter() error {
	b := blob.NewFolder(os.Getenv("BLOB_TEST_DIR"))
	from, err := strconv.ParseInt(os.Getenv("BLOB_TEST_NUMBER"), 10, 64)
	if err != nil {
		return err
	}
	ctx := context.Background()
	for n := from; ; n++ {
		err := b.Create(ctx, fmt.Sprintf("us/file-%d", n), blobtest.Numbered(n))
		if err != nil && errs.KindOf(err) != errs.KindConflict {
			return err
		}
		if err := b.Replace(ctx, "us/index", n, blobtest.Numbered(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// What a killed writer can leave between two of its steps, made by hand.
func TestFolderHealsRecords(t *testing.T) {
	t.Parallel()
	const record = ".bucket/attributes/us/.index.json"
	for _, tc := range []struct {
		why   string
		spoil func(t *testing.T, dir string)
		want  int64 // sequence that counts afterwards
	}{
		{"the record knows a version that never came", func(t *testing.T, dir string) {
			old := read(t, dir+"/us/index")
			replace(t, dir, 6)
			write(t, dir+"/us/index", old)
		}, 5},
		{"the file was edited by hand: its number still guards it", func(t *testing.T, dir string) {
			replace(t, dir, 6)
			write(t, dir+"/us/index", "edited")
		}, 6},
		{"copied without the hidden folder: anything is newer", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir + "/.bucket"); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"the file is gone, its record is not: there is no object", func(t *testing.T, dir string) {
			if err := os.Remove(dir + "/us/index"); err != nil {
				t.Fatal(err)
			}
			read(t, filepath.Join(dir, record))
		}, -1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := blob.NewFolder(dir)
			replace(t, dir, 5)
			tc.spoil(t, dir)
			if tc.want >= 0 {
				_, info, err := b.Open(t.Context(), "us/index")
				if err != nil || info.Sequence != tc.want {
					t.Errorf("sequence %d (error %v), want %d", info.Sequence, err, tc.want)
				}
				err = b.Replace(t.Context(), "us/index", tc.want, blobtest.Numbered(tc.want))
				if errs.KindOf(err) != errs.KindConflict {
					t.Errorf("replacing it by the same number gives error %v, want a conflict", err)
				}
			}
			replace(t, dir, tc.want+1)
			n, err := blobtest.ReadNumbered(t.Context(), b, "us/index")
			if err != nil || n != tc.want+1 {
				t.Errorf("after the next write: sequence %d (error %v), want %d", n, err, tc.want+1)
			}
		})
	}
}

func replace(t *testing.T, dir string, n int64) {
	t.Helper()
	if err := blob.NewFolder(dir).Replace(t.Context(), "us/index", n, blobtest.Numbered(n)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A reader that two writers overtake must not take the attributes of the second
// for those of the file that it has opened.
func TestFolderReaderIsOvertaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := blob.NewFolder(dir)
	replace(t, dir, 1)
	file, err := os.Open(dir + "/us/index")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if ok, err := b.StillMeans("us/index", file); !ok || err != nil {
		t.Errorf("StillMeans is %v (error %v) before any write", ok, err)
	}
	replace(t, dir, 2)
	replace(t, dir, 3)
	if ok, err := b.StillMeans("us/index", file); ok || err != nil {
		t.Errorf("StillMeans is %v (error %v) after two writes", ok, err)
	}
}
