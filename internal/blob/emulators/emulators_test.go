package emulators_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/blob/emulators"
)

// TestMain lets the test binary play an owner that is killed.
func TestMain(m *testing.M) {
	if os.Getenv("EMULATORS_TEST_OWNER") != "" {
		own()
	}
	os.Exit(m.Run())
}

// own starts an emulator, says where it and its folder are, and waits for its end.
func own() {
	e, err := emulators.Start(context.Background(), emulators.Amazon)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(e.Address)
	fmt.Println(e.Dir())
	select {}
}

func start(t *testing.T, k emulators.Kind) *emulators.Emulator {
	t.Helper()
	e, err := emulators.Start(t.Context(), k)
	if errors.Is(err, emulators.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	for _, kind := range emulators.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			e := start(t, kind)
			url, err := e.Bucket(t.Context(), "bucket-1")
			if err != nil || !strings.HasPrefix(url, string(kind)+"://bucket-1?") {
				t.Errorf("the URL is %q (error %v)", url, err)
			}
			address, err := emulators.Address(url)
			if err != nil || address != e.Address {
				t.Errorf("the URL leads to %q (error %v), want %q", address, err, e.Address)
			}
			if _, err := e.Bucket(t.Context(), "bucket-1"); err == nil {
				t.Error("a bucket was made twice: tests would share it")
			}
			e.Stop()
			wantGone(t, e.Address, e.Dir())
			e.Stop()
		})
	}
}

// Whoever starts an emulator may be killed: nothing is left of it.
func TestGoneWithItsOwner(t *testing.T) {
	t.Parallel()
	start(t, emulators.Amazon).Stop() // or skip
	owner := exec.CommandContext(t.Context(), os.Args[0])
	owner.Env = append(os.Environ(), "EMULATORS_TEST_OWNER=1")
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var said []string
	for len(said) < 2 && lines.Scan() {
		said = append(said, lines.Text())
	}
	if len(said) < 2 {
		t.Fatalf("the owner said %q (error %v)", said, lines.Err())
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	wantGone(t, said[0], said[1])
}

// wantGone waits until nobody listens and the folder is removed.
func wantGone(t *testing.T, address, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		conn, dialled := net.Dial("tcp", address)
		if dialled == nil {
			_ = conn.Close()
		}
		_, found := os.Stat(dir)
		if dialled != nil && errors.Is(found, os.ErrNotExist) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("something is left: dialling gives error %v, looking at %s gives error %v", dialled, dir, found)
		case <-again.C:
		}
	}
}
