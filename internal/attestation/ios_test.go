package attestation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/exposure/entest"
)

func TestAppAttest(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must(stranger.PublicKey.Bytes())
	id := sha256.Sum256(point)
	empty := must(cbor.Marshal(map[string]any{}))
	source := func(value any) []byte {
		return must(cbor.Marshal(map[string]any{"apple_validation_category_01": value}))
	}
	type x = *forge.Attestation
	for _, tc := range []struct {
		why  string
		edit func(x)
		rule string // empty: accepted
	}{
		{"as it should be", func(x) {}, ""},
		{"iOS 27, from the App Store", func(a x) { a.Extensions = forge.Extensions(4) }, ""},
		{"the flag of extensions set too", func(a x) { a.Extensions, a.Flags = forge.Extensions(4), 0xc0 }, ""},
		{"the flag set, and none there", func(a x) { a.Flags = 0xc0 }, ""},
		{"the category as a number", func(a x) { a.Extensions = source(4) }, ""},
		{"extensions without a category", func(a x) { a.Extensions = empty }, ""},
		{"extensions of later systems", func(a x) {
			a.Extensions = must(cbor.Marshal(map[string]any{"apple_validation_category_01": 4, "x": 1}))
		}, ""},

		{"for another upload", func(a x) { a.ClientDataHash = make([]byte, 32) }, "this upload"},
		{"the digest hashed again", func(a x) {
			h := sha256.Sum256(a.ClientDataHash)
			a.ClientDataHash = h[:]
		}, "this upload"},
		{"a nonce cut short", func(a x) { a.Nonce = make([]byte, 31) }, "this upload"},
		{"another app", func(a x) { a.AppID += "x" }, "another app"},
		{"another team", func(a x) { a.AppID = "ABCDE12346.org.example.App" }, "another app"},
		{"the bundle alone", func(a x) { a.AppID = "org.example.App" }, "another app"},
		{"development", func(a x) { a.AAGUID = forge.DevelopmentAAGUID }, "environment"},
		{"sandbox", func(a x) { a.AAGUID = "appattestsandbox" }, "environment"},
		{"no environment", func(a x) { a.AAGUID = strings.Repeat("\x00", 16) }, "environment"},
		{"used before", func(a x) { a.Counter = 1 }, "used before"},
		{"another key id", func(a x) { a.CredID = id[:] }, "key id"},
		{"another public key", func(a x) { a.COSE = must(forge.COSE(point)) }, "public key"},
		{"a public key that is noise", func(a x) { a.COSE = make([]byte, 77) }, "public key"},
		{"no credential", func(a x) { a.Flags = 0 }, "no credential"},
		{"a key id cut short", func(a x) { a.CredID = id[:31] }, "too short"},
		{"a longer key id", func(a x) { a.CredID = append(id[:], 0) }, "no credential"},
		{"another format", func(a x) { a.Format = "packed" }, "format"},
		{"no format", func(a x) { a.Format = "" }, "format"},
		{"not valid yet", func(a x) { a.NotBefore = l.now.Add(time.Second) }, "Apple's root"},
		{"no longer valid", func(a x) { a.NotAfter = l.now.Add(-time.Second) }, "Apple's root"},
		{"from TestFlight", func(a x) { a.Extensions = forge.Extensions(2) }, "come from"},
		{"from Xcode", func(a x) { a.Extensions = forge.Extensions(3) }, "come from"},
		{"invalid", func(a x) { a.Extensions = forge.Extensions(0) }, "come from"},
		{"a category that is reserved", func(a x) { a.Extensions = forge.Extensions(7) }, "come from"},
		{"a category that looks like 4", func(a x) { a.Extensions = forge.Extensions(4 << 24) }, "come from"},
		{"a category of one byte", func(a x) { a.Extensions = source([]byte{4}) }, "come from"},
		{"a category that is a text", func(a x) { a.Extensions = source("4") }, "come from"},
		{"a negative category", func(a x) { a.Extensions = source(-4) }, "come from"},
		{"something behind the extensions", func(a x) { a.Extensions = append(forge.Extensions(4), 0) }, "one map"},
		{"two maps", func(a x) { a.Extensions = slices.Concat(forge.Extensions(4), forge.Extensions(4)) }, "one map"},
		{"null for a map", func(a x) { a.Extensions = []byte{0xf6} }, "one map"},
		{"a list for a map", func(a x) { a.Extensions = []byte{0x80} }, "one map"},
		{"a category twice", func(a x) { a.Extensions = slices.Concat([]byte{0xa2}, source(2)[1:], source(4)[1:]) }, "one map"},
		{"a map without end", func(a x) { a.Extensions = []byte{0xbf, 0xff} }, "one map"},
		{"a tagged map", func(a x) { a.Extensions = slices.Concat([]byte{0xc1}, empty) }, "one map"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			proof := must(l.apple.Proof(l.app, l.digest, l.now, tc.edit))
			got, err := l.verify("ios", proof, l.policy)
			if tc.rule != "" {
				wantRefused(t, err, tc.rule, proof)
				return
			}
			wantKind(t, got, err, attestation.AppAttest)
		})
	}
}

// What is around the authenticator data.
func TestAppAttestEnvelope(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := must(forge.NewApple(l.app.TeamID, func() time.Time { return l.now }))
	good := must(l.apple.Attest(l.app, l.digest[:], l.now))
	withChain := func(chain ...[]byte) []byte {
		return must(l.apple.Attest(l.app, l.digest[:], l.now, func(x *forge.Attestation) { x.Chain = chain }))
	}
	chain := chainOf(good)
	self := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	renamed := slices.Replace(slices.Clone(good), 2, 5, 'f', 'm', 'u')
	appAttest := l.ios(onlyIOS(attestation.AppAttest))
	for _, tc := range []struct {
		why   string
		proof []byte
		rule  string
	}{
		{"self-signed", withChain(selfSigned(self), selfSigned(self)), "Apple's root"},
		{"self-signed in place of the intermediate", withChain(chain[0], selfSigned(self)), "Apple's root"},
		{"chain to another root", must(other.Attest(l.app, l.digest[:], l.now)), "Apple's root"},
		{"a key that is not P-256", withChain(selfSigned(p384), chain[1]), "P-256"},
		{"the intermediate as leaf", withChain(chain[1], chain[1]), "P-256"},
		{"the leaf as intermediate", withChain(chain[0], chain[0]), "Apple's root"},
		{"the leaf of another object", withChain(chain...), "this upload"},
		{"no certificates", withChain([][]byte{}...), "two certificates"},
		{"one certificate", withChain(chain[0]), "two certificates"},
		{"three certificates", withChain(chain[0], chain[1], chain[1]), "two certificates"},
		{"certificates that are none", withChain([]byte("x"), []byte("y")), "cannot be read"},
		{"something behind a certificate", withChain(append(slices.Clone(chain[0]), 0), chain[1]), "cannot be read"},
		{"something behind it", append(slices.Clone(good), 0), "CBOR"},
		{"cut short", good[:len(good)-1], "CBOR"},
		{"another name of a field", renamed, "CBOR"},
		{"null", []byte{0xf6}, "format"},
		{"an empty map", []byte{0xa0}, "format"},
		{"a map without end", []byte{0xbf, 0xff}, "CBOR"},
		{"a length that lies", []byte{0xa3, 0x63, 'f', 'm', 't', 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "CBOR"},
		{"deep", []byte(strings.Repeat("\x81", 1000)), "CBOR"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			proof := base64.StdEncoding.EncodeToString(tc.proof)
			_, err := l.verify("ios", proof, appAttest)
			wantRefused(t, err, tc.rule, proof)
		})
	}
	for why, proof := range map[string]string{
		"not base64": "!", "huge": strings.Repeat("A", 24<<10+1), "empty": "", "a line break": "o2\nNm",
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			_, err := l.verify("ios", proof, appAttest)
			wantRefused(t, err, "", proof)
		})
	}
}

func chainOf(object []byte) [][]byte {
	var x struct {
		Statement struct {
			Chain [][]byte `cbor:"x5c"`
		} `cbor:"attStmt"`
	}
	must(0, cbor.Unmarshal(object, &x))
	return x.Statement.Chain
}

func selfSigned(key *ecdsa.PrivateKey) []byte {
	from := entest.Noon().Add(-time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "forged App Attest CA 1"},
		NotBefore: from, NotAfter: from.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	return must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
}

func TestAppAttestEnvironments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	fromXcode := func(a *forge.Attestation) { a.AAGUID, a.Extensions = forge.DevelopmentAAGUID, forge.Extensions(3) }
	fromTestFlight := func(a *forge.Attestation) { a.Extensions = forge.Extensions(2) }
	development := attestation.Policy{IOS: &attestation.IOS{
		TeamID: l.app.TeamID, BundleIDs: []string{l.app.BundleID, "org.example.Other"}, Environment: attestation.Development,
	}}
	development = must(development.Checked())
	beta := l.ios(func(i *attestation.IOS) {
		i.Sources = []attestation.Source{attestation.FromAppStore, attestation.FromTestFlight}
	})
	for _, tc := range []struct {
		why    string
		edit   func(*forge.Attestation)
		policy attestation.Policy
		rule   string
	}{
		{"Xcode in development", fromXcode, development, ""},
		{"Xcode in production", fromXcode, l.policy, "environment"},
		{"the store in development", func(*forge.Attestation) {}, development, "environment"},
		{"Xcode in what production makes of development", fromXcode, development.Strict(), "environment"},
		{"TestFlight where it is allowed", fromTestFlight, beta, ""},
		{"TestFlight where it is not", fromTestFlight, l.policy, "come from"},
		{"another of the bundles", func(a *forge.Attestation) {
			fromXcode(a)
			a.AppID = l.app.TeamID + ".org.example.Other"
		}, development, ""},
	} {
		proof := must(l.apple.Proof(l.app, l.digest, l.now, tc.edit))
		got, err := l.verify("ios", proof, tc.policy)
		if tc.rule != "" {
			wantRefused(t, err, tc.rule, proof)
			continue
		}
		wantKind(t, got, err, attestation.AppAttest)
	}
}

// A certificate that led to the root once must not do so for ever.
func TestIntermediatesAreNotBelievedForEver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	proof := must(l.apple.Proof(l.app, l.digest, l.now))
	got, err := l.verify("ios", proof, l.policy)
	wantKind(t, got, err, attestation.AppAttest)
	for _, now := range []time.Time{l.now.AddDate(60, 0, 0), l.now.AddDate(-10, 0, 0)} {
		late := must(l.apple.Proof(l.app, l.digest, now))
		_, err := l.Verify(t.Context(), "ios", late, l.digest, l.policy, now)
		wantRefused(t, err, "Apple's root", late)
	}
}

func TestAssertion(t *testing.T) {
	t.Parallel()
	app := forge.NewApp()
	policy := must(app.Policy())
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	hash := make([]byte, 32)
	type x = *forge.Assertion
	for _, tc := range []struct {
		why  string
		edit func(x)
		rule string
	}{
		{"as it should be", func(x) {}, ""},
		{"iOS 27", func(a x) { a.Extensions = forge.Extensions(4) }, ""},
		{"from TestFlight", func(a x) { a.Extensions = forge.Extensions(2) }, "come from"},
		{"other client data", func(a x) { a.ClientDataHash = []byte("x") }, "signature"},
		{"another app", func(a x) { a.AppID += "x" }, "another app"},
		{"never used", func(a x) { a.Counter = 0 }, "counter"},
		{"noise for a signature", func(a x) { a.Signature = []byte("x") }, "signature"},
		{"something behind the extensions", func(a x) { a.Extensions = append(forge.Extensions(4), 0) }, "one map"},
	} {
		raw := must(forge.Assert(app, key, hash, 7, tc.edit))
		counter, err := attestation.VerifyAssertion(raw, hash, &key.PublicKey, *policy.IOS)
		if tc.rule != "" {
			wantRefused(t, err, tc.rule, "")
			continue
		}
		if err != nil || counter != 7 {
			t.Errorf("%s: got %d, %v, want counter 7", tc.why, counter, err)
		}
	}
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	good := must(forge.Assert(app, key, hash, 7))
	for why, tc := range map[string]struct {
		raw []byte
		key *ecdsa.PrivateKey
	}{
		"another key":         {good, stranger},
		"something behind it": {append(slices.Clone(good), 0), key},
		"huge":                {make([]byte, 1<<10+1), key},
		"empty":               {nil, key},
	} {
		if _, err := attestation.VerifyAssertion(tc.raw, hash, &tc.key.PublicKey, *policy.IOS); err == nil {
			t.Errorf("%s: it was believed", why)
		}
	}
}

func TestDeviceCheck(t *testing.T) {
	t.Parallel()
	retry := attestation.ErrUnavailable
	down := []http.HandlerFunc{forge.Answer(503, "x"), forge.Answer(503, "x")}
	for _, tc := range []struct {
		why   string
		fail  []http.HandlerFunc
		edit  func(*attestation.IOS)
		rule  string // refused
		cause error  // not judged
		doubt bool
	}{
		{why: "as it should be"},
		{why: "one stumble", fail: down[:1]},
		{why: "not known to Apple", rule: "device token", fail: []http.HandlerFunc{forge.Answer(400, "Missing or incorrectly formatted device token payload")}},
		{why: "down", fail: down, cause: retry},
		{why: "down, and accepted", fail: down, edit: func(i *attestation.IOS) { i.OnUnavailable = attestation.Accept }, doubt: true},
		{why: "our mistake", fail: []http.HandlerFunc{forge.Answer(400, "Missing or incorrectly formatted bits")}, cause: attestation.ErrMisconfigured},
		{
			why: "our mistake is never accepted", fail: []http.HandlerFunc{forge.Answer(403, "x")},
			edit: func(i *attestation.IOS) { i.OnUnavailable = attestation.Accept }, cause: attestation.ErrMisconfigured,
		},
		{
			why: "not known to Apple is never accepted", fail: []http.HandlerFunc{forge.Answer(400, "bad device token")},
			edit: func(i *attestation.IOS) { i.OnUnavailable = attestation.Accept }, rule: "device token",
		},
		{why: "another team", edit: func(i *attestation.IOS) { i.TeamID = "ABCDE12346" }, cause: attestation.ErrMisconfigured},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.apple.Fail(tc.fail...)
			token := l.apple.DeviceToken()
			edit := tc.edit
			if edit == nil {
				edit = func(*attestation.IOS) {}
			}
			got, err := l.verify("ios", token, l.ios(edit))
			switch {
			case tc.rule != "":
				wantRefused(t, err, tc.rule, token)
			case tc.cause != nil:
				wantRetry(t, err, tc.cause)
			case tc.doubt:
				if err != nil || got.Genuine() || got.Kind != attestation.DeviceCheck || got.Doubt == nil {
					t.Errorf("got %+v, %v, want a doubt", got, err)
				}
			default:
				wantKind(t, got, err, attestation.DeviceCheck)
			}
		})
	}
}

// Sending an upload again does not spend its token again. Nothing binds a
// token to an upload, so with another one Apple must be asked.
func TestDeviceCheckIsAskedOnceAnUpload(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	token := l.apple.DeviceToken()
	for range 3 {
		got, err := l.verify("ios", token, l.policy)
		wantKind(t, got, err, attestation.DeviceCheck)
	}
	if n := l.apple.Asked(); n != 1 {
		t.Errorf("Apple was asked %d times, want once", n)
	}
	other := attestation.DigestOf("org.example.app", nil, "x")
	_, err := l.Verify(t.Context(), "ios", token, other, l.policy, l.now)
	if n := l.apple.Asked(); n != 2 || err != nil {
		t.Errorf("Apple was asked %d times, %v, want twice", n, err)
	}
	_, err = l.verify("ios", base64.StdEncoding.EncodeToString(make([]byte, 8<<10)), l.policy)
	wantRefused(t, err, "characters", "")

	v := l.verifier(t, func(_ *attestation.Settings, d *attestation.Deps) { d.Apple, d.Google = nil, nil })
	_, err = v.Verify(t.Context(), "ios", token, l.digest, l.policy, l.now)
	wantRetry(t, err, attestation.ErrMisconfigured)
	_, err = v.Verify(t.Context(), "android", must(l.google.Standard(l.app, l.digest, l.now)), l.digest, l.android(only(attestation.PlayIntegrityStandard)), l.now)
	wantRetry(t, err, attestation.ErrMisconfigured)
}
