package blobtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"enkeyserver/internal/blob/emulators"
)

// clouds are this test binary's emulators: one of each kind, started when it is
// first asked for.
var clouds = map[emulators.Kind]func() (*cloud, error){
	emulators.Google: sync.OnceValues(func() (*cloud, error) { return startCloud(emulators.Google) }),
	emulators.Amazon: sync.OnceValues(func() (*cloud, error) { return startCloud(emulators.Amazon) }),
	emulators.Azure:  sync.OnceValues(func() (*cloud, error) { return startCloud(emulators.Azure) }),
}

// cloud is a running emulator, and where it is reached.
type cloud struct {
	*emulators.Emulator
	address string
}

// startCloud gives this process the credentials of the emulators, instead of
// any that it has: no test may reach a real bucket. The emulator ends with the
// process.
func startCloud(k emulators.Kind) (*cloud, error) {
	for name, value := range emulators.Environment() {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	e, err := emulators.Start(context.Background(), k)
	if err != nil {
		return nil, err
	}
	c := &cloud{Emulator: e, address: e.Address}
	if k == emulators.Amazon {
		front := httptest.NewServer(forwardTo(e.Address, &oneByOne{RoundTripper: http.DefaultTransport}))
		c.address = front.Listener.Addr().String()
	}
	return c, nil
}

var made atomic.Int64

// CloudURL makes an empty bucket of a cloud and gives its URL. Where the emulator
// is not installed the test is skipped, and fails in CI.
func CloudURL(t testing.TB, k emulators.Kind) string {
	t.Helper()
	e, err := clouds[k]()
	if errors.Is(err, emulators.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	url, err := e.Bucket(t.Context(), fmt.Sprintf("test-%d", made.Add(1)))
	if err == nil {
		url, err = emulators.At(url, e.address)
	}
	if err != nil {
		t.Fatal(err)
	}
	return url
}
