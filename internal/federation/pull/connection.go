package pull

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/store"
)

// connectTimeout bounds an attempt to reach a neighbour.
const connectTimeout = 10 * time.Second

// connection is one to a neighbour's server, made when it is first used.
type connection struct {
	*grpc.ClientConn
	secure  bool
	trouble *trouble
}

// dial prepares a connection. It takes no proxy, and no advice of the server's
// domain on how to connect: names are resolved where trouble is noted.
func dial(p store.PullConfig, s Settings) (*connection, error) {
	c := &connection{trouble: &trouble{}}
	creds, err := c.credentials(p, s)
	if err != nil {
		return nil, err
	}
	c.ClientConn, err = grpc.NewClient("passthrough:///"+p.Server,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(c.trouble.dial),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}))
	return c, err
}

// credentials are TLS, whatever the server likes, but for a server on this
// machine in development.
func (c *connection) credentials(p store.PullConfig, s Settings) (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(p.Server)
	if err != nil {
		return nil, errOf("its server must be a host with a port")
	}
	if s.Plaintext && loopback(host) {
		return insecure.NewCredentials(), nil
	}
	c.secure = true
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if p.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(p.CA)) {
			return nil, errOf("tls.ca of it holds no certificate in PEM")
		}
	}
	if p.CertFile != "" {
		// Read for each handshake: certificates are short-lived.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			own, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
			if err != nil {
				return nil, errOwnCertificate
			}
			return &own, nil
		}
	}
	return observed{credentials.NewTLS(config), c.trouble}, nil
}

var errOwnCertificate = errOf("our own certificate, tls.certFile with tls.keyFile, cannot be read")

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// explain makes words for the operator out of an error of a call. It repeats
// nothing that the other side wrote, which may be anything: our token, say.
func (c *connection) explain(err error, s Settings) error {
	said, ok := status.FromError(err)
	if !ok {
		return err // our own
	}
	switch said.Code() {
	case codes.Unauthenticated:
		return errOf("it does not accept our token (UNAUTHENTICATED): issuer, subject and audience must be those that it allows")
	case codes.PermissionDenied:
		return errOf("it does not let us in (PERMISSION_DENIED): ask its people to allow our issuer, subject and audience")
	case codes.Unimplemented:
		return errOf("it does not know /Federation/Fetch (UNIMPLEMENTED): is this its federation server?")
	case codes.DeadlineExceeded:
		return errOf("it did not answer in time")
	case codes.ResourceExhausted:
		return c.explainExhausted(said, s)
	case codes.InvalidArgument:
		return errOf("it refuses the question or the cursor that it gave us (INVALID_ARGUMENT)")
	case codes.Unavailable:
		if cause := c.trouble.last(); cause != nil {
			return errOf("no connection: %s", cause)
		}
	}
	return errOf("it answered with an error (%s)", said.Code())
}

// explainExhausted tells our own limit from theirs. Somebody who writes these
// words on purpose misleads nobody about more than that.
func (c *connection) explainExhausted(said *status.Status, s Settings) error {
	if strings.HasPrefix(said.Message(), "grpc: received message larger than max") {
		return errOf("it sends more than %d bytes at once: lower FEDERATION_PAGE_KEYS, or raise FEDERATION_MAX_MESSAGE_BYTES", s.MaxMessage)
	}
	return errOf("it asks us to come less often (RESOURCE_EXHAUSTED)")
}

// refused tells that a token was not accepted.
func refused(err error) bool { return err != nil && status.Code(err) == codes.Unauthenticated }

// trouble remembers why a connection failed. The library tells it in a text
// alone, with addresses in it.
type trouble struct {
	mu  sync.Mutex
	err error
}

func (t *trouble) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

// last is the last reason in words; nil: there is none.
func (t *trouble) last() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return nil
	}
	return errors.New(whyUnreachable(t.err))
}

func (t *trouble) dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		t.note(err)
	}
	return conn, err
}

// observed notes what goes wrong in a handshake, and after it: with TLS 1.3 a
// server refuses our certificate only when we think that all is well.
type observed struct {
	credentials.TransportCredentials
	trouble *trouble
}

func (o observed) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := o.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		o.trouble.note(err)
		return conn, info, err
	}
	return observedConn{conn, o.trouble}, info, nil
}

func (o observed) Clone() credentials.TransportCredentials {
	return observed{o.TransportCredentials.Clone(), o.trouble}
}

type observedConn struct {
	net.Conn
	trouble *trouble
}

func (c observedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.trouble.note(err)
	}
	return n, err
}

// whyUnreachable says in words why a connection over TLS failed.
func whyUnreachable(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, errOwnCertificate):
		return errOwnCertificate.Error()
	case errors.As(err, &unknown):
		return "its certificate comes from no authority that we trust"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet"
	case errors.As(err, &invalid):
		return "its certificate is not good for this"
	case errors.As(err, &name):
		return "its certificate is for another name"
	case errors.As(err, &dns):
		return "its name cannot be resolved"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "it did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there"
	case errors.As(err, &op) && op.Op == "remote error":
		return "it refuses our TLS, or our certificate"
	}
	return "it broke off"
}
