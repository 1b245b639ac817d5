package forge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"enkeyserver/internal/attestation"
)

// Google makes the proofs of Android phones, and answers as Google's decoder
// when it is served.
type Google struct {
	faults

	Decryption []byte            // encrypts classic tokens
	Signing    *ecdsa.PrivateKey // signs them
	Host       *rsa.PrivateKey   // signs SafetyNet proofs
	Chain      [][]byte          // of Host: leaf, then what issued it

	root   authority
	own    []byte // encrypts standard tokens: nobody else has it
	access string

	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool // tokens that were decoded
}

// NewGoogle makes one with keys of its own.
func NewGoogle() (*Google, error) {
	g := &Google{Decryption: random(32), own: random(32), access: rand.Text(), seen: map[[sha256.Size]byte]bool{}}
	var err error
	if g.Signing, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if g.Host, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	return g, g.certify()
}

// certify makes the certificates of SafetyNet.
func (g *Google) certify() error {
	from, thru := always()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	g.root, err = authority{}.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "forged web root"}, NotBefore: from, NotAfter: thru,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key)
	if err != nil {
		return err
	}
	g.Chain, err = g.HostChain("attest.android.com", thru)
	return err
}

// HostChain gives certificates for Host under another name, or with another
// end.
func (g *Google) HostChain(host string, thru time.Time) ([][]byte, error) {
	from, _ := always()
	leaf, err := g.root.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: from, NotAfter: thru,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, g.Host)
	if err != nil {
		return nil, err
	}
	return [][]byte{leaf.certificate.Raw, g.root.certificate.Raw}, nil
}

// Trust makes settings believe this Google.
func (g *Google) Trust(s *attestation.Settings) error {
	public, err := x509.MarshalPKIXPublicKey(g.Signing.Public())
	s.PlayDecryptionKey = base64.StdEncoding.EncodeToString(g.Decryption)
	s.PlayVerificationKey = base64.StdEncoding.EncodeToString(public)
	s.SafetyNetRoots = g.root.pem()
	return err
}

// Tokens are of an account that the decoder accepts.
func (g *Google) Tokens() oauth2.TokenSource {
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: g.access})
}

// Verdict is what Play Integrity says about a genuine phone.
func Verdict(app App, now time.Time, edits ...Edit) JSON {
	return apply(JSON{
		"requestDetails": JSON{
			"requestPackageName": app.Package,
			"timestampMillis":    strconv.FormatInt(now.UnixMilli(), 10),
		},
		"appIntegrity": JSON{
			"appRecognitionVerdict":   "PLAY_RECOGNIZED",
			"packageName":             app.Package,
			"certificateSha256Digest": []string{base64.RawURLEncoding.EncodeToString(app.Certificate[:])},
			"versionCode":             "42",
		},
		"deviceIntegrity": JSON{"deviceRecognitionVerdict": []string{"MEETS_DEVICE_INTEGRITY"}},
		"accountDetails":  JSON{"appLicensingVerdict": "LICENSED"},
	}, edits)
}

// Classic is a classic Play Integrity token of a genuine phone.
func (g *Google) Classic(app App, digest attestation.Digest, now time.Time, edits ...Edit) (string, error) {
	edits = append([]Edit{Set("requestDetails.nonce", digest.Text())}, edits...)
	return g.token(g.Decryption, Verdict(app, now, edits...))
}

// Standard is a standard Play Integrity token, which only the decoder opens.
func (g *Google) Standard(app App, digest attestation.Digest, now time.Time, edits ...Edit) (string, error) {
	edits = append([]Edit{Set("requestDetails.requestHash", digest.Text())}, edits...)
	return g.token(g.own, Verdict(app, now, edits...))
}

// token signs, then encrypts.
func (g *Google) token(key []byte, verdict JSON) (string, error) {
	payload, err := json.Marshal(verdict)
	if err != nil {
		return "", err
	}
	signed, err := Sign(jose.ES256, g.Signing, payload, nil)
	if err != nil {
		return "", err
	}
	return Encrypt(jose.A256KW, jose.A256GCM, key, signed)
}

// Sign makes a compact JWS.
func Sign(algorithm jose.SignatureAlgorithm, key any, payload []byte, header JSON) (string, error) {
	options := &jose.SignerOptions{}
	for name, value := range header {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Encrypt makes a compact JWE.
func Encrypt(algorithm jose.KeyAlgorithm, content jose.ContentEncryption, key any, text string) (string, error) {
	crypter, err := jose.NewEncrypter(content, jose.Recipient{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		return "", err
	}
	sealed, err := crypter.Encrypt([]byte(text))
	if err != nil {
		return "", err
	}
	return sealed.CompactSerialize()
}

// SafetyNet is a SafetyNet proof of a genuine phone.
func (g *Google) SafetyNet(app App, digest attestation.Digest, now time.Time, edits ...Edit) (string, error) {
	certificate := base64.StdEncoding.EncodeToString(app.Certificate[:])
	payload, err := json.Marshal(apply(JSON{
		"nonce":                      base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(digest[:]))),
		"timestampMs":                now.UnixMilli(),
		"apkPackageName":             app.Package,
		"apkCertificateDigestSha256": []string{certificate},
		"apkDigestSha256":            certificate,
		"ctsProfileMatch":            true,
		"basicIntegrity":             true,
		"evaluationType":             "BASIC",
	}, edits))
	if err != nil {
		return "", err
	}
	return Sign(jose.RS256, g.Host, payload, JSON{"x5c": g.Chain})
}

// ServeHTTP answers as Google's decoder.
func (g *Google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fail := g.fault(); fail != nil {
		fail(w, r)
		return
	}
	var question struct {
		Token string `json:"integrityToken"`
	}
	app, known := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/"), ":decodeIntegrityToken")
	switch {
	case !known || r.Method != http.MethodPost:
		googleError(w, http.StatusNotFound, "NOT_FOUND")
		return
	case r.Header.Get("Authorization") != "Bearer "+g.access:
		googleError(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	case json.NewDecoder(r.Body).Decode(&question) != nil:
		googleError(w, http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	verdict, ok := g.decode(app, question.Token)
	if !ok {
		googleError(w, http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(JSON{"tokenPayloadExternal": verdict}) // the client may be gone
}

func googleError(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(JSON{"error": JSON{"code": status, "message": "refused", "status": word}}) // the client may be gone
}

// decode opens a token. Asked about it a second time, Google gives no judgement.
func (g *Google) decode(app, token string) (JSON, bool) {
	sealed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.A256KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, false
	}
	text, err := sealed.Decrypt(g.own)
	if err != nil {
		return nil, false
	}
	signed, err := jose.ParseSignedCompact(string(text), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, false
	}
	payload, err := signed.Verify(g.Signing.Public())
	var verdict JSON
	if err != nil || json.Unmarshal(payload, &verdict) != nil {
		return nil, false
	}
	if details, ok := verdict["requestDetails"].(JSON); !ok || details["requestPackageName"] != app {
		return nil, false
	}
	if g.again(token) {
		verdict["appIntegrity"] = JSON{"appRecognitionVerdict": "UNEVALUATED"}
		verdict["deviceIntegrity"] = JSON{}
		verdict["accountDetails"] = JSON{"appLicensingVerdict": "UNEVALUATED"}
	}
	return verdict, true
}

func (g *Google) again(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := sha256.Sum256([]byte(token))
	before := g.seen[id]
	g.seen[id] = true
	return before
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
