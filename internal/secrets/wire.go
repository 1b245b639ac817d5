package secrets

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// maxAnswer bounds what is read of a manager's answer: a secret of maxBytes in
// which JSON writes each byte as six, and what stands around it.
const maxAnswer = 6*maxBytes + 32<<10

var errTooLong = errors.New("the answer is too long")

// bounded is a body that fails behind maxAnswer bytes.
type bounded struct {
	io.Closer
	rest io.LimitedReader
}

func bound(body io.ReadCloser) io.ReadCloser {
	return &bounded{Closer: body, rest: io.LimitedReader{R: body, N: maxAnswer}}
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.rest.N <= 0 {
		return 0, errTooLong
	}
	return b.rest.Read(p)
}

// boundTransport bounds the answers of another transport.
type boundTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t boundTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = bound(answer.Body)
	}
	return answer, err
}

// refuseInTheClear keeps secrets from wires that others may listen to: only
// within the machine are they asked for without TLS, as of an agent beside us.
func refuseInTheClear(name, address string, developmentOnly func(string, bool) error) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%s must be a URL: https://HOST", name)
	}
	return developmentOnly(name+" without https", u.Scheme == "http" && !loopback(u.Hostname()))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
