// Package emulators runs stand-ins for the buckets of clouds, each as a process
// of its own, for tests. It and its data are gone as soon as the process that
// started it is gone, even when that was killed.
package emulators

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"enkeyserver/internal/errs"
)

// Kind is a kind of cloud bucket: the scheme of its URLs.
type Kind string

// The kinds, and what stands in for each.
const (
	Google Kind = "gs"     // fake-gcs-server
	Amazon Kind = "s3"     // versitygw over a folder
	Azure  Kind = "azblob" // azurite
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{Google, Amazon, Azure} }

// ErrMissing says that an emulator is not installed, and what brings it.
var ErrMissing = errors.New("the emulators of buckets are missing: run scripts/setup, or scripts/emulators where npm is installed")

// Emulator is a running one.
type Emulator struct {
	Kind    Kind
	Address string // host and port

	dir    string
	keeper *exec.Cmd
	owner  io.Closer // its end is what the keeper waits for
}

//go:embed keeper.sh
var keeperScript string

// Start starts an emulator without buckets, on a free port, and returns when it
// answers.
func Start(ctx context.Context, k Kind) (_ *Emulator, err error) {
	defer errs.Wrap(&err, "emulators.Start(%s)", k)
	if err := installed(k); err != nil {
		return nil, err
	}
	for range 3 { // somebody else may take the port that was free
		var e *Emulator
		if e, err = start(ctx, k); err == nil {
			return e, nil
		}
	}
	return nil, err
}

// Environment is what a process needs in order to use the emulator's buckets:
// credentials of nothing else. The account of Azure is the one that azurite and
// its documentation are made with.
func Environment() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID":     "emulator",
		"AWS_SECRET_ACCESS_KEY": "emulator-secret",
		"AZURE_STORAGE_ACCOUNT": "devstoreaccount1",
		"AZURE_STORAGE_KEY":     "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
	}
}

// Stop ends the emulator and removes its data. Stopping twice is no error.
func (e *Emulator) Stop() {
	_ = e.owner.Close()
	_ = e.keeper.Wait() // it was killed, and says so
	_ = os.RemoveAll(e.dir)
}

func start(ctx context.Context, k Kind) (*Emulator, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "enkeyserver-bucket-")
	if err != nil {
		return nil, err
	}
	e := &Emulator{Kind: k, Address: address, dir: dir}
	if err := e.startKeeper(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := e.awaitAnswer(ctx); err != nil {
		err = fmt.Errorf("%w: %s", err, e.lastWords())
		e.Stop()
		return nil, err
	}
	return e, nil
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// startKeeper starts the shell that starts and outlives the emulator. It has a
// session of its own, so that Ctrl-C reaches the owner alone.
func (e *Emulator) startKeeper() (err error) {
	e.keeper = exec.Command("/bin/sh", append([]string{"-c", keeperScript, "keeper", e.dir}, e.command()...)...)
	e.keeper.Dir = "/"
	e.keeper.Env = append(e.environment(), "PATH="+os.Getenv("PATH"), "HOME="+e.dir)
	e.keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	e.owner, err = e.keeper.StdinPipe()
	if err != nil {
		return err
	}
	return e.keeper.Start()
}

// awaitAnswer asks until anything is answered, be it that this is no request.
func (e *Emulator) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the emulator does not answer"))
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Address+"/", http.NoBody)
	if err != nil {
		return err
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		answer, err := http.DefaultClient.Do(ask)
		if err == nil {
			return answer.Body.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
		}
	}
}

// lastWords is the end of what the emulator printed.
func (e *Emulator) lastWords() string {
	text, err := os.ReadFile(filepath.Join(e.dir, "log"))
	if err != nil {
		return err.Error()
	}
	const enough = 1000
	return string(text[max(0, len(text)-enough):])
}

// Address gives the host and port where the bucket of a URL is.
func Address(bucketURL string) (string, error) {
	bucket, err := url.Parse(bucketURL)
	if err != nil {
		return "", err
	}
	endpoint, err := url.Parse(bucket.Query().Get("endpoint"))
	if err != nil {
		return "", err
	}
	return endpoint.Host, nil
}

// At gives the URL of the same bucket at another address: that of a proxy.
func At(bucketURL, address string) (string, error) {
	bucket, err := url.Parse(bucketURL)
	if err != nil {
		return "", err
	}
	query := bucket.Query()
	endpoint, err := url.Parse(query.Get("endpoint"))
	if err != nil {
		return "", err
	}
	endpoint.Host = address
	query.Set("endpoint", endpoint.String())
	bucket.RawQuery = query.Encode()
	return bucket.String(), nil
}
