package forge

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-jose/go-jose/v4"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/vendors"
)

// Apple makes the proofs of iPhones, and answers as Apple's DeviceCheck when it
// is served.
type Apple struct {
	faults

	// Now is the clock of the server.
	Now func() time.Time

	root, issuer authority
	key          *ecdsa.PrivateKey // of DeviceCheck
	keyID, team  string
	secret       []byte // makes device tokens

	mu           sync.Mutex
	transactions map[string]bool
}

// NewApple makes one with keys and roots of its own, at which a team has a
// DeviceCheck key.
func NewApple(team string, now func() time.Time) (*Apple, error) {
	a := &Apple{Now: now, keyID: "KEY1234567", team: team, secret: random(32), transactions: map[string]bool{}}
	from, thru := always()
	ca := x509.Certificate{
		Subject: pkix.Name{CommonName: "forged App Attest root"}, NotBefore: from, NotAfter: thru,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	keys := make([]*ecdsa.PrivateKey, 3)
	for i, curve := range []elliptic.Curve{elliptic.P384(), elliptic.P384(), elliptic.P256()} {
		var err error
		if keys[i], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			return nil, err
		}
	}
	var err error
	if a.root, err = (authority{}).issue(&ca, keys[0]); err != nil {
		return nil, err
	}
	below := ca
	below.SerialNumber, below.Subject.CommonName, below.MaxPathLenZero = nil, "forged App Attest CA 1", true
	a.issuer, err = a.root.issue(&below, keys[1])
	a.key = keys[2]
	return a, err
}

// Trust makes settings believe this Apple.
func (a *Apple) Trust(s *attestation.Settings) { s.AppAttestRoots = a.root.pem() }

// Account makes settings ask this Apple, which is served at an address, with
// the team's key.
func (a *Apple) Account(s *vendors.Settings, endpoint string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	s.AppleKey = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.AppleKeyID, s.AppleTeam, s.AppleEndpoint = a.keyID, a.team, endpoint
	return err
}

// Attestation is an App Attest object before it is written. What is nil or ""
// follows from the rest.
type Attestation struct {
	AppID      string
	Flags      byte
	Counter    uint32
	AAGUID     string
	Key        *ecdsa.PrivateKey
	CredID     []byte
	COSE       []byte
	Extensions []byte // CBOR

	ClientDataHash      []byte
	Nonce               []byte
	Format              string
	Chain               [][]byte
	NotBefore, NotAfter time.Time
}

// The AAGUIDs, and flags of authenticator data.
const (
	ProductionAAGUID  = "appattest\x00\x00\x00\x00\x00\x00\x00"
	DevelopmentAAGUID = "appattestdevelop"

	flagAttested = 0x40
)

// Attest is an App Attest object of a genuine iPhone with a fresh key.
func (a *Apple) Attest(app App, clientDataHash []byte, now time.Time, edits ...func(*Attestation)) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	x := Attestation{
		AppID: app.TeamID + "." + app.BundleID, Flags: flagAttested, AAGUID: ProductionAAGUID, Key: key,
		ClientDataHash: clientDataHash, Format: "apple-appattest",
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(48 * time.Hour),
	}
	for _, edit := range edits {
		edit(&x)
	}
	return a.write(x)
}

// Proof is an attestation as apps send it.
func (a *Apple) Proof(app App, digest attestation.Digest, now time.Time, edits ...func(*Attestation)) (string, error) {
	object, err := a.Attest(app, digest[:], now, edits...)
	return base64.StdEncoding.EncodeToString(object), err
}

func (a *Apple) write(x Attestation) ([]byte, error) {
	data, err := x.authData()
	if err != nil {
		return nil, err
	}
	if x.Nonce == nil {
		nonce := sha256.Sum256(slices.Concat(data, x.ClientDataHash))
		x.Nonce = nonce[:]
	}
	if x.Chain == nil {
		if x.Chain, err = a.chain(x); err != nil {
			return nil, err
		}
	}
	return cbor.Marshal(struct {
		Format    string         `cbor:"fmt"`
		Statement map[string]any `cbor:"attStmt"`
		AuthData  []byte         `cbor:"authData"`
	}{x.Format, map[string]any{"x5c": x.Chain, "receipt": []byte("a receipt")}, data})
}

func (x Attestation) authData() ([]byte, error) {
	point, err := x.Key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	if x.CredID == nil {
		id := sha256.Sum256(point)
		x.CredID = id[:]
	}
	if x.COSE == nil {
		if x.COSE, err = COSE(point); err != nil {
			return nil, err
		}
	}
	app := sha256.Sum256([]byte(x.AppID))
	data := append(app[:], x.Flags)
	data = binary.BigEndian.AppendUint32(data, x.Counter)
	data = append(data, x.AAGUID...)
	data = binary.BigEndian.AppendUint16(data, uint16(len(x.CredID)))
	return slices.Concat(data, x.CredID, x.COSE, x.Extensions), nil
}

// COSE writes a point of P-256, uncompressed, as a COSE key.
func COSE(point []byte) ([]byte, error) {
	mode, err := cbor.CTAP2EncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: point[1:33], -3: point[33:]})
}

// Extensions writes what iOS 27 and later add.
func Extensions(category uint32) []byte {
	text, _ := cbor.Marshal(map[string]any{ // these types can be written
		"apple_validation_category_01": binary.LittleEndian.AppendUint32(nil, category),
		"apple_bundle_version_01":      "1",
	})
	return text
}

// chain certifies the key.
func (a *Apple) chain(x Attestation) ([][]byte, error) {
	nonce, err := asn1.Marshal(struct {
		Nonce []byte `asn1:"tag:1,explicit"`
	}{x.Nonce})
	if err != nil {
		return nil, err
	}
	leaf, err := a.issuer.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "a forged key"}, NotBefore: x.NotBefore, NotAfter: x.NotAfter,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 2}, Value: nonce}},
	}, x.Key)
	if err != nil {
		return nil, err
	}
	return [][]byte{leaf.certificate.Raw, a.issuer.certificate.Raw}, nil
}

// Assertion is an App Attest assertion before it is written.
type Assertion struct {
	AppID          string
	Flags          byte
	Counter        uint32
	Extensions     []byte
	ClientDataHash []byte
	Signature      []byte // nil: the key's
}

// Assert is an assertion of a genuine iPhone, with a key that was attested.
func Assert(app App, key *ecdsa.PrivateKey, clientDataHash []byte, counter uint32, edits ...func(*Assertion)) ([]byte, error) {
	x := Assertion{AppID: app.TeamID + "." + app.BundleID, Flags: flagAttested, Counter: counter, ClientDataHash: clientDataHash}
	for _, edit := range edits {
		edit(&x)
	}
	hash := sha256.Sum256([]byte(x.AppID))
	data := binary.BigEndian.AppendUint32(append(hash[:], x.Flags), x.Counter)
	data = append(data, x.Extensions...)
	if x.Signature == nil {
		nonce := sha256.Sum256(slices.Concat(data, x.ClientDataHash))
		message := sha256.Sum256(nonce[:])
		var err error
		if x.Signature, err = ecdsa.SignASN1(rand.Reader, key, message[:]); err != nil {
			return nil, err
		}
	}
	return cbor.Marshal(map[string]any{"signature": x.Signature, "authenticatorData": data})
}

// DeviceToken is a DeviceCheck token of a genuine iPhone.
func (a *Apple) DeviceToken() string {
	body := append([]byte{2, 0}, random(16)...)
	return base64.StdEncoding.EncodeToString(append(body, a.seal(body)...))
}

func (a *Apple) seal(body []byte) []byte {
	h := hmac.New(sha256.New, a.secret)
	h.Write(body)
	return h.Sum(nil)
}

func (a *Apple) made(token string) bool {
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(raw) < sha256.Size {
		return false
	}
	body := raw[:len(raw)-sha256.Size]
	return hmac.Equal(raw[len(body):], a.seal(body))
}

// ServeHTTP answers as Apple's DeviceCheck.
func (a *Apple) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fail := a.fault(); fail != nil {
		fail(w, r)
		return
	}
	if r.URL.Path != "/v1/validate_device_token" || r.Method != http.MethodPost {
		http.Error(w, "Not Found", http.StatusNotFound)
		return
	}
	if !a.knows(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
		http.Error(w, "Unable to verify authorization token", http.StatusUnauthorized)
		return
	}
	var question struct {
		Token       string `json:"device_token"`
		Transaction string `json:"transaction_id"`
		Timestamp   int64  `json:"timestamp"`
	}
	if json.NewDecoder(r.Body).Decode(&question) != nil || !a.fresh(question.Transaction, question.Timestamp) {
		http.Error(w, "Missing or incorrectly formatted time stamp", http.StatusBadRequest)
		return
	}
	if !a.made(question.Token) {
		http.Error(w, "Missing or incorrectly formatted device token payload", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// knows tells whether a JWT is the team's, and not an hour old.
func (a *Apple) knows(token string) bool {
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || signed.Signatures[0].Header.KeyID != a.keyID {
		return false
	}
	payload, err := signed.Verify(a.key.Public())
	var claims struct {
		Issuer string `json:"iss"`
		Issued int64  `json:"iat"`
	}
	if err != nil || json.NewDecoder(bytes.NewReader(payload)).Decode(&claims) != nil {
		return false
	}
	return claims.Issuer == a.team && a.Now().Sub(time.Unix(claims.Issued, 0)).Abs() < time.Hour
}

// fresh tells whether a question has a name of its own and the right time.
func (a *Apple) fresh(transaction string, timestamp int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	used := a.transactions[transaction]
	a.transactions[transaction] = true
	return !used && transaction != "" && a.Now().Sub(time.UnixMilli(timestamp)).Abs() < 5*time.Minute
}
