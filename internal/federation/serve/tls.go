package serve

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// filesAge is for how long certificates count that were read from files.
const filesAge = 10 * time.Second

// tlsFiles are certificates in files, which somebody replaces from time to
// time. Files that cannot be read, since they are being replaced, leave what was
// read last.
type tlsFiles struct {
	settings Settings
	now      func() time.Time

	mu      sync.Mutex
	current *tls.Config
	readAt  time.Time
}

// config is for a server: each connection gets what the files say then.
func (f *tlsFiles) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return f.fresh(), nil
		},
	}
}

func (f *tlsFiles) fresh() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now().Sub(f.readAt).Abs() >= filesAge {
		if err := f.read(); err != nil {
			slog.Warn("the files of the server's certificates cannot be read: those read last stay", "error", err)
		}
	}
	return f.current
}

// read makes the files the ones that count. The caller holds the lock, or
// nobody else is there yet.
func (f *tlsFiles) read() error {
	f.readAt = f.now()
	cert, err := tls.LoadX509KeyPair(f.settings.Cert, f.settings.Key)
	if err != nil {
		return fmt.Errorf("FEDERATION_TLS_CERT, FEDERATION_TLS_KEY: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}}
	if f.settings.ClientCA != "" {
		if c.ClientCAs, err = pool(f.settings.ClientCA); err != nil {
			return fmt.Errorf("FEDERATION_TLS_CLIENT_CA: %w", err)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	f.current = c
	return nil
}

func pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := x509.NewCertPool()
	if !all.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return all, nil
}
