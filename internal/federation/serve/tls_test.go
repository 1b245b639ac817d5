package serve_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
)

// over asks through a new connection.
func (s *station) over(creds credentials.TransportCredentials) codes.Code {
	s.t.Helper()
	_, err := federationpb.NewFederationClient(s.dial(creds)).Fetch(s.as(subject), &federationpb.FederationFetchRequest{})
	return status.Code(err)
}

func trusting(ca *federationtest.Authority, certs ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{RootCAs: ca.Pool(), Certificates: certs})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first, second := federationtest.NewAuthority(t), federationtest.NewAuthority(t)
	cert, key := first.Files(t, folder, "server")
	s := newStation(t, func(settings *serve.Settings) { settings.Cert, settings.Key = cert, key })
	s.allow("ca", subject, []string{"US"}, nil)
	check := func(why string, creds credentials.TransportCredentials, want codes.Code) {
		t.Helper()
		if got := s.over(creds); got != want {
			t.Errorf("%s: %s, want %s", why, got, want)
		}
	}
	check("who trusts it", trusting(first), codes.OK)
	check("who does not", trusting(second), codes.Unavailable)
	check("no TLS", insecure.NewCredentials(), codes.Unavailable)
	check("old TLS", credentials.NewTLS(&tls.Config{RootCAs: first.Pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), codes.Unavailable)

	second.Files(t, folder, "server")
	check("the certificate was replaced just now", trusting(first), codes.OK)
	s.pass(serve.FilesAge)
	check("the certificate was replaced", trusting(second), codes.OK)

	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	s.pass(serve.FilesAge)
	check("half of it is gone: the last one stays", trusting(second), codes.OK)
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, theirs, next := federationtest.NewAuthority(t), federationtest.NewAuthority(t), federationtest.NewAuthority(t)
	cert, key := ours.Files(t, t.TempDir(), "server")
	clients := theirs.File(t)
	s := newStation(t, func(settings *serve.Settings) { settings.Cert, settings.Key, settings.ClientCA = cert, key, clients })
	s.allow("ca", subject, []string{"US"}, nil)
	check := func(why string, creds credentials.TransportCredentials, want codes.Code) {
		t.Helper()
		if got := s.over(creds); got != want {
			t.Errorf("%s: %s, want %s", why, got, want)
		}
	}
	check("with a certificate", trusting(ours, theirs.Certificate(t, "ca")), codes.OK)
	check("without one", trusting(ours), codes.Unavailable)
	check("with somebody else's", trusting(ours, next.Certificate(t, "ca")), codes.Unavailable)

	if err := os.WriteFile(clients, []byte(next.PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.pass(serve.FilesAge)
	check("of an authority that came", trusting(ours, next.Certificate(t, "ca")), codes.OK)
	check("of an authority that went", trusting(ours, theirs.Certificate(t, "ca")), codes.Unavailable)
}

func TestCertificatesThatAreNotThere(t *testing.T) {
	t.Parallel()
	cert, key := federationtest.NewAuthority(t).Files(t, t.TempDir(), "server")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		why      string
		settings serve.Settings
		want     string
	}{
		{"no certificate", serve.Settings{Cert: empty, Key: key}, "FEDERATION_TLS_CERT, FEDERATION_TLS_KEY: "},
		{"no authority", serve.Settings{Cert: cert, Key: key, ClientCA: empty}, "FEDERATION_TLS_CLIENT_CA: "},
		{"no file", serve.Settings{Cert: cert, Key: key, ClientCA: empty + "x"}, "FEDERATION_TLS_CLIENT_CA: "},
	} {
		service, err := serve.NewService(tc.settings, serve.Deps{Now: entest.Noon})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := serve.NewServer(service); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s…", tc.why, err, tc.want)
		}
	}
}
