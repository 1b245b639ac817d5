package attestation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/exposure"
)

type appleVectors struct {
	Attestations []struct {
		Name, AppID, Environment string
		ClientDataHash           []byte
		ValidAt                  time.Time
		LeafNotBefore            time.Time
		LeafNotAfter             time.Time
		ValidationCategory       *int
		Attestation              []byte
	}
	Assertions []struct {
		Name, AppID, PublicKeyPem string
		ClientDataHash            []byte
		Counter                   uint32
		Assertion                 []byte
	}
}

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	text := must(os.ReadFile("testdata/" + name))
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// apple is a policy for one app that may come from anywhere.
func apple(appID, environment string) attestation.IOS {
	team, bundle, _ := strings.Cut(appID, ".")
	p := must(attestation.Policy{IOS: &attestation.IOS{
		TeamID: team, BundleIDs: []string{bundle}, Environment: attestation.Environment(environment),
		Sources: []attestation.Source{attestation.FromAppStore, attestation.FromSystem},
	}}.Checked())
	return *p.IOS
}

// Real objects, made by Apple and by real phones, verify at their dates and
// fail a moment outside of them, or when anything asked for is different.
func TestAppAttestVectors(t *testing.T) {
	t.Parallel()
	var vectors appleVectors
	readVectors(t, "app-attest.json", &vectors)
	if len(vectors.Attestations) != 4 {
		t.Fatalf("there are %d vectors, want 4", len(vectors.Attestations))
	}
	for _, v := range vectors.Attestations {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			p := apple(v.AppID, v.Environment)
			if err := attestation.VerifyAppleAt(v.Attestation, v.ClientDataHash, p, v.ValidAt); err != nil {
				t.Errorf("a genuine object is refused: %v", err)
			}
			check := func(rule string, hash []byte, p attestation.IOS, now time.Time) {
				t.Helper()
				wantRefused(t, attestation.VerifyAppleAt(v.Attestation, hash, p, now), rule, "")
			}
			check("lead to Apple's root", v.ClientDataHash, p, v.LeafNotAfter.Add(time.Second))
			check("lead to Apple's root", v.ClientDataHash, p, v.LeafNotBefore.Add(-time.Second))
			check("this upload", append(v.ClientDataHash[:1:1], v.ClientDataHash...), p, v.ValidAt)
			check("another app", v.ClientDataHash, apple(v.AppID+"x", v.Environment), v.ValidAt)
			other := map[string]string{"production": "development", "development": "production"}[v.Environment]
			check("environment", v.ClientDataHash, apple(v.AppID, other), v.ValidAt)
			if v.ValidationCategory != nil {
				p.Sources = []attestation.Source{attestation.FromAppStore}
				check("come from", v.ClientDataHash, p, v.ValidAt)
			}
		})
	}
}

// No byte of a genuine object can be changed, but for the receipt, which nobody
// reads here.
func TestAppAttestVectorsChanged(t *testing.T) {
	t.Parallel()
	var vectors appleVectors
	readVectors(t, "app-attest.json", &vectors)
	v := vectors.Attestations[0]
	p := apple(v.AppID, v.Environment)
	receipt := bytes.Index(v.Attestation, []byte("receipt"))
	data := bytes.Index(v.Attestation, []byte("authData"))
	for i := range v.Attestation {
		if receipt <= i && i < data {
			continue
		}
		changed := slices.Clone(v.Attestation)
		changed[i] ^= 0x01
		if err := attestation.VerifyAppleAt(changed, v.ClientDataHash, p, v.ValidAt); err == nil {
			t.Errorf("byte %d can be changed", i)
		}
	}
	for _, n := range []int{0, 1, 100, len(v.Attestation) - 1} {
		if err := attestation.VerifyAppleAt(v.Attestation[:n], v.ClientDataHash, p, v.ValidAt); err == nil {
			t.Errorf("%d bytes of it are enough", n)
		}
	}
}

func TestAssertionVectors(t *testing.T) {
	t.Parallel()
	var vectors appleVectors
	readVectors(t, "app-attest.json", &vectors)
	for _, v := range vectors.Assertions {
		block, _ := pem.Decode([]byte(v.PublicKeyPem))
		key := must(x509.ParsePKIXPublicKey(block.Bytes)).(*ecdsa.PublicKey)
		p := apple(v.AppID, "development")
		counter, err := attestation.VerifyAssertion(v.Assertion, v.ClientDataHash, key, p)
		if err != nil || counter != v.Counter {
			t.Errorf("%s: got counter %d, %v, want %d", v.Name, counter, err, v.Counter)
		}
		_, err = attestation.VerifyAssertion(v.Assertion, v.ClientDataHash[1:], key, p)
		wantRefused(t, err, "signature", "")
		_, err = attestation.VerifyAssertion(v.Assertion, v.ClientDataHash, key, apple(v.AppID+"x", "development"))
		wantRefused(t, err, "another app", "")
	}
}

// Altered copies of Apple's root circulate.
func TestAppleRoot(t *testing.T) {
	t.Parallel()
	block, rest := pem.Decode([]byte(attestation.AppleRoot()))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		t.Fatal("the root is not one certificate in PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	if got := hex.EncodeToString(sum[:]); got != attestation.AppleRootFingerprint {
		t.Errorf("the fingerprint is %s, want %s", got, attestation.AppleRootFingerprint)
	}
	root := must(x509.ParseCertificate(block.Bytes))
	if err := root.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
}

// A real proof of 2020, for the upload whose nonce it signs. Its root is gone,
// so its intermediate is trusted.
func TestSafetyNetVector(t *testing.T) {
	t.Parallel()
	var v struct {
		JWS     string
		ValidAt time.Time
		Upload  struct {
			AppPackageName string
			Keys           []struct {
				Key                string
				RollingStartNumber int32
				RollingPeriod      int32
				TransmissionRisk   int32
			} `json:"temporaryExposureKeys"`
			Regions             []string
			VerificationPayload string
		}
		NonceClearText string
		Nonce          string
	}
	readVectors(t, "safetynet.json", &v)

	var keys []exposure.Submitted
	for _, k := range v.Upload.Keys {
		keys = append(keys, exposure.Submitted{Text: k.Key, Start: k.RollingStartNumber, Period: k.RollingPeriod, Risk: k.TransmissionRisk})
	}
	clear := strings.Join([]string{v.Upload.AppPackageName, string(exposure.SignedText(keys)), strings.Join(v.Upload.Regions, ","), v.Upload.VerificationPayload}, "|")
	digest := attestation.Digest(sha256.Sum256([]byte(clear)))
	if clear != v.NonceClearText || base64.StdEncoding.EncodeToString(digest[:]) != v.Nonce {
		t.Fatalf("the clear text is %s, want %s", clear, v.NonceClearText)
	}

	verifier := must(attestation.New(attestation.Settings{SafetyNetRoots: second(t, v.JWS)}, attestation.Deps{DevelopmentOnly: anything}))
	policy := must(attestation.Policy{Android: &attestation.Android{
		Kinds: []attestation.Kind{attestation.SafetyNet}, Packages: []string{v.Upload.AppPackageName},
		Certificates: []string{"jqmYEqi9qUvpUe11qMf3v2o6VEQM+5NDee2bz0xdzWc="},
	}}.Checked())
	got, err := verifier.Verify(t.Context(), "android", v.JWS, digest, policy, v.ValidAt)
	wantKind(t, got, err, attestation.SafetyNet)

	digest[0] ^= 1
	_, err = verifier.Verify(t.Context(), "android", v.JWS, digest, policy, v.ValidAt)
	wantRefused(t, err, "nonce", v.JWS)
}

// second gives the second certificate of a JWS's header, in PEM.
func second(t *testing.T, jws string) string {
	t.Helper()
	first, _, _ := strings.Cut(jws, ".")
	var header struct{ X5C [][]byte }
	if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(first)), &header); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: header.X5C[1]}))
}
