package attestation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/exposure/entest"
)

// playRows are what can be wrong with a verdict of Play Integrity, whoever
// opened it.
func playRows(l *lab) []verdictRow {
	otherCertificate := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	ours := base64.RawURLEncoding.EncodeToString(l.app.Certificate[:])
	millis := func(d time.Duration) int64 { return l.now.Add(d).UnixMilli() }
	return []verdictRow{
		{"as it should be", nil, ""},
		{"time as a number", forge.Set("requestDetails.timestampMillis", l.now.UnixMilli()), ""},
		{"time in seconds, as in Google's example", forge.Set("requestDetails.timestampMillis", l.now.Unix()), ""},
		{"the oldest", forge.Set("requestDetails.timestampMillis", millis(-10*time.Minute)), ""},
		{"the newest", forge.Set("requestDetails.timestampMillis", millis(2*time.Minute)), ""},
		{"a field that is not known", forge.Set("requestDetails.more", "x"), ""},
		{"certificate in standard base64, padded", forge.Set("appIntegrity.certificateSha256Digest", []string{base64.StdEncoding.EncodeToString(l.app.Certificate[:])}), ""},
		{"several labels", forge.Set("deviceIntegrity.deviceRecognitionVerdict", []string{"MEETS_BASIC_INTEGRITY", "MEETS_DEVICE_INTEGRITY", "MEETS_STRONG_INTEGRITY"}), ""},
		{"a tester's false", forge.Set("testingDetails", forge.JSON{"isTestingResponse": false}), ""},
		{"no licence: another store", forge.Set("accountDetails", nil), ""},

		{"too old", forge.Set("requestDetails.timestampMillis", millis(-10*time.Minute-time.Millisecond)), "too old"},
		{"from the future", forge.Set("requestDetails.timestampMillis", millis(2*time.Minute+time.Millisecond)), "future"},
		{"no time", forge.Set("requestDetails.timestampMillis", nil), "too old"},
		{"time is null", forge.Set("requestDetails.timestampMillis", json.RawMessage("null")), "JSON"},
		{"time is no number", forge.Set("requestDetails.timestampMillis", "noon"), "JSON"},
		{"time is endless", forge.Set("requestDetails.timestampMillis", "99999999999999999999"), "JSON"},
		{"no request", forge.Set("requestDetails", nil), "another package"},
		{"requested by another package", forge.Set("requestDetails.requestPackageName", "org.example.other"), "another package"},
		{"in other letters", forge.Set("requestDetails.requestPackageName", strings.ToUpper(l.app.Package)), "another package"},
		{"about another package", forge.Set("appIntegrity.packageName", "org.example.other"), "another package"},
		{"no app", forge.Set("appIntegrity", nil), "recognise"},
		{"an altered app", forge.Set("appIntegrity.appRecognitionVerdict", "UNRECOGNIZED_VERSION"), "recognise"},
		{"a verdict that is not known", forge.Set("appIntegrity.appRecognitionVerdict", "UNKNOWN"), "recognise"},
		{"not evaluated, on a device that was", forge.Set("appIntegrity.appRecognitionVerdict", "UNEVALUATED"), "recognise"},
		{"another certificate", forge.Set("appIntegrity.certificateSha256Digest", []string{otherCertificate}), "certificate"},
		{"another certificate beside ours", forge.Set("appIntegrity.certificateSha256Digest", []string{ours, otherCertificate}), "certificate"},
		{"half of the certificate", forge.Set("appIntegrity.certificateSha256Digest", []string{ours[:20]}), "certificate"},
		{"no certificate", forge.Set("appIntegrity.certificateSha256Digest", []string{}), "certificate"},
		{"certificate is missing", forge.Set("appIntegrity.certificateSha256Digest", nil), "certificate"},
		{"no device", forge.Set("deviceIntegrity", nil), "device does not meet"},
		{"no labels", forge.Set("deviceIntegrity.deviceRecognitionVerdict", []string{}), "device does not meet"},
		{"a weak device", forge.Set("deviceIntegrity.deviceRecognitionVerdict", []string{"MEETS_BASIC_INTEGRITY"}), "device does not meet"},
		{"an emulator", forge.Set("deviceIntegrity.deviceRecognitionVerdict", []string{"MEETS_VIRTUAL_INTEGRITY"}), "device does not meet"},
		{"a tester's answer", forge.Set("testingDetails", forge.JSON{"isTestingResponse": true}), "tester"},
		{"not an object", forge.Set("requestDetails", "x"), "JSON"},
	}
}

type verdictRow struct {
	why  string
	edit forge.Edit
	rule string // empty: accepted
}

func (r verdictRow) edits() []forge.Edit {
	if r.edit == nil {
		return nil
	}
	return []forge.Edit{r.edit}
}

func TestPlayIntegrityClassic(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	padded := base64.StdEncoding.EncodeToString(l.digest[:])
	for _, tc := range append(playRows(l),
		verdictRow{"nonce in standard base64, padded", forge.Set("requestDetails.nonce", padded), ""},
		verdictRow{"another nonce", forge.Set("requestDetails.nonce", attestation.Digest{}.Text()), "nonce"},
		verdictRow{"half of the nonce", forge.Set("requestDetails.nonce", padded[:20]), "nonce"},
		verdictRow{"no nonce", forge.Set("requestDetails.nonce", nil), "nonce"},
		verdictRow{"the digest as request hash", func(j forge.JSON) {
			forge.Set("requestDetails.nonce", nil)(j)
			forge.Set("requestDetails.requestHash", l.digest.Text())(j)
		}, "nonce"},
	) {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			token := must(l.google.Classic(l.app, l.digest, l.now, tc.edits()...))
			got, err := l.verify("android", token, l.policy)
			if tc.rule != "" {
				wantRefused(t, err, tc.rule, token)
				return
			}
			wantKind(t, got, err, attestation.PlayIntegrityClassic)
		})
	}
}

func TestPlayIntegrityStandard(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	googleRefuses := []string{"no request", "requested by another package", "in other letters", "not an object"}
	for _, tc := range append(playRows(l),
		verdictRow{"another hash", forge.Set("requestDetails.requestHash", attestation.Digest{}.Text()), "requestHash"},
		verdictRow{"the hash, padded", forge.Set("requestDetails.requestHash", l.digest.Text()+"="), "requestHash"},
		verdictRow{"no hash", forge.Set("requestDetails.requestHash", nil), "requestHash"},
		verdictRow{"the digest as nonce", func(j forge.JSON) {
			forge.Set("requestDetails.requestHash", nil)(j)
			forge.Set("requestDetails.nonce", l.digest.Text())(j)
		}, "requestHash"},
	) {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			token := must(l.google.Standard(l.app, l.digest, l.now, tc.edits()...))
			got, err := l.verify("android", token, l.policy)
			switch {
			case slices.Contains(googleRefuses, tc.why):
				wantRefused(t, err, "Google cannot open it", token)
			case tc.rule == "JSON":
				wantRetry(t, err, attestation.ErrUnavailable) // Google wrote nonsense, not the phone
			case tc.rule != "":
				wantRefused(t, err, tc.rule, token)
			default:
				wantKind(t, got, err, attestation.PlayIntegrityStandard)
			}
		})
	}
}

// What is around the verdict.
func TestPlayIntegrityEnvelope(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := must(forge.NewGoogle())
	payload := must(json.Marshal(forge.Verdict(l.app, l.now, forge.Set("requestDetails.nonce", l.digest.Text()))))
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	signed := func(a jose.SignatureAlgorithm, key any) string { return must(forge.Sign(a, key, payload, nil)) }
	sealed := func(text string) string {
		return must(forge.Encrypt(jose.A256KW, jose.A256GCM, l.google.Decryption, text))
	}
	good := sealed(signed(jose.ES256, l.google.Signing))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	classic := l.android(only(attestation.PlayIntegrityClassic))

	got, err := l.verify("android", good, classic)
	wantKind(t, got, err, attestation.PlayIntegrityClassic)
	for _, tc := range []struct {
		why, token, rule string
	}{
		{"noise", "noise", "JWE"},
		{"dots", "....", "JWE"},
		{"not encrypted", signed(jose.ES256, l.google.Signing), "JWE"},
		{"for somebody else's key", must(other.Classic(l.app, l.digest, l.now)), "key of this app"},
		{"A128KW", must(forge.Encrypt(jose.A128KW, jose.A256GCM, l.google.Decryption[:16], "x.y.z")), "JWE"},
		{"the key itself as content key", must(forge.Encrypt(jose.DIRECT, jose.A256GCM, l.google.Decryption, "x.y.z")), "JWE"},
		{"CBC", must(forge.Encrypt(jose.A256KW, jose.A256CBC_HS512, l.google.Decryption, "x.y.z")), "JWE"},
		{"compressed", bomb(l.google.Decryption), "compressed"},
		{"a byte changed", changed(good), "key of this app"},
		{"a byte more", good + "AA", ""},
		{"a part more", good + ".AA", "JWE"},
		{"the header changed", strings.Replace(good, ".", "A.", 1), ""},
		{"a line break", good[:100] + "\n" + good[100:], "characters"},
		{"a blank behind it", good + " ", "characters"},
		{"signed by a stranger", sealed(signed(jose.ES256, stranger)), "signature"},
		{"not signed", sealed(string(payload)), "ES256"},
		{"alg none", sealed(none), "ES256"},
		{"HS256 with the public key", sealed(signed(jose.HS256, must(l.google.Signing.PublicKey.Bytes()))), "ES256"},
		{"RS256", sealed(signed(jose.RS256, l.google.Host)), "ES256"},
		{"a signature for another verdict", sealed(swapped(signed(jose.ES256, l.google.Signing), signed(jose.ES256, stranger))), "signature"},
		{"huge", strings.Repeat("A", 16<<10+1), "more than 16384"},
		{"empty", "", "missing"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := l.verify("android", tc.token, classic)
			wantRefused(t, err, tc.rule, tc.token)
		})
	}
}

// changed flips a bit of the encrypted verdict.
func changed(token string) string {
	parts := strings.Split(token, ".")
	raw := must(base64.RawURLEncoding.DecodeString(parts[3]))
	raw[len(raw)/2] ^= 1
	parts[3] = base64.RawURLEncoding.EncodeToString(raw)
	return strings.Join(parts, ".")
}

// swapped puts the signature of b under a.
func swapped(a, b string) string {
	return a[:strings.LastIndexByte(a, '.')] + b[strings.LastIndexByte(b, '.'):]
}

func bomb(key []byte) string {
	crypter := must(jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.A256KW, Key: key}, &jose.EncrypterOptions{Compression: jose.DEFLATE}))
	return must(must(crypter.Encrypt(make([]byte, 200_000))).CompactSerialize())
}

func TestDeviceLevels(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	levels := []attestation.Level{attestation.Basic, attestation.Device, attestation.Strong}
	for label, reaches := range map[string]int{
		"MEETS_VIRTUAL_INTEGRITY": 0, "MEETS_BASIC_INTEGRITY": 1, "MEETS_DEVICE_INTEGRITY": 2, "MEETS_STRONG_INTEGRITY": 3,
	} {
		token := must(l.google.Classic(l.app, l.digest, l.now, forge.Set("deviceIntegrity.deviceRecognitionVerdict", []string{label})))
		for n, level := range levels {
			got, err := l.verify("android", token, l.android(func(a *attestation.Android) { a.Device = level }))
			if n < reaches {
				wantKind(t, got, err, attestation.PlayIntegrityClassic)
				continue
			}
			wantRefused(t, err, "device does not meet", token)
		}
	}
}

// Each app at Google has keys of its own, and two while they change.
func TestPlayKeysOfSeveralApps(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	before, other := must(forge.NewGoogle()), must(forge.NewGoogle())
	var ours, old, theirs attestation.Settings
	must(0, l.google.Trust(&ours))
	must(0, before.Trust(&old))
	must(0, other.Trust(&theirs))
	join := func(a, b, c string) string {
		return strings.Join([]string{l.app.Package + ":" + a, l.app.Package + ": " + b, " org.example.other:" + c}, ",")
	}
	v := l.verifier(t, func(s *attestation.Settings, _ *attestation.Deps) {
		s.PlayDecryptionKey = join(ours.PlayDecryptionKey, old.PlayDecryptionKey, theirs.PlayDecryptionKey)
		s.PlayVerificationKey = join(ours.PlayVerificationKey, old.PlayVerificationKey, theirs.PlayVerificationKey)
	})
	p := l.android(only(attestation.PlayIntegrityClassic))
	for _, google := range []*forge.Google{l.google, before} {
		got, err := v.Verify(t.Context(), "android", must(google.Classic(l.app, l.digest, l.now)), l.digest, p, l.now)
		wantKind(t, got, err, attestation.PlayIntegrityClassic)
	}
	_, err := v.Verify(t.Context(), "android", must(other.Classic(l.app, l.digest, l.now)), l.digest, p, l.now)
	wantRefused(t, err, "key of this app", "")
	p.Android.Packages = []string{"org.example.third"}
	_, err = v.Verify(t.Context(), "android", must(other.Classic(l.app, l.digest, l.now)), l.digest, p, l.now)
	wantRetry(t, err, attestation.ErrMisconfigured)
}

// Wrong keys of ours must not cost people their uploads for long.
func TestWrongPlayKeysAreOurFault(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := must(forge.NewGoogle())
	classic := l.android(only(attestation.PlayIntegrityClassic))
	foreign := must(other.Classic(l.app, l.digest, l.now))
	for range attestation.EnoughForeign - 1 {
		_, err := l.verify("android", foreign, classic)
		wantRefused(t, err, "key of this app", foreign)
	}
	_, err := l.verify("android", foreign, classic)
	wantRetry(t, err, attestation.ErrMisconfigured)

	got, err := l.verify("android", must(l.google.Classic(l.app, l.digest, l.now)), classic)
	wantKind(t, got, err, attestation.PlayIntegrityClassic)
	_, err = l.verify("android", foreign, classic)
	wantRefused(t, err, "key of this app", foreign)
}

// Google judges a token once. Sending an upload again must not ask again, and a
// token that was opened elsewhere is no reason to refuse a phone.
func TestStandardTokenIsDecodedOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	token := must(l.google.Standard(l.app, l.digest, l.now))
	var tries sync.WaitGroup
	for range 8 {
		tries.Go(func() {
			got, err := l.verify("android", token, l.policy)
			wantKind(t, got, err, attestation.PlayIntegrityStandard)
		})
	}
	tries.Wait()
	if n := l.google.Asked(); n != 1 {
		t.Errorf("Google was asked %d times, want once", n)
	}

	stolen := attestation.DigestOf("org.example.app", entest.Upload(50, 14, l.now), "certificate")
	_, err := l.Verify(t.Context(), "android", token, stolen, l.policy, l.now)
	wantRefused(t, err, "requestHash", token)

	elsewhere := l.verifier(t, func(*attestation.Settings, *attestation.Deps) {})
	_, err = elsewhere.Verify(t.Context(), "android", token, l.digest, l.policy, l.now)
	wantRetry(t, err, nil)
	if !strings.Contains(err.Error(), "make a new one") {
		t.Errorf("got %v, want it to ask for a new one", err)
	}
}

func TestGoogleStumbles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		fail  []http.HandlerFunc
		cause error // nil: accepted all the same
	}{
		{"once", []http.HandlerFunc{forge.Answer(503, "x")}, nil},
		{"twice", []http.HandlerFunc{forge.Answer(500, "x"), forge.Answer(429, "x")}, nil},
		{"to the end", []http.HandlerFunc{forge.Answer(500, "x"), forge.Answer(500, "x"), forge.Answer(500, "x")}, attestation.ErrUnavailable},
		{"our account is refused", []http.HandlerFunc{forge.Answer(403, "x")}, attestation.ErrMisconfigured},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.google.Fail(tc.fail...)
			token := must(l.google.Standard(l.app, l.digest, l.now))
			got, err := l.verify("android", token, l.policy)
			if tc.cause != nil {
				wantRetry(t, err, tc.cause)
				wantSilent(t, err, token)
				return
			}
			wantKind(t, got, err, attestation.PlayIntegrityStandard)
		})
	}
}

// An upload that has no time left does not wait for Google, and what Google
// says then is there for the next try.
func TestUploadDoesNotWaitForGoogle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	entered, release := make(chan struct{}), make(chan struct{})
	l.google.Fail(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		forge.Answer(503, "x")(w, r)
	})
	token := must(l.google.Standard(l.app, l.digest, l.now))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := l.Verify(ctx, "android", token, l.digest, l.policy, l.now)
	wantRetry(t, err, attestation.ErrUnavailable)
	close(release)
	got, err := l.verify("android", token, l.policy)
	wantKind(t, got, err, attestation.PlayIntegrityStandard)
}

func TestSafetyNet(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	policy := l.android(only(attestation.SafetyNet))
	millis := func(d time.Duration) int64 { return l.now.Add(d).UnixMilli() }
	zero := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, tc := range []verdictRow{
		{"as it should be", nil, ""},
		{"the oldest", forge.Set("timestampMs", millis(-10*time.Minute)), ""},
		{"by hardware too", forge.Set("evaluationType", "BASIC,HARDWARE_BACKED"), ""},
		{"too old", forge.Set("timestampMs", millis(-11*time.Minute)), "too old"},
		{"from the future", forge.Set("timestampMs", millis(3*time.Minute)), "future"},
		{"no time", forge.Set("timestampMs", nil), "too old"},
		{"another nonce", forge.Set("nonce", base64.StdEncoding.EncodeToString([]byte(zero))), "nonce"},
		{"the digest without a layer", forge.Set("nonce", base64.StdEncoding.EncodeToString(l.digest[:])), "nonce"},
		{"no nonce", forge.Set("nonce", nil), "nonce"},
		{"another package", forge.Set("apkPackageName", "org.example.other"), "another package"},
		{"no package", forge.Set("apkPackageName", nil), "another package"},
		{"another certificate", forge.Set("apkCertificateDigestSha256", []string{zero}), "certificate"},
		{"no certificate", forge.Set("apkCertificateDigestSha256", nil), "certificate"},
		{"an altered system", forge.Set("ctsProfileMatch", false), "device does not meet"},
		{"no word on the system", forge.Set("ctsProfileMatch", nil), "device does not meet"},
		{"an altered device", forge.Set("basicIntegrity", false), "device does not meet"},
		{"an error of the device", forge.Set("error", "internal_error"), "make a new one"},
		{"a flag that is a text", forge.Set("ctsProfileMatch", "true"), "JSON"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			token := must(l.google.SafetyNet(l.app, l.digest, l.now, tc.edits()...))
			got, err := l.verify("android", token, policy)
			if tc.rule != "" {
				wantRefused(t, err, tc.rule, token)
				return
			}
			wantKind(t, got, err, attestation.SafetyNet)
		})
	}
}

func TestSafetyNetEnvelope(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	policy := l.android(only(attestation.SafetyNet))
	payload := []byte(`{}`)
	host := func(name string, thru time.Time) [][]byte { return must(l.google.HostChain(name, thru)) }
	signed := func(chain [][]byte) string {
		return must(forge.Sign(jose.RS256, l.google.Host, payload, forge.JSON{"x5c": chain}))
	}
	other := must(forge.NewGoogle())
	good := must(l.google.SafetyNet(l.app, l.digest, l.now))
	later := l.now.Add(24 * time.Hour)
	none := base64.RawURLEncoding.EncodeToString(must(json.Marshal(forge.JSON{"alg": "none", "x5c": l.google.Chain}))) + ".e30."
	for _, tc := range []struct {
		why, token, rule string
	}{
		{"another host", signed(host("attest.example.com", later)), "attest.android.com"},
		{"a host below", signed(host("x.attest.android.com", later)), "attest.android.com"},
		{"expired", signed(host("attest.android.com", l.now.Add(-time.Second))), "attest.android.com"},
		{"another root", must(other.SafetyNet(l.app, l.digest, l.now)), "attest.android.com"},
		{"an empty verdict, and only the leaf, which suffices", signed(l.google.Chain[:1]), "too old"},
		{"no certificates", must(forge.Sign(jose.RS256, l.google.Host, payload, nil)), "certificates"},
		{"five certificates", signed([][]byte{l.google.Chain[0], l.google.Chain[1], l.google.Chain[1], l.google.Chain[1], l.google.Chain[1]}), "certificates"},
		{"certificates that are none", signed([][]byte{[]byte("x")}), ""},
		{"signed by another key", must(forge.Sign(jose.RS256, other.Host, payload, forge.JSON{"x5c": l.google.Chain})), "signature"},
		{"PS256", must(forge.Sign(jose.PS256, l.google.Host, payload, forge.JSON{"x5c": l.google.Chain})), "RS256"},
		{"HS256 with the certificate", must(forge.Sign(jose.HS256, l.google.Chain[0], payload, forge.JSON{"x5c": l.google.Chain})), "RS256"},
		{"alg none", none, "RS256"},
		{"a part more", good + ".AA", "RS256"},
		{"noise", "a.b.c", "RS256"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := l.verify("android", tc.token, policy)
			wantRefused(t, err, tc.rule, tc.token)
		})
	}
	v := l.verifier(t, func(s *attestation.Settings, _ *attestation.Deps) { s.SafetyNetRoots = "" })
	_, err := v.Verify(t.Context(), "android", good, l.digest, policy, l.now)
	wantRetry(t, err, attestation.ErrMisconfigured)
}

// What proves nothing about this upload proves nothing.
func TestProofsAreBoundToTheUpload(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	stolen := attestation.Digest(sha256.Sum256([]byte("another upload")))
	for kind, token := range map[attestation.Kind]string{
		attestation.PlayIntegrityClassic:  must(l.google.Classic(l.app, l.digest, l.now)),
		attestation.PlayIntegrityStandard: must(l.google.Standard(l.app, l.digest, l.now)),
		attestation.SafetyNet:             must(l.google.SafetyNet(l.app, l.digest, l.now)),
	} {
		_, err := l.Verify(t.Context(), "android", token, stolen, l.policy, l.now)
		wantRefused(t, err, "digest of this upload", token)
		got, err := l.verify("android", token, l.policy)
		wantKind(t, got, err, kind)
	}
}
