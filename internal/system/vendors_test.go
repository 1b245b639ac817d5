package system_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/phone"
)

// makers are the Google and the Apple of a test: they made its phones, vouch for
// its app, and answer the server's questions about both on this machine.
type makers struct {
	t      *testing.T
	app    forge.App
	google *forge.Google
	apple  *forge.Apple

	settings attestation.Settings
	accounts vendors.Settings
	access   string // to the decoder, as Google gives it to the account

	// repeat is the status with which both answer whatever they are asked, and
	// repeat the question; 0 is their own answers.
	repeat *atomic.Int32
}

func newMakers(t *testing.T) *makers {
	t.Helper()
	m := &makers{t: t, app: forge.NewApp(), repeat: &atomic.Int32{}}
	var err error
	if m.google, err = forge.NewGoogle(); err != nil {
		t.Fatal(err)
	}
	if m.apple, err = forge.NewApple(m.app.TeamID, time.Now); err != nil {
		t.Fatal(err)
	}
	if err := m.google.Trust(&m.settings); err != nil {
		t.Fatal(err)
	}
	m.apple.Trust(&m.settings)
	m.serve()
	return m
}

// serve answers as Google, with an account for the server, and as Apple.
func (m *makers) serve() {
	apple := httptest.NewServer(m.repeating(m.apple))
	m.t.Cleanup(apple.Close)
	if err := m.apple.Account(&m.accounts, apple.URL); err != nil {
		m.t.Fatal(err)
	}
	token, err := m.google.Tokens().Token()
	if err != nil {
		m.t.Fatal(err)
	}
	m.access = token.AccessToken
	mux := http.NewServeMux()
	mux.Handle("/", m.repeating(m.google))
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": m.access, "token_type": "Bearer", "expires_in": 3600})
	})
	google := httptest.NewServer(mux)
	m.t.Cleanup(google.Close)
	m.accounts.GoogleEndpoint, m.accounts.GoogleCredentials = google.URL, m.account(google.URL+"/token")
}

func (m *makers) repeating(vendor http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := int(m.repeat.Load())
		if status == 0 {
			vendor.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(status)
		_, _ = io.Copy(w, r.Body)
	})
}

// account is what Google gives to those who have one.
func (m *makers) account(tokens string) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "server@example.org", "private_key_id": "1", "token_uri": tokens,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// environment makes a server believe these makers, and nobody else.
func (m *makers) environment() map[string]string {
	return map[string]string{
		"PLAY_INTEGRITY_DECRYPTION_KEY":   m.settings.PlayDecryptionKey,
		"PLAY_INTEGRITY_VERIFICATION_KEY": m.settings.PlayVerificationKey,
		"APP_ATTEST_ROOTS":                m.settings.AppAttestRoots,
		"PLAY_INTEGRITY_CREDENTIALS":      m.accounts.GoogleCredentials,
		"PLAY_INTEGRITY_ENDPOINT":         m.accounts.GoogleEndpoint,
		"APPLE_DEVICECHECK_KEY":           m.accounts.AppleKey,
		"APPLE_DEVICECHECK_KEY_ID":        m.accounts.AppleKeyID,
		"APPLE_TEAM_ID":                   m.accounts.AppleTeam,
		"APPLE_DEVICECHECK_ENDPOINT":      m.accounts.AppleEndpoint,
	}
}

// policy asks for the app on both platforms.
func (m *makers) policy(mode attestation.Mode, edits ...func(*attestation.Android, *attestation.IOS)) attestation.Policy {
	p := attestation.Policy{
		Android: &attestation.Android{Mode: mode, Packages: []string{m.app.Package}, Certificates: []string{hex.EncodeToString(m.app.Certificate[:])}},
		IOS:     &attestation.IOS{Mode: mode, TeamID: m.app.TeamID, BundleIDs: []string{m.app.BundleID}},
	}
	for _, edit := range edits {
		edit(p.Android, p.IOS)
	}
	return p
}

// vendorsAsked makes a policy accept what only Google and Apple can judge.
func vendorsAsked(a *attestation.Android, i *attestation.IOS) {
	a.Kinds, i.Kinds = []attestation.Kind{attestation.PlayIntegrityStandard}, []attestation.Kind{attestation.DeviceCheck}
}

func appleMayFail(_ *attestation.Android, i *attestation.IOS) { i.OnUnavailable = attestation.Accept }

// The devices that these makers vouch for, by what they prove it with.

func (m *makers) classic() phone.Device {
	return phone.Device{Platform: phone.Android, Prove: func(d phone.Digest, now time.Time) (string, error) {
		return m.google.Classic(m.app, d, now)
	}}
}

func (m *makers) standard() phone.Device {
	return phone.Device{Platform: phone.Android, Prove: func(d phone.Digest, now time.Time) (string, error) {
		return m.google.Standard(m.app, d, now)
	}}
}

func (m *makers) appAttest() phone.Device {
	return phone.Device{Platform: phone.IOS, Prove: func(d phone.Digest, now time.Time) (string, error) {
		return m.apple.Proof(m.app, d, now)
	}}
}

func (m *makers) deviceCheck() phone.Device {
	return phone.Device{Platform: phone.IOS, Prove: func(phone.Digest, time.Time) (string, error) {
		return m.apple.DeviceToken(), nil
	}}
}

// of makes a device that runs another app.
func (m *makers) of(app forge.App) *makers {
	other := *m
	other.app = app
	return &other
}

// saying is a device, or a script, that always says the same.
func saying(platform, proof string) phone.Device {
	return phone.Device{Platform: platform, Prove: func(phone.Digest, time.Time) (string, error) { return proof, nil }}
}
