package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/federation/pull"
	"enkeyserver/internal/system"
)

// neighbourName is what each of the two calls the other.
const neighbourName = "neighbour"

// federation measures how keys get from the log of one system into the
// arrivals of another: over TLS, with tokens of an issuer of its own, between
// processes and databases that share the machine.
func (b *bench) federation(ctx context.Context) error {
	id, err := newIdentity()
	if err != nil {
		return err
	}
	defer id.remove()
	return b.stage(ctx, nil, func(from *stage) error {
		return b.stage(ctx, nil, func(to *stage) error {
			f, err := newCrossing(ctx, b, id, from, to)
			if err != nil {
				return err
			}
			repeats := min(b.repeats, slowRepeats)
			for n := range repeats {
				b.say("federation: %d of %d", n+1, repeats)
				if err := f.repeat(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// crossing is the figures of federation, and what they are measured on.
type crossing struct {
	from, to *stage
	out, in  *system.Process
	keys     int

	rate                    *figure
	outTime, inTime         *figure
	outDatabase, inDatabase *figure
	outMemory, inMemory     *figure
}

func newCrossing(ctx context.Context, b *bench, id *identity, from, to *stage) (*crossing, error) {
	f := &crossing{from: from, to: to, keys: b.keys / uploadKeys * uploadKeys}
	b.say("federation: sealing %d keys", f.keys)
	if err := f.seal(ctx); err != nil {
		return nil, err
	}
	if err := f.start(ctx, id); err != nil {
		return nil, err
	}
	g := b.report.group("federation", "%s keys from one system's log into another's arrivals, two databases on one machine", number(float64(f.keys)))
	const plain = "INSERT of the same rows into one table with the same indexes"
	f.rate = g.figure("keys", "/s", atLeast(60_000)).beside(plain)
	f.outTime = g.figure("federation-out", "CPU s", nil)
	f.outDatabase = g.figure("its PostgreSQL", "CPU s", nil)
	f.inTime = g.figure("federation-in", "CPU s", nil)
	f.inDatabase = g.figure("its PostgreSQL ", "CPU s", nil).beside(plain)
	f.outMemory = g.figure("federation-out, peak", "MiB", atMost(64))
	f.inMemory = g.figure("federation-in, peak", "MiB", atMost(64))
	return f, nil
}

// seal puts the keys into the log of the one that is asked.
func (f *crossing) seal(ctx context.Context) error {
	if err := f.from.arrive(ctx, realistic(), f.keys); err != nil {
		return err
	}
	batcher, err := f.from.launch(ctx, system.Batcher, "DEBUG_SEAL_NOW=true")
	if err != nil {
		return err
	}
	done, err := createBatches(ctx, batcher)
	if err == nil && done.Keys != f.keys {
		err = fmt.Errorf("%d keys were sealed, and not %d: %+v", done.Keys, f.keys, done)
	}
	return errors.Join(err, batcher.Stop(), f.from.settle(ctx))
}

// start starts both services, and tells each of the other.
func (f *crossing) start(ctx context.Context, id *identity) (err error) {
	if err := f.from.Amend(ctx, func(file *configuration.File) {
		file.Federation = &configuration.Federation{Allow: []configuration.Allow{{
			Name: neighbourName, Issuer: id.issuer.URL, Subject: neighbourName, Audience: neighbourName, IncludeRegions: []string{"US"},
		}}}
	}); err != nil {
		return err
	}
	if f.out, err = f.from.Launch(ctx, system.FederationOut,
		"FEDERATION_TLS_CERT="+id.cert, "FEDERATION_TLS_KEY="+id.key, "REMOTE_ALLOW_PRIVATE=true", "REMOTE_CA_FILE="+id.cert); err != nil {
		return err
	}
	at, err := url.Parse(f.out.URL())
	if err != nil {
		return err
	}
	if err := f.to.Amend(ctx, func(file *configuration.File) {
		file.Federation = &configuration.Federation{Pull: []configuration.Pull{{
			Name: neighbourName, Server: at.Host, TLS: configuration.TLS{CAFile: id.cert}, Audience: neighbourName, IncludeRegions: []string{"US"},
			Token: configuration.Token{File: id.token},
		}}}
	}); err != nil {
		return err
	}
	if f.in, err = f.to.launch(ctx, system.FederationIn); err != nil {
		return err
	}
	return f.to.exec(ctx, `CREATE TABLE plain_arrival (LIKE arrival INCLUDING ALL)`)
}

func (f *crossing) repeat(ctx context.Context) error {
	for _, order := range []string{`TRUNCATE arrival, plain_arrival`, `UPDATE neighbour SET cursor = NULL`} {
		if err := f.to.exec(ctx, order); err != nil {
			return err
		}
	}
	if err := f.to.settle(ctx); err != nil {
		return err
	}
	if err := f.cross(ctx); err != nil {
		return err
	}
	return f.insertPlainly(ctx)
}

// cross takes all keys over.
func (f *crossing) cross(ctx context.Context) error {
	var done pull.Pulled
	var in usage
	out, err := f.from.observe(f.out.PID(), func() (err error) {
		in, err = f.to.observe(f.in.PID(), func() error { return f.in.Trigger(ctx, "/sync", &done) })
		return err
	})
	if err != nil {
		return err
	}
	if len(done.Neighbours) != 1 || done.Neighbours[0].Inserted != f.keys {
		return fmt.Errorf("not all of %d keys came over: %+v", f.keys, done)
	}
	f.rate.add(perSecond(f.keys, in.elapsed))
	f.outTime.add(out.service.Seconds())
	f.outDatabase.add(out.postgres.Seconds())
	f.inTime.add(in.service.Seconds())
	f.inDatabase.add(in.postgres.Seconds())
	for figure, p := range map[*figure]*system.Process{f.outMemory: f.out, f.inMemory: f.in} {
		_, peak, err := resident(p.PID())
		if err != nil {
			return err
		}
		figure.add(peak)
	}
	return nil
}

// insertPlainly stores the same rows in one statement, which looks nothing up.
func (f *crossing) insertPlainly(ctx context.Context) error {
	if err := f.to.settle(ctx); err != nil {
		return err
	}
	used, err := f.to.observe(0, func() error { return f.to.exec(ctx, `INSERT INTO plain_arrival SELECT * FROM arrival`) })
	f.rate.plain(perSecond(f.keys, used.elapsed))
	f.inDatabase.plain(used.postgres.Seconds())
	return err
}

// identity is what the two sides know each other by: a certificate for this
// machine, and an issuer with one token.
type identity struct {
	folder           string
	cert, key, token string // files
	issuer           *httptest.Server
}

func newIdentity() (id *identity, err error) {
	id = &identity{}
	if id.folder, err = os.MkdirTemp("", "enkeyserver-bench-"); err != nil {
		return nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := id.certify(private)
	if err != nil {
		return nil, err
	}
	if err := id.issue(private, certificate); err != nil {
		return nil, err
	}
	return id, nil
}

func (id *identity) remove() {
	id.issuer.Close()
	_ = os.RemoveAll(id.folder)
}

func (id *identity) certify(private *ecdsa.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	id.cert, id.key = filepath.Join(id.folder, "cert.pem"), filepath.Join(id.folder, "key.pem")
	if err := errors.Join(os.WriteFile(id.cert, cert, 0o600), os.WriteFile(id.key, key, 0o600)); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// issue serves the public key, and writes a token that is good for a day.
func (id *identity) issue(private *ecdsa.PrivateKey, certificate tls.Certificate) error {
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return err
	}
	const half = 32
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": id.issuer.URL, "jwks_uri": id.issuer.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "bench", "x": base64url(point[1 : 1+half]), "y": base64url(point[1+half:]),
		}}})
	})
	id.issuer = httptest.NewUnstartedServer(mux)
	id.issuer.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	id.issuer.StartTLS()
	return id.writeToken(private)
}

func (id *identity) writeToken(private *ecdsa.PrivateKey) error {
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": id.issuer.URL, "sub": neighbourName, "aud": neighbourName, "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
	})
	if err != nil {
		return err
	}
	signed := base64url([]byte(`{"alg":"ES256","kid":"bench","typ":"JWT"}`)) + "." + base64url(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
	if err != nil {
		return err
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	id.token = filepath.Join(id.folder, "token")
	return os.WriteFile(id.token, []byte(signed+"."+base64url(signature)), 0o600)
}

func base64url(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
