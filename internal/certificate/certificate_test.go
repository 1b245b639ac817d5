package certificate_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

const (
	issuer   = "org.example.verification"
	audience = "org.example.keyserver"
)

var secret = []byte("0123456789abcdef")

func TestVerify(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	sent := entest.Upload(1, 14, noon)
	onset := entest.DaysAgo(noon, 5)
	ha := certtest.New(t, issuer, audience)

	for _, tc := range []struct {
		why  string
		edit func(*certificate.SignRequest)
		want func(*certificate.Claims)
	}{
		{"confirmed", func(r *certificate.SignRequest) {}, func(c *certificate.Claims) {}},
		{"likely", func(r *certificate.SignRequest) { r.Report = exposure.Likely }, func(c *certificate.Claims) { c.Report = exposure.Likely }},
		{"negative", func(r *certificate.SignRequest) { r.Report = exposure.Revoked }, func(c *certificate.Claims) { c.Report = exposure.Revoked }},
		{"user-report", func(r *certificate.SignRequest) { r.Report = exposure.Self }, func(c *certificate.Claims) { c.Report = exposure.Self }},
		{"onset", func(r *certificate.SignRequest) { r.Onset = onset }, func(c *certificate.Claims) { c.Onset = onset }},
		{"no iat", func(r *certificate.SignRequest) { r.IssuedAt = time.Time{} }, func(c *certificate.Claims) {}},
		{"valid from now on", func(r *certificate.SignRequest) { r.NotBefore = noon }, func(c *certificate.Claims) {}},
		{"the authority's clock is a little ahead", func(r *certificate.SignRequest) {
			r.IssuedAt, r.NotBefore = noon.Add(5*time.Second), noon.Add(5*time.Second)
		}, func(c *certificate.Claims) {}},
		{"last second", func(r *certificate.SignRequest) { r.Expires = noon.Add(time.Second) }, func(c *certificate.Claims) { c.Expires = noon.Add(time.Second) }},
		{"expires after the end of time", func(r *certificate.SignRequest) { r.Expires = noon.AddDate(9000, 0, 0) }, func(c *certificate.Claims) { c.Expires = noon.Add(365 * 24 * time.Hour) }},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := certificate.Verify(ha.Certificate(t, sent, secret, noon, tc.edit), ha.Trusted(), sent, secret, noon)
			if err != nil {
				t.Fatal(err)
			}
			got.Expires = got.Expires.UTC()
			want := certificate.Claims{Issuer: issuer, Report: exposure.Confirmed, Expires: noon.Add(15 * time.Minute)}
			tc.want(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// forged is a certificate before it is signed.
type forged struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

// Every way to be wrong, one by one, each beside a good certificate.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	sent := entest.Upload(1, 14, noon)
	ours := certtest.New(t, issuer, audience)
	other := certtest.New(t, "org.example.other", audience)
	stranger := certtest.New(t, issuer, audience)
	other.Version = "v2"
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))

	trusted := ours.Trusted()
	trusted[other.Issuer] = other.Trusted()[other.Issuer]
	seconds := func(d time.Duration) int64 { return noon.Add(d).Unix() }

	for _, tc := range []struct {
		why  string
		edit func(*forged)
		rule string // empty: accepted
	}{
		{"nothing", func(f *forged) {}, ""},
		{"audience in a list", func(f *forged) { f.claims["aud"] = []string{audience} }, ""},
		{"fractional times", func(f *forged) { f.claims["exp"] = float64(seconds(time.Minute)) + 0.5 }, ""},
		{"unknown claims", func(f *forged) { f.claims["jti"], f.claims["trisk"] = "x", []int{1} }, ""},

		{"alg none", func(f *forged) { f.method, f.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }, "not ES256"},
		{"HS256 with the public key as its secret", func(f *forged) { f.method, f.key = jwt.SigningMethodHS256, []byte(ours.PEM(t)) }, "not ES256"},
		{"RS256", func(f *forged) { f.method, f.key = jwt.SigningMethodRS256, rsaKey }, "not ES256"},
		{"ES384", func(f *forged) { f.method, f.key = jwt.SigningMethodES384, p384 }, "not ES256"},
		{"says ES256, signed with HMAC", func(f *forged) {
			f.method, f.key, f.header["alg"] = jwt.SigningMethodHS256, []byte(ours.PEM(t)), "ES256"
		}, "not ES256"},
		{"says none, signed well", func(f *forged) { f.header["alg"] = "none" }, "not ES256"},
		{"an algorithm that nobody knows", func(f *forged) { f.header["alg"] = "ES256K" }, "not ES256"},
		{"lower case algorithm", func(f *forged) { f.header["alg"] = "es256" }, "not ES256"},
		{"no algorithm", func(f *forged) { delete(f.header, "alg") }, "not ES256"},
		{"algorithm of another type", func(f *forged) { f.header["alg"] = []string{"ES256"} }, "not ES256"},
		{"signed by a stranger", func(f *forged) { f.key = stranger.Private }, "signature"},

		{"no typ", func(f *forged) { delete(f.header, "typ") }, "typ"},
		{"another typ", func(f *forged) { f.header["typ"] = "at+jwt" }, "typ"},
		{"critical extensions", func(f *forged) { f.header["crit"] = []string{"b64"} }, "critical"},
		{"no kid", func(f *forged) { delete(f.header, "kid") }, "no kid"},
		{"empty kid", func(f *forged) { f.header["kid"] = "" }, "no kid"},
		{"a number as kid", func(f *forged) { f.header["kid"] = 1 }, "no kid"},
		{"unknown kid", func(f *forged) { f.header["kid"] = "v9" }, "kid"},
		{"kid of another authority", func(f *forged) { f.header["kid"] = other.Version }, "kid"},
		{"kid and key of another authority", func(f *forged) { f.header["kid"], f.key = other.Version, other.Private }, "kid"},
		{"a key of its own in the header", func(f *forged) {
			f.key, f.header["jwk"] = stranger.Private, map[string]string{"kty": "EC"}
		}, "signature"},

		{"no issuer", func(f *forged) { delete(f.claims, "iss") }, "issuer"},
		{"an issuer that the app does not list", func(f *forged) { f.claims["iss"] = "org.example.unlisted" }, "issuer"},
		{"the issuer of others", func(f *forged) { f.claims["iss"] = other.Issuer }, "kid"},
		{"an issuer of another type", func(f *forged) { f.claims["iss"] = 7 }, "not a JWT"},

		{"no audience", func(f *forged) { delete(f.claims, "aud") }, "audience"},
		{"empty audience", func(f *forged) { f.claims["aud"] = "" }, "audience"},
		{"another audience", func(f *forged) { f.claims["aud"] = "org.example.elsewhere" }, "audience"},
		{"audience in other letters", func(f *forged) { f.claims["aud"] = strings.ToUpper(audience) }, "audience"},
		{"for us and for others", func(f *forged) { f.claims["aud"] = []string{audience, "org.example.elsewhere"} }, "audience"},
		{"empty list of audiences", func(f *forged) { f.claims["aud"] = []string{} }, "audience"},
		{"audience of another type", func(f *forged) { f.claims["aud"] = 7 }, "not a JWT"},

		{"no exp", func(f *forged) { delete(f.claims, "exp") }, "no exp"},
		{"expires now", func(f *forged) { f.claims["exp"] = seconds(0) }, "expired"},
		{"expired a second ago", func(f *forged) { f.claims["exp"] = seconds(-time.Second) }, "expired"},
		{"exp of another type", func(f *forged) { f.claims["exp"] = "tomorrow" }, "not a JWT"},
		{"nbf in the future", func(f *forged) { f.claims["nbf"] = seconds(6 * time.Second) }, "nbf"},
		{"iat in the future", func(f *forged) { f.claims["iat"] = seconds(6 * time.Second) }, "iat"},

		{"no reportType", func(f *forged) { delete(f.claims, "reportType") }, "reportType"},
		{"another reportType", func(f *forged) { f.claims["reportType"] = "recursive" }, "reportType"},
		{"reportType in other letters", func(f *forged) { f.claims["reportType"] = "Confirmed" }, "reportType"},
		{"no tekmac", func(f *forged) { delete(f.claims, "tekmac") }, "tekmac"},
		{"empty tekmac", func(f *forged) { f.claims["tekmac"] = "" }, "tekmac"},
		{"tekmac of other keys", func(f *forged) {
			f.claims["tekmac"] = base64.StdEncoding.EncodeToString(certificate.MAC(sent[1:], secret))
		}, "tekmac"},
		{"onset as a text", func(f *forged) { f.claims["symptomOnsetInterval"] = "5" }, "symptomOnsetInterval is not a number"},
		{"much too long", func(f *forged) { f.claims["pad"] = strings.Repeat("x", 8192) }, "too long"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			f := &forged{
				method: jwt.SigningMethodES256,
				key:    ours.Private,
				header: map[string]any{"alg": "ES256", "typ": "JWT", "kid": ours.Version},
				claims: jwt.MapClaims{
					"iss":        issuer,
					"aud":        audience,
					"iat":        seconds(0),
					"exp":        seconds(time.Minute),
					"reportType": "confirmed",
					"tekmac":     base64.StdEncoding.EncodeToString(certificate.MAC(sent, secret)),
				},
			}
			tc.edit(f)
			text := f.sign(t)

			got, err := certificate.Verify(text, trusted, sent, secret, noon)
			if tc.rule == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantDenied(t, err, "health_authority_verification_certificate_invalid", tc.rule, text)
			if diff := cmp.Diff(certificate.Claims{}, got); diff != "" {
				t.Errorf("a refused certificate claims something (-want +got):\n%s", diff)
			}
		})
	}
}

func (f *forged) sign(t *testing.T) string {
	t.Helper()
	segment := func(v any) string { return base64.RawURLEncoding.EncodeToString(must(json.Marshal(v))) }
	text := segment(f.header) + "." + segment(f.claims)
	signature, err := f.method.Sign(text, f.key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// What is not a JWT at all, and what was damaged on its way.
func TestVerifyRefusesMangledText(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	sent := entest.Upload(1, 2, noon)
	ha := certtest.New(t, issuer, audience)
	good := ha.Certificate(t, sent, secret, noon)
	parts := strings.Split(good, ".")
	segment := base64.RawURLEncoding.EncodeToString

	for _, tc := range []struct{ why, text, rule string }{
		{"nothing", "", "not a JWT"},
		{"one word", "certificate", "not a JWT"},
		{"only dots", "..", "not a JWT"},
		{"many dots", strings.Repeat(".", 8192), "not a JWT"},
		{"huge", strings.Repeat("A", 8193), "too long"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature"},
		{"two parts", parts[0] + "." + parts[1], "not a JWT"},
		{"four parts", good + ".AAAA", "not a JWT"},
		{"truncated", good[:len(good)-4], "not"}, // where depends on the bits at the cut
		{"longer signature", good + "AAAA", "signature"},
		{"blank behind", good + " ", "not a JWT"},
		{"line break within", parts[0] + ".\n" + parts[1] + "." + parts[2], "not a JWT"},
		{"line break in the signature", good + "\r\n", "not a JWT"},
		{"padded", good + "==", "not a JWT"},
		{"other header", segment([]byte(`{"alg":"ES256","typ":"JWT","kid":"v1" }`)) + "." + parts[1] + "." + parts[2], "signature"},
		{"header is no object", segment([]byte(`[]`)) + "." + parts[1] + "." + parts[2], "not a JWT"},
		{"header is null", segment([]byte(`null`)) + "." + parts[1] + "." + parts[2], "not ES256"},
		{"payload is null", parts[0] + "." + segment([]byte(`null`)) + "." + parts[2], "issuer"},
		{"payload is a list", parts[0] + "." + segment([]byte(`[]`)) + "." + parts[2], "not a JWT"},
		{"payload has two values", parts[0] + "." + segment([]byte(`{}{}`)) + "." + parts[2], "not a JWT"},
		{"signature of zeros", parts[0] + "." + parts[1] + "." + segment(make([]byte, 64)), "signature"},
		{"signature of ones", parts[0] + "." + parts[1] + "." + strings.Repeat("_", 85) + "w", "signature"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := certificate.Verify(tc.text, ha.Trusted(), sent, secret, noon)
			wantDenied(t, err, "health_authority_verification_certificate_invalid", tc.rule, tc.text)
		})
	}
}

func TestVerifyKeyWindows(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	sent := entest.Upload(1, 2, noon)
	ha := certtest.New(t, issuer, audience)
	stranger := certtest.New(t, issuer, audience)
	text := ha.Certificate(t, sent, secret, noon)
	public := &ha.Private.PublicKey

	for _, tc := range []struct {
		why  string
		keys []certificate.Key
		ok   bool
	}{
		{"always valid", []certificate.Key{{Version: "v1", Public: public}}, true},
		{"valid from this instant", []certificate.Key{{Version: "v1", Public: public, From: noon}}, true},
		{"not yet valid", []certificate.Key{{Version: "v1", Public: public, From: noon.Add(1)}}, false},
		{"valid for an instant more", []certificate.Key{{Version: "v1", Public: public, Thru: noon.Add(1)}}, true},
		{"no longer valid", []certificate.Key{{Version: "v1", Public: public, Thru: noon}}, false},
		{"within a window", []certificate.Key{{Version: "v1", Public: public, From: noon.Add(-1), Thru: noon.Add(1)}}, true},
		{"no keys", nil, false},
		{"a key that could not be parsed", []certificate.Key{{Version: "v1"}}, false},
		{"another version", []certificate.Key{{Version: "V1", Public: public}}, false},
		{"replaced under the same version", []certificate.Key{
			{Version: "v1", Public: &stranger.Private.PublicKey, Thru: noon},
			{Version: "v1", Public: public, From: noon},
		}, true},
		{"the right key under another version", []certificate.Key{
			{Version: "v1", Public: &stranger.Private.PublicKey},
			{Version: "v2", Public: public},
		}, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			trusted := map[string]certificate.Authority{issuer: {Issuer: issuer, Audience: audience, Keys: tc.keys}}
			_, err := certificate.Verify(text, trusted, sent, secret, noon)
			if tc.ok && err != nil {
				t.Error(err)
			}
			if !tc.ok {
				wantDenied(t, err, "health_authority_verification_certificate_invalid", "", text)
			}
		})
	}
}

// An authority whose audience nobody configured admits nobody.
func TestVerifyWithoutAudience(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	ha := certtest.New(t, issuer, "")
	text := ha.Certificate(t, nil, secret, noon)
	_, err := certificate.Verify(text, ha.Trusted(), nil, secret, noon)
	wantDenied(t, err, "health_authority_verification_certificate_invalid", "audience", text)
}

// Odd onsets are no reason to refuse a diagnosis.
func TestVerifyOnset(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	ha := certtest.New(t, issuer, audience)
	for raw, want := range map[string]exposure.Interval{
		"2674296":       2674296,
		"2674296.0":     2674296,
		"2.674296e6":    2674296,
		"0":             0,
		"null":          0,
		"-1":            0,
		"1.5":           0,
		"2147483647":    1<<31 - 1,
		"2147483648":    0,
		"4294967297":    0,
		"-2147483649":   0,
		"1e300":         0,
		"1000000000000": 0,
	} {
		f := forged{
			method: jwt.SigningMethodES256, key: ha.Private,
			header: map[string]any{"alg": "ES256", "typ": "JWT", "kid": "v1"},
			claims: jwt.MapClaims{
				"iss": issuer, "aud": audience, "exp": noon.Add(time.Minute).Unix(), "reportType": "likely",
				"tekmac":               base64.StdEncoding.EncodeToString(certificate.MAC(nil, secret)),
				"symptomOnsetInterval": json.RawMessage(raw),
			},
		}
		got, err := certificate.Verify(f.sign(t), ha.Trusted(), nil, secret, noon)
		if err != nil || got.Onset != want {
			t.Errorf("onset %s gave %d, %v, want %d", raw, got.Onset, err, want)
		}
	}
}

func TestVerifyStats(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	ha := certtest.New(t, issuer, "somebody else: diagnoses have another audience")
	token := func(edit func(*certificate.SignRequest)) string {
		r := certificate.SignRequest{Issuer: issuer, Audience: "stats", IssuedAt: noon, Expires: noon.Add(time.Minute)}
		edit(&r)
		return must(certificate.Sign(ha.Private, "v1", r))
	}
	same := func(*certificate.SignRequest) {}

	for _, tc := range []struct {
		why      string
		header   string
		audience string
		rule     string // empty: accepted
	}{
		{"as it should be", "Bearer " + token(same), "stats", ""},
		{"scheme in small letters", "bearer " + token(same), "stats", ""},
		{"no header", "", "stats", "Bearer"},
		{"only the scheme", "Bearer", "stats", "Bearer"},
		{"scheme and a blank", "Bearer ", "stats", "Bearer"},
		{"no scheme", token(same), "stats", "Bearer"},
		{"another scheme", "Basic " + token(same), "stats", "Bearer"},
		{"noise", "Bearer noise", "stats", "not a JWT"},
		{"server without audience", "Bearer " + token(func(r *certificate.SignRequest) { r.Audience = "" }), "", "audience"},
		{"another audience", "Bearer " + token(func(r *certificate.SignRequest) { r.Audience = "x" }), "stats", "audience"},
		{"expired", "Bearer " + token(func(r *certificate.SignRequest) { r.Expires = noon }), "stats", "expired"},
		{"unknown issuer", "Bearer " + token(func(r *certificate.SignRequest) { r.Issuer = "x" }), "stats", "issuer"},
		{"a diagnosis certificate is none", "Bearer " + ha.Certificate(t, nil, secret, noon), "stats", "audience"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := certificate.VerifyStats(tc.header, ha.Trusted(), tc.audience, noon)
			if tc.rule != "" {
				wantDenied(t, err, "unauthorized", tc.rule, tc.header)
				return
			}
			if err != nil || got != issuer {
				t.Errorf("VerifyStats gave %q, %v, want %q", got, err, issuer)
			}
		})
	}
}

// Key managers sign with keys that never show themselves, and give ASN.1 in
// which short numbers are short.
func TestSign(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	ha := certtest.New(t, issuer, audience)
	for range 600 { // about one signature in 128 has a short number
		text := must(certificate.Sign(opaque{ha.Private}, "v1", ha.Request(nil, secret, noon)))
		if _, err := certificate.Verify(text, ha.Trusted(), nil, secret, noon); err != nil {
			t.Fatal(err)
		}
	}
	for _, wrong := range []crypto.Signer{
		must(rsa.GenerateKey(rand.Reader, 2048)),
		must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
	} {
		if _, err := certificate.Sign(wrong, "v1", ha.Request(nil, secret, noon)); err == nil {
			t.Errorf("a %T signed a certificate", wrong)
		}
	}
}

type opaque struct{ crypto.Signer }

// FuzzVerify: no text makes it panic, none that was not signed is believed,
// and no error repeats it.
func FuzzVerify(f *testing.F) {
	noon := entest.Noon()
	sent := entest.Upload(1, 2, noon)
	ha := certtest.New(f, issuer, audience)
	trusted := ha.Trusted()
	good := ha.Certificate(f, sent, secret, noon)
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add("eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoidjEifQ.e30.")
	f.Add("eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InYxIn0.bnVsbA.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := certificate.Verify(text, trusted, sent, secret, noon)
		if text == good || (err == nil && sameButForSignature(ha, text)) {
			return
		}
		wantDenied(t, err, "health_authority_verification_certificate_invalid", "", text)
	})
}

// sameButForSignature checks a signature with other code: any that verifies
// over signed words is as good as ours.
func sameButForSignature(ha *certtest.Authority, text string) bool {
	i := strings.LastIndexByte(text, '.')
	raw, err := base64.RawURLEncoding.DecodeString(text[i+1:])
	if err != nil || len(raw) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(text[:i]))
	return ecdsa.Verify(&ha.Private.PublicKey, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
}

// wantDenied also looks for what must not be in an error: any stretch of what
// was sent.
func wantDenied(t *testing.T, err error, code, rule, sent string) {
	t.Helper()
	if errs.KindOf(err) != errs.KindDenied || errs.CodeOf(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	if !strings.Contains(err.Error(), rule) {
		t.Errorf("the error is %q, want the rule about %q", err, rule)
	}
	for i := 0; i+12 <= len(sent); i += 12 {
		if strings.Contains(err.Error(), sent[i:i+12]) {
			t.Fatalf("the error repeats what was sent: %v", err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkVerify(b *testing.B) {
	noon := entest.Noon()
	sent := entest.Upload(1, 14, noon)
	ha := certtest.New(b, issuer, audience)
	trusted, text := ha.Trusted(), ha.Certificate(b, sent, secret, noon)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := certificate.Verify(text, trusted, sent, secret, noon); err != nil {
			b.Fatal(err)
		}
	}
}
