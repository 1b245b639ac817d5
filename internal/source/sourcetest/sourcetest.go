// Package sourcetest plays a health authority of somewhere else, in tests: a
// server with TLS that has an index and signed files, and that misbehaves when
// it is told to.
package sourcetest

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	exportpb "enkeyserver/internal/pb/export"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// Authority publishes files.
type Authority struct {
	URL    string // of its root, with the slash
	Signer exportfile.Signer

	t      testing.TB
	folder string

	mu     sync.Mutex
	served map[string][]byte
	faults map[string]http.HandlerFunc
	asked  map[string]int
}

// New starts an authority that signs as 334, v1 and has an empty index.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{
		Signer: NewSigner(t, "334", "v1"), t: t, folder: t.TempDir(),
		served: map[string][]byte{"index.txt": {}}, faults: map[string]http.HandlerFunc{}, asked: map[string]int{},
	}
	server := httptest.NewTLSServer(a)
	t.Cleanup(server.Close)
	a.URL = server.URL + "/"
	a.must(os.WriteFile(a.caFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return a
}

// NewSigner makes a signing key.
func NewSigner(t testing.TB, id, version string) exportfile.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return exportfile.Signer{Key: key, ID: id, Version: version}
}

// Trusted is a signer's public key as it stands in the configuration.
func Trusted(t testing.TB, s exportfile.Signer) store.TrustedKey {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return store.TrustedKey{
		ID: s.ID, Version: s.Version,
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
}

func (a *Authority) caFile() string { return filepath.Join(a.folder, "ca.pem") }

func (a *Authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// Client trusts the authority's certificate, and may reach it on this machine.
func (a *Authority) Client(edits ...func(*remote.Settings)) *remote.Client {
	a.t.Helper()
	s := remote.Settings{AllowPrivate: true, CAFile: a.caFile(), Timeout: 20 * time.Second}
	for _, edit := range edits {
		edit(&s)
	}
	c, err := remote.New(s, remote.Deps{DevelopmentOnly: func(string, bool) error { return nil }})
	a.must(err)
	return c
}

// ServeHTTP implements http.Handler.
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	a.mu.Lock()
	a.asked[name]++
	body, ok := a.served[name]
	fault := a.faults[name]
	a.mu.Unlock()
	switch {
	case fault != nil:
		fault(w, r)
	case !ok:
		http.NotFound(w, r)
	default:
		_, _ = w.Write(body) // whoever asked may have gone
	}
}

// Put serves bytes under a name.
func (a *Authority) Put(name string, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.served[name] = body
}

// Remove makes names be not found.
func (a *Authority) Remove(names ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		delete(a.served, name)
	}
}

// Served gives the bytes under a name.
func (a *Authority) Served(name string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.served[name]
}

// Break answers for a name in another way; nil: no longer.
func (a *Authority) Break(name string, fault http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults[name] = fault
}

// Asked tells how often a name was asked for.
func (a *Authority) Asked(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[name]
}

// List makes these names the index.
func (a *Authority) List(names ...string) { a.Put("index.txt", []byte(strings.Join(names, "\n"))) }

// Name is the usual name of a file that ended then.
func Name(end time.Time) string {
	return exportfile.ObjectName("mx", end.Add(-4*time.Hour), end, 1)
}

// Publish serves a file that ended then, under its usual name, and adds it to
// the index. It gives the name.
func (a *Authority) Publish(end time.Time, keys, revised []exposure.Exposure) (name string) {
	a.t.Helper()
	name = Name(end)
	a.Put(name, a.File(end, a.Signer, keys, revised))
	a.List(append(strings.Fields(string(a.Served("index.txt"))), name)...)
	return name
}

// File makes a file that passes the rules of phones.
func (a *Authority) File(end time.Time, s exportfile.Signer, keys, revised []exposure.Exposure) []byte {
	a.t.Helper()
	var b bytes.Buffer
	meta := exportfile.Meta{Start: end.Add(-4 * time.Hour), End: end, Region: "MX"}
	_, err := exportfile.Write(a.t.Context(), &b, meta, []exportfile.Signer{s}, inOrder(keys), inOrder(revised))
	a.must(err)
	return b.Bytes()
}

func inOrder(list []exposure.Exposure) iter.Seq2[exposure.Exposure, error] {
	list = slices.SortedFunc(slices.Values(list), exportfile.Compare)
	return func(yield func(exposure.Exposure, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Message is the content of a file that ended then, for tests to break.
func Message(end time.Time, keys ...*exportpb.TemporaryExposureKey) *exportpb.TemporaryExposureKeyExport {
	return &exportpb.TemporaryExposureKeyExport{
		StartTimestamp: proto.Uint64(uint64(end.Add(-4 * time.Hour).Unix())),
		EndTimestamp:   proto.Uint64(uint64(end.Unix())),
		Region:         proto.String("MX"),
		BatchNum:       proto.Int32(1),
		BatchSize:      proto.Int32(1),
		Keys:           keys,
	}
}

// Pack makes a file of any content, signed over its very bytes.
func Pack(t testing.TB, s exportfile.Signer, x *exportpb.TemporaryExposureKeyExport) []byte {
	t.Helper()
	info := &exportpb.SignatureInfo{
		VerificationKeyId: proto.String(s.ID), VerificationKeyVersion: proto.String(s.Version),
		SignatureAlgorithm: proto.String("1.2.840.10045.4.3.2"),
	}
	x.SignatureInfos = []*exportpb.SignatureInfo{info}
	message, err := proto.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	bin := append([]byte("EK Export v1    "), message...)
	digest := sha256.Sum256(bin)
	der, err := ecdsa.SignASN1(rand.Reader, s.Key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := proto.Marshal(&exportpb.TEKSignatureList{Signatures: []*exportpb.TEKSignature{{
		SignatureInfo: info, BatchNum: proto.Int32(1), BatchSize: proto.Int32(1), Signature: der,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return Zip(t, bin, sig)
}

// Zip packs the two members of a file.
func Zip(t testing.TB, bin, sig []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range map[string][]byte{"export.bin": bin, "export.sig": sig} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Bomb is a zip of 64 KiB that unpacks to a thousand times as much.
func Bomb(t testing.TB) []byte {
	t.Helper()
	return Zip(t, make([]byte, 1<<26), nil)
}

// Status is a fault: the server answers with a status.
func Status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", code) }
}

// Drip is a fault: the server sends a byte now and then, for ever.
func Drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "1000000")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := fmt.Fprint(w, "x"); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// Cut is a fault: the server sends half of the body and hangs up.
func Cut(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}
}
