// Package remote fetches what other servers publish, over HTTPS and within
// bounds.
//
// Whoever writes the configuration, and whatever server it names, may be
// careless or hostile. So nothing here can be made to reach into the network
// that this program runs in, to wait for ever, or to hold more than it was
// asked for.
package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"enkeyserver/internal/errs"
)

// Settings say what may be reached, and for how long it may take.
type Settings struct {
	// AllowPrivate also allows http.
	AllowPrivate bool          `envconfig:"REMOTE_ALLOW_PRIVATE" default:"false" desc:"development only: read other servers over http too, and at private addresses"`
	CAFile       string        `envconfig:"REMOTE_CA_FILE" desc:"PEM file of certificates that are trusted, besides the system's, to vouch for other servers"`
	Timeout      time.Duration `envconfig:"REMOTE_TIMEOUT" default:"20s" min:"1ms" max:"5m" desc:"how long another server may take to answer; longer only while it sends 64 KiB a second"`
}

// Deps are what a client needs.
type Deps struct {
	DevelopmentOnly func(name string, set bool) error
}

const (
	// maxRedirects is enough for a moved file and for a change of host.
	maxRedirects = 3

	// maxHeader is more than real servers send.
	maxHeader = 64 << 10

	// defaultTimeout is for whoever leaves Settings.Timeout out.
	defaultTimeout = 20 * time.Second

	userAgent = "enkeyserver"
)

// Client fetches. It holds no cookies and sends no credentials.
//
// It uses no proxy, whatever HTTP_PROXY and HTTPS_PROXY say: a proxy resolves
// names itself, and what it dials could not be checked here.
type Client struct {
	http    *http.Client
	schemes []string
	admits  admission
	timeout time.Duration
}

// New gives a client. It reads the file of certificates, and reaches nobody.
func New(s Settings, d Deps) (*Client, error) {
	if err := d.DevelopmentOnly("REMOTE_ALLOW_PRIVATE", s.AllowPrivate); err != nil {
		return nil, err
	}
	roots, err := trusted(s.CAFile)
	if err != nil {
		return nil, err
	}
	c := &Client{schemes: []string{"https"}, admits: public, timeout: s.Timeout}
	if s.AllowPrivate {
		c.schemes, c.admits = []string{"https", "http"}, anything
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	c.http = &http.Client{Transport: c.transport(roots), CheckRedirect: c.checkRedirect}
	return c, nil
}

// trusted are the system's roots and those of a file. No file: nil, which means
// the system's.
func trusted(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("REMOTE_CA_FILE: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("REMOTE_CA_FILE: the system's certificates: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("REMOTE_CA_FILE: %s holds no certificate in PEM", file)
	}
	return roots, nil
}

func (c *Client) transport(roots *x509.CertPool) *http.Transport {
	dialer := net.Dialer{Timeout: 10 * time.Second, ControlContext: c.control}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // see content
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConns:           20,
		IdleConnTimeout:        30 * time.Second,
	}
}

// Get gives what is published under a URL, at most limit bytes of it: more is
// an error. Kinds of failure: NotFound when it is not there; Invalid when
// asking again will not help, since the URL, the address behind it or what is
// sent is not acceptable; else Internal, and asking again may help.
func (c *Client) Get(ctx context.Context, address string, limit int64) ([]byte, error) {
	var body bytes.Buffer
	if _, err := c.Download(ctx, address, limit, &body); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// Download is Get for what is too large for memory. After an error, into holds
// a useless part.
func (c *Client) Download(ctx context.Context, address string, limit int64, into io.Writer) (n int64, err error) {
	u, err := url.Parse(address)
	if err != nil {
		// The parser's words would hold the whole text, secrets and all.
		return 0, errs.Invalid("remote_url", "a URL to read from cannot be parsed")
	}
	defer errs.Wrap(&err, "read %s", name(u))
	if err := c.check(u); err != nil {
		return 0, err
	}
	p := newPace(ctx, c.timeout)
	defer p.stop()
	resp, err := c.ask(p.ctx, u)
	if err != nil {
		return 0, told(p.ctx, err)
	}
	defer resp.Body.Close()
	body, err := content(resp, limit, p)
	if err != nil {
		return 0, told(p.ctx, err)
	}
	return io.Copy(into, teller{p.ctx, body})
}

func (c *Client) ask(ctx context.Context, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept-Encoding", "identity")
	return c.http.Do(r)
}

// check refuses what must not be asked for, whatever its name resolves to.
func (c *Client) check(u *url.URL) error {
	switch {
	case !slices.Contains(c.schemes, u.Scheme):
		return errs.Invalid("remote_scheme", "a URL to read from must begin with https://")
	case u.Hostname() == "":
		return errs.Invalid("remote_url", "a URL to read from must name a host")
	case u.User != nil:
		return errs.Invalid("remote_userinfo", "a URL to read from must not hold a user or a password")
	}
	return nil
}

// checkRedirect holds each step to the rules of the first, and tells the next
// server nothing about the last.
func (c *Client) checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > maxRedirects {
		return errs.Invalid("remote_redirects", "the server redirects more than %d times", maxRedirects)
	}
	if before[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return errs.Invalid("remote_scheme", "the server redirects away from https")
	}
	next.Header.Del("Referer")
	return c.check(next.URL)
}

// maxName bounds how much of a URL is told: some come out of other servers'
// files.
const maxName = 200

// name is a URL as it may be logged: without its query, which may hold a
// secret, and without a user.
func name(u *url.URL) string {
	text := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	if len(text) > maxName {
		return text[:maxName] + "…"
	}
	return text
}
