package pull_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/pull"
	"enkeyserver/internal/store"
)

// selfSigned is a certificate of its own authority, and that in PEM.
func selfSigned(t *testing.T, edits ...func(*x509.Certificate)) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	for _, edit := range edits {
		edit(template)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}

// Whom we talk to, and what we are told when we cannot.
func TestConnection(t *testing.T) {
	t.Parallel()
	with := func(c tls.Certificate) grpc.ServerOption {
		return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}))
	}
	// server gives one, and the configuration that asks it.
	type setUp func(t *testing.T, w *world, p *store.PullConfig) *federationtest.Server
	mutual := func(t *testing.T, p *store.PullConfig, trusts *federationtest.Authority) *federationtest.Server {
		cert, ca := selfSigned(t)
		p.CA = ca
		return federationtest.NewServer(t, empty, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{cert}, ClientCAs: trusts.Pool(), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
			// With TLS 1.3 a refusal comes after the handshake, and may be lost
			// with the connection.
			MaxVersion: tls.VersionTLS12,
		})))
	}
	for _, tc := range []struct {
		why     string
		server  setUp
		failure string
	}{
		{"its authority is configured", func(t *testing.T, _ *world, _ *store.PullConfig) *federationtest.Server {
			return federationtest.NewServer(t, empty)
		}, ""},
		{"another authority is", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.CA = federationtest.NewAuthority(t).PEM()
			return federationtest.NewServer(t, empty)
		}, "no connection: its certificate comes from no authority that we trust"},
		{"none is, and no public one vouches for it", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.CA = "system"
			return federationtest.NewServer(t, empty)
		}, "comes from no authority that we trust"},
		{"its certificate has expired", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			cert, ca := selfSigned(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
			p.CA = ca
			return federationtest.NewServer(t, empty, with(cert))
		}, "no connection: its certificate has expired"},
		{"its certificate is for another name", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			cert, ca := selfSigned(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} })
			p.CA = ca
			return federationtest.NewServer(t, empty, with(cert))
		}, "no connection: its certificate is for another name"},
		{"its certificate is for signing mail", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			cert, ca := selfSigned(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} })
			p.CA = ca
			return federationtest.NewServer(t, empty, with(cert))
		}, "no connection: its certificate is not good for this"},
		{"nothing listens", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.Server = "127.0.0.1:1"
			return federationtest.NewServer(t, empty)
		}, "no connection: nothing listens there"},
		{"its name does not exist", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.Server = "federation.invalid:443"
			return federationtest.NewServer(t, empty)
		}, "no connection: its name cannot be resolved"},
		{"it speaks no TLS, and we do nothing else", func(t *testing.T, _ *world, _ *store.PullConfig) *federationtest.Server {
			return federationtest.NewServer(t, empty, grpc.Creds(insecure.NewCredentials()))
		}, "no connection: "},
		{"it speaks no TLS, on this machine, in development", func(t *testing.T, w *world, _ *store.PullConfig) *federationtest.Server {
			w.settings.Plaintext = true
			return federationtest.NewServer(t, empty, grpc.Creds(insecure.NewCredentials()))
		}, ""},
		{"another machine gets TLS in development too", func(t *testing.T, w *world, p *store.PullConfig) *federationtest.Server {
			w.settings.Plaintext = true
			p.Server = "federation.invalid:443"
			return federationtest.NewServer(t, empty)
		}, "no connection: its name cannot be resolved"},
		{"it wants our certificate", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			clients := federationtest.NewAuthority(t)
			p.CertFile, p.KeyFile = clients.Files(t, t.TempDir(), "us")
			return mutual(t, p, clients)
		}, ""},
		{"it wants another one", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.CertFile, p.KeyFile = federationtest.NewAuthority(t).Files(t, t.TempDir(), "us")
			return mutual(t, p, federationtest.NewAuthority(t))
		}, "no connection: it refuses our TLS, or our certificate"},
		{"ours is not there", func(t *testing.T, _ *world, p *store.PullConfig) *federationtest.Server {
			p.CertFile, p.KeyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
			clients := federationtest.NewAuthority(t)
			return mutual(t, p, clients)
		}, "no connection: our own certificate, tls.certFile with tls.keyFile, cannot be read"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var p store.PullConfig
			server := tc.server(t, w, &p)
			w.neighbour("ca", server, func(c *store.PullConfig) {
				c.CertFile, c.KeyFile = p.CertFile, p.KeyFile
				if p.Server != "" {
					c.Server = p.Server
				}
				if p.CA == "system" {
					c.CA = ""
				} else if p.CA != "" {
					c.CA = p.CA
				}
			})
			_, err := w.service().Run(t.Context(), "")
			w.wantFailure(err, tc.failure)
			if asked := len(server.Asked()); (asked == 1) != (tc.failure == "") {
				t.Errorf("it was asked %d times", asked)
			}
		})
	}
}

// What weakens the rules is refused where it must be.
func TestDevelopmentOnly(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		settings pull.Settings
		want     string
	}{
		{pull.Settings{Plaintext: true}, "DEBUG_FEDERATION_PLAINTEXT"},
		{pull.Settings{ReleaseSameDay: true}, "DEBUG_RELEASE_SAME_DAY_KEYS"},
		{pull.Settings{}, ""},
	} {
		asked := ""
		_, err := pull.New(tc.settings, pull.Deps{DevelopmentOnly: func(name string, set bool) error {
			if set {
				asked = name
				return net.ErrClosed
			}
			return nil
		}})
		if asked != tc.want || (err != nil) != (tc.want != "") {
			t.Errorf("got %v after asking for %q, want to ask for %q", err, asked, tc.want)
		}
	}
	if _, err := pull.New(pull.Settings{TokenCAFile: "/nowhere/ca.pem"}, pull.Deps{DevelopmentOnly: func(string, bool) error { return nil }}); err == nil {
		t.Error("a file of certificates that is not there was accepted")
	}
}
