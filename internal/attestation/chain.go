package attestation

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // Apple's root
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// appleRoot is Apple's root for App Attest. Altered copies of it circulate; a
// test compares its fingerprint with the one that Apple publishes.
//
//go:embed apple-app-attest-root.pem
var appleRoot string

// anchors are the roots of one kind of proof. Never those of the operating
// system: who may sign for a web site may not sign for a phone.
type anchors struct {
	setting string
	roots   *x509.CertPool // nil: nobody is trusted

	// proven holds intermediates that led to a root, since checking one costs
	// as much as all the rest of a proof, and there are one or two of them.
	proven *memory[issuer]
}

// issuer is an intermediate that led to a root, and when that holds.
type issuer struct {
	pool       *x509.CertPool
	from, thru time.Time
}

const (
	rememberIssuers = 16
	rememberIssuer  = time.Hour
)

// newAnchors reads roots in PEM; without any, those built in.
func newAnchors(setting, text, builtIn string) (*anchors, error) {
	a := &anchors{setting: setting, proven: newMemory[issuer](rememberIssuers, rememberIssuer)}
	if text == "" {
		text = builtIn
	}
	if text == "" {
		return a, nil
	}
	a.roots = x509.NewCertPool()
	// Line breaks get lost on the way into an environment, but not these.
	rest := []byte(strings.ReplaceAll(text, `\n`, "\n"))
	for len(strings.TrimSpace(string(rest))) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s must be certificates in PEM and nothing else", setting)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s holds a certificate that cannot be read", setting)
		}
		a.roots.AddCert(root)
	}
	return a, nil
}

// configured tells whether anybody is trusted.
func (a *anchors) configured() error {
	if a.roots == nil {
		return Misconfigured("no root is trusted for this kind of proof: set %s, or remove the kind from the policy", a.setting)
	}
	return nil
}

// believes tells whether a leaf was issued through an intermediate that leads
// to a root, at a time.
func (a *anchors) believes(leaf, intermediate *x509.Certificate, now time.Time) bool {
	by, ok := a.issuer(intermediate, now)
	if !ok {
		return false
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: by.pool, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: anyUsage()})
	return err == nil
}

func (a *anchors) issuer(intermediate *x509.Certificate, now time.Time) (issuer, bool) {
	id := sha256.Sum256(intermediate.Raw)
	if known, ok := a.proven.get(id, now); ok && !now.Before(known.from) && !now.After(known.thru) {
		return known, true
	}
	chains, err := intermediate.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: anyUsage()})
	if err != nil {
		return issuer{}, false
	}
	found := issuer{pool: x509.NewCertPool(), from: intermediate.NotBefore, thru: intermediate.NotAfter}
	found.pool.AddCert(intermediate)
	for _, c := range chains[0] {
		found.from, found.thru = later(found.from, c.NotBefore), earlier(found.thru, c.NotAfter)
	}
	a.proven.put(id, found, now)
	return found, true
}

// anyUsage allows leaves their purpose: Apple's newer ones have one of their
// own, which Go would refuse.
func anyUsage() []x509.ExtKeyUsage { return []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }

// parseChain reads certificates whose keys cost little to use. A key of 100 000
// bits in a certificate that somebody made up would hold a processor for long.
func parseChain(ders [][]byte) (chain []*x509.Certificate, ok bool) {
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil || !cheap(c.PublicKey) {
			return nil, false
		}
		chain = append(chain, c)
	}
	return chain, true
}

const maxRSABits = 4096

func cheap(key any) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return true
	case *rsa.PublicKey:
		return k.N.BitLen() <= maxRSABits
	}
	return false
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
