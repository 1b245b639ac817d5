// Package forge makes device attestations as Google, Apple and genuine phones
// do, under keys and roots of its own: for tests and simulated phones.
//
// Whoever does not trust these keys and roots, believes none of it.
package forge

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"enkeyserver/internal/attestation"
)

// App is the app that a phone runs.
type App struct {
	Package     string            // on Android
	Certificate [sha256.Size]byte // hash of what signs it there
	TeamID      string            // at Apple
	BundleID    string
}

// NewApp is an app with names of its own.
func NewApp() App {
	return App{
		Package:     "org.example.app",
		Certificate: sha256.Sum256([]byte("the certificate of org.example.app")),
		TeamID:      "ABCDE12345",
		BundleID:    "org.example.App",
	}
}

// Policy asks for the app on genuine devices, proved in any way.
func (a App) Policy() (attestation.Policy, error) {
	return attestation.Policy{
		Android: &attestation.Android{
			Kinds:        []attestation.Kind{attestation.PlayIntegrityClassic, attestation.PlayIntegrityStandard, attestation.SafetyNet},
			Packages:     []string{a.Package},
			Certificates: []string{base64.StdEncoding.EncodeToString(a.Certificate[:])},
		},
		IOS: &attestation.IOS{
			Kinds:     []attestation.Kind{attestation.AppAttest, attestation.DeviceCheck},
			TeamID:    a.TeamID,
			BundleIDs: []string{a.BundleID},
		},
	}.Checked()
}

// JSON is an object that a vendor signs.
type JSON = map[string]any

// Edit changes what a proof says.
type Edit func(JSON)

// Set changes one field, or removes it if the value is nil. Dots in the path
// lead into inner objects, which are made if they are not there.
func Set(path string, value any) Edit {
	return func(j JSON) {
		outer, inner, deeper := strings.Cut(path, ".")
		switch {
		case deeper:
			object, ok := j[outer].(JSON)
			if !ok {
				object = JSON{}
				j[outer] = object
			}
			Set(inner, value)(object)
		case value == nil:
			delete(j, path)
		default:
			j[path] = value
		}
	}
}

func apply(j JSON, edits []Edit) JSON {
	for _, edit := range edits {
		edit(j)
	}
	return j
}

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// issue makes a certificate; an authority without one signs it with itself.
func (a authority) issue(template *x509.Certificate, key crypto.Signer) (authority, error) {
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			return authority{}, err
		}
		template.SerialNumber = serial
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return authority{certificate, key}, err
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// The authorities are valid in any year that a test lives in.
func always() (from, thru time.Time) {
	return time.Date(2015, time.January, 1, 0, 0, 0, 0, time.UTC), time.Date(2060, time.January, 1, 0, 0, 0, 0, time.UTC)
}

// faults are answers that a vendor's server gives before it works again.
type faults struct {
	mu    sync.Mutex
	next  []http.HandlerFunc
	asked int
}

// Fail makes the next answers of the server be these.
func (f *faults) Fail(next ...http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = append(f.next, next...)
}

// Asked is how many questions came.
func (f *faults) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// fault gives the next answer, if there is one.
func (f *faults) fault() http.HandlerFunc {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if len(f.next) == 0 {
		return nil
	}
	first := f.next[0]
	f.next = f.next[1:]
	return first
}

// Answer is a status with a text.
func Answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, text, status)
	}
}
