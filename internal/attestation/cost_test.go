package attestation_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/exposure"
)

type yes struct{}

func (yes) Check(context.Context, string, attestation.Environment, string) error { return nil }
func (yes) Decode(context.Context, string, string) ([]byte, error)               { return []byte(`{}`), nil }

// hostile are inputs that make careless parsers allocate far more than they
// were sent.
func hostile(l *lab) map[string][]byte {
	nested := func(n int) []byte { return []byte(strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n)) }
	return map[string][]byte{
		"empty":              {},
		"zeros":              make([]byte, 16<<10),
		"deep arrays":        bytes.Repeat([]byte{0x81}, 16<<10),
		"deep maps":          bytes.Repeat([]byte{0xa1, 0x01}, 8<<10),
		"array of 4 billion": {0x9a, 0xff, 0xff, 0xff, 0xff},
		"map of 4 billion":   {0xba, 0xff, 0xff, 0xff, 0xff},
		"endless string":     {0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"many empty arrays":  append([]byte{0x99, 0x3f, 0xf0}, bytes.Repeat([]byte{0x80}, 0x3ff0)...),
		"certificates":       manyCertificates(),
		"a genuine object":   must(l.apple.Attest(l.app, l.digest[:], l.now)),
		"extensions":         append(make([]byte, 164), bytes.Repeat([]byte{0xa1}, 16<<10)...),
		"deep JSON":          nested(2000),
		"JSON lists":         []byte(`{"appIntegrity":{"certificateSha256Digest":[` + strings.Repeat(`"",`, 5000) + `""]}}`),
		"JSON keys":          []byte(`{` + strings.Repeat(`"a":0,`, 2500) + `"b":0}`),
		"header":             []byte(base64.RawURLEncoding.EncodeToString([]byte(`{"x5c":[`+strings.Repeat(`"",`, 3900)+`""]}`)) + ".."),
	}
}

func manyCertificates() []byte {
	x := []byte{0xa1, 0x67, 'a', 't', 't', 'S', 't', 'm', 't', 0xa1, 0x63, 'x', '5', 'c', 0x99, 0x3f, 0xf0}
	return append(x, bytes.Repeat([]byte{0x40}, 0x3ff0)...)
}

// No parser may be made to allocate more than a small multiple of what it was
// sent: a slice header a certificate is the most.
func TestParsersAllocateLittle(t *testing.T) {
	l := newLab(t)
	const multiple, base = 40, 24 << 10
	for name, parse := range attestation.Parsers() {
		for why, input := range hostile(l) {
			if used, most := allocated(func() { parse(input) }), uint64(multiple*len(input)+base); used > most {
				t.Errorf("%s of %s: %d bytes for an input of %d, want at most %d", name, why, used, len(input), most)
			}
		}
	}
	// The whole way, for what is as long as it may be.
	for why, proof := range map[string]string{
		"noise":   strings.Repeat("A", 16<<10),
		"dots":    strings.Repeat(".", 16<<10),
		"a map":   base64.StdEncoding.EncodeToString(append([]byte{0xa3}, make([]byte, 12<<10)...)),
		"a bomb":  bomb(l.google.Decryption),
		"headers": strings.Repeat(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)), 100) + "..",
	} {
		for _, platform := range []string{"android", "ios"} {
			used := allocated(func() {
				_, _ = l.verify(platform, proof, l.android(only(attestation.PlayIntegrityClassic, attestation.SafetyNet)))
			})
			if most := uint64(multiple*len(proof) + base); used > most {
				t.Errorf("%s from %s: %d bytes for a proof of %d, want at most %d", why, platform, used, len(proof), most)
			}
		}
	}
}

// allocated is the least of a few runs: others may be allocating too.
func allocated(f func()) uint64 {
	least := ^uint64(0)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// An upload is judged in half a millisecond of one core where nobody is asked.
// Nearly all of App Attest's is one check of a P-384 signature.
func BenchmarkVerify(b *testing.B) {
	l := newLab(b)
	for name, tc := range map[string]struct{ platform, proof string }{
		"PlayIntegrityClassic": {"android", must(l.google.Classic(l.app, l.digest, l.now))},
		"SafetyNet":            {"android", must(l.google.SafetyNet(l.app, l.digest, l.now))},
		"AppAttest":            {"ios", must(l.apple.Proof(l.app, l.digest, l.now))},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.verify(tc.platform, tc.proof, l.policy); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRefuse(b *testing.B) {
	l := newLab(b)
	other := must(forge.NewApple(l.app.TeamID, nil))
	foreign := must(other.Proof(l.app, l.digest, l.now))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.verify("ios", foreign, l.policy); err == nil {
			b.Fatal("it was believed")
		}
	}
}

// FuzzParsers: no bytes make a parser panic, or allocate without bound.
func FuzzParsers(f *testing.F) {
	l := newLab(f)
	for _, input := range hostile(l) {
		f.Add(input)
	}
	f.Add(must(json.Marshal(l.policy)))
	f.Add(must(json.Marshal(forge.Verdict(l.app, l.now))))
	f.Add(forge.Extensions(4))
	parsers := attestation.Parsers()
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, parse := range parsers {
			parse(input)
		}
	})
}

// FuzzVerify: no text makes the verifier panic, none but the genuine proof is
// believed, and no error repeats what was sent.
func FuzzVerify(f *testing.F) {
	l := newLab(f)
	classic, safetyNet := must(l.google.Classic(l.app, l.digest, l.now)), must(l.google.SafetyNet(l.app, l.digest, l.now))
	object := must(l.apple.Proof(l.app, l.digest, l.now))
	for _, seed := range []string{classic, safetyNet, object, "a.b.c", "....", ""} {
		f.Add("android", seed)
		f.Add("ios", seed)
	}
	policy := l.android(only(attestation.PlayIntegrityClassic, attestation.SafetyNet))
	policy.IOS = l.ios(onlyIOS(attestation.AppAttest)).IOS
	f.Fuzz(func(t *testing.T, platform, proof string) {
		_, err := l.verify(platform, proof, policy)
		if err == nil && parts(proof) != parts(classic) && parts(proof) != parts(safetyNet) && signed(proof) != signed(object) {
			t.Fatal("a proof that nobody made is believed")
		}
		if err != nil {
			wantSilent(t, err, proof)
		}
	})
}

// parts decodes a token: the last characters of base64 can be written in
// several ways.
func parts(token string) (text string) {
	for part := range strings.SplitSeq(token, ".") {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return token
		}
		text += "." + string(raw)
	}
	return text
}

// signed is what of an object is signed: the receipt, which comes before the
// authenticator data, is not.
func signed(proof string) string {
	raw, err := exposure.DecodeBase64(proof)
	i, j := bytes.Index(raw, []byte("receipt")), bytes.Index(raw, []byte("authData"))
	if err != nil || i < 0 || j < i {
		return proof
	}
	return string(raw[:i]) + string(raw[j:])
}

// FuzzAssertion: nothing but what the key signed is believed.
func FuzzAssertion(f *testing.F) {
	l := newLab(f)
	good := must(forge.Assert(l.app, l.google.Signing, l.digest[:], 7))
	f.Add(good)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		counter, err := attestation.VerifyAssertion(raw, l.digest[:], &l.google.Signing.PublicKey, *l.policy.IOS)
		if err == nil && counter != 7 {
			t.Fatal("an assertion that nobody made is believed")
		}
	})
}
