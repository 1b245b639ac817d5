package jwks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

// entry is a key in a set, as its JSON.
type entry map[string]any

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// published is a key as a good authority publishes it; edits change that.
func published(t testing.TB, kid string, key *ecdsa.PrivateKey, edits ...func(entry)) entry {
	t.Helper()
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	size := (len(point) - 1) / 2
	e := entry{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
		"x": encode(point[1 : 1+size]), "y": encode(point[1+size:]),
	}
	for _, edit := range edits {
		edit(e)
	}
	return e
}

func with(name string, value any) func(entry) { return func(e entry) { e[name] = value } }
func without(name string) func(entry)         { return func(e entry) { delete(e, name) } }

// exposed is what a private key looks like.
func exposed(e entry) { e["d"] = encode(make([]byte, 32)) }

func rsa(kid string) entry {
	return entry{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": encode(make([]byte, 256)), "e": "AQAB"}
}

// set is RFC 7517's form.
func set(entries ...entry) string { return text(map[string]any{"keys": append([]entry{}, entries...)}) }

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func pem(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	b, err := keys.PublicPEM(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParse(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v1, v2 := published(t, "v1", a), published(t, "v2", b)
	key := func(version string, k *ecdsa.PrivateKey) store.DiscoveredKey {
		return store.DiscoveredKey{Version: version, PublicKey: pem(t, k)}
	}
	one, two := []store.DiscoveredKey{key("v1", a)}, []store.DiscoveredKey{key("v1", a), key("v2", b)}
	many := func(n int) (all []entry) {
		for i := range n {
			all = append(all, rsa(fmt.Sprint(i)))
		}
		return all
	}
	strange := "clé 1/2 \"π\" \\ 🔑"

	for _, tc := range []struct {
		why  string
		text string
		want jwks.Set
		code string
	}{
		{"an object", set(v1, v2), jwks.Set{Keys: two}, ""},
		{"a bare array", text([]entry{v2, v1}), jwks.Set{Keys: two}, ""},
		{"with white space around it", " \r\n\t" + text([]entry{v1}) + "\n", jwks.Set{Keys: one}, ""},
		{"members that nobody knows", set(published(t, "v1", a, with("x5c", []string{"damaged"}), with("name", 7))), jwks.Set{Keys: one}, ""},
		{"an object that says more", `{"issuer":"x",` + set(v1)[1:], jwks.Set{Keys: one}, ""},
		{"without use and algorithm", set(published(t, "v1", a, without("use"), without("alg"))), jwks.Set{Keys: one}, ""},
		{"to verify with", set(published(t, "v1", a, without("use"), with("key_ops", []string{"verify"}))), jwks.Set{Keys: one}, ""},
		{"serialised with all its fields", set(published(t, "v1", a, with("d", nil), with("key_ops", nil))), jwks.Set{Keys: one}, ""},
		{"the same key twice", set(v1, v1), jwks.Set{Keys: one}, ""},
		{"one key under two names", set(v1, published(t, "v2", a)), jwks.Set{Keys: []store.DiscoveredKey{key("v1", a), key("v2", a)}}, ""},
		{"a strange kid", set(published(t, strange, a)), jwks.Set{Keys: []store.DiscoveredKey{key(strange, a)}}, ""},
		{"the longest kid", set(published(t, strings.Repeat("k", 255), a)), jwks.Set{Keys: []store.DiscoveredKey{key(strings.Repeat("k", 255), a)}}, ""},
		{"as many keys as are read", set(append(many(99), v1)...), jwks.Set{Keys: one, Ignored: map[string]int{"another type": 99}}, ""},

		{"an RSA key beside it", set(v1, rsa("v2")), jwks.Set{Keys: one, Ignored: map[string]int{"another type": 1}}, ""},
		{"an RSA key of the same name, which verifies no ES256", set(v1, rsa("v1")), jwks.Set{Keys: one, Ignored: map[string]int{"another type": 1}}, ""},
		{"a private RSA key beside it", set(v1, entry{"kty": "RSA", "kid": "v2", "d": "AQAB"}), jwks.Set{Keys: one, Ignored: map[string]int{"another type": 1}}, ""},
		{"a secret", set(v1, entry{"kty": "oct", "kid": "v1", "k": "AQAB"}), jwks.Set{Keys: one, Ignored: map[string]int{"another type": 1}}, ""},
		{"P-384", set(v1, published(t, "v2", p384, with("crv", "P-384"), with("alg", "ES384"))), jwks.Set{Keys: one, Ignored: map[string]int{"another curve": 1}}, ""},
		{"a curve like ours", set(v1, published(t, "v2", b, with("crv", "secp256k1"))), jwks.Set{Keys: one, Ignored: map[string]int{"another curve": 1}}, ""},
		{"to encrypt with", set(v1, published(t, "v2", b, with("use", "enc"))), jwks.Set{Keys: one, Ignored: map[string]int{"another use": 1}}, ""},
		{"to agree on keys with", set(v1, published(t, "v2", b, with("key_ops", []string{"deriveKey"}))), jwks.Set{Keys: one, Ignored: map[string]int{"another use": 1}}, ""},
		{"another algorithm", set(v1, published(t, "v2", b, with("alg", "ECDH-ES"))), jwks.Set{Keys: one, Ignored: map[string]int{"another algorithm": 1}}, ""},
		{"no kid", set(v1, published(t, "v2", b, without("kid"))), jwks.Set{Keys: one, Ignored: map[string]int{"no kid": 1}}, ""},
		{"an empty kid", set(v1, published(t, "", b)), jwks.Set{Keys: one, Ignored: map[string]int{"no kid": 1}}, ""},
		{"a kid too long", set(v1, published(t, strings.Repeat("k", 256), b)), jwks.Set{Keys: one, Ignored: map[string]int{"a kid too long or not printable": 1}}, ""},
		{"a kid that no database takes", set(v1, published(t, "v\x002", b)), jwks.Set{Keys: one, Ignored: map[string]int{"a kid too long or not printable": 1}}, ""},
		{"a kid that writes its own log lines", set(v1, published(t, "v2\nlevel=ERROR", b)), jwks.Set{Keys: one, Ignored: map[string]int{"a kid too long or not printable": 1}}, ""},
		{"a kid that reads as another", set(v1, published(t, "v1\u200b", b)), jwks.Set{Keys: one, Ignored: map[string]int{"a kid too long or not printable": 1}}, ""},
		{"kids of no text, which may all be the same", set(v1, published(t, "\xff", b)), jwks.Set{Keys: one, Ignored: map[string]int{"a kid too long or not printable": 1}}, ""},

		{"a private key beside a good one", set(v1, published(t, "v2", b, exposed)), jwks.Set{Keys: one, Exposed: []string{pem(t, b)}}, ""},
		{"the same key, with and without", set(v1, v2, published(t, "v3", b, exposed)), jwks.Set{Keys: one, Exposed: []string{pem(t, b)}}, ""},
		{"a private key for another use", set(v1, published(t, "v2", b, exposed, with("use", "enc"))), jwks.Set{Keys: one, Exposed: []string{pem(t, b)}}, ""},
		{"a private key without a kid", set(v1, published(t, "v2", b, exposed, without("kid"))), jwks.Set{Keys: one, Exposed: []string{pem(t, b)}}, ""},
		{"only a private key", set(published(t, "v1", a, exposed)), jwks.Set{Exposed: []string{pem(t, a)}}, "jwks_empty"},
		{"a private key in an ambiguous set", set(v1, published(t, "v1", b), published(t, "v3", b, exposed)), jwks.Set{Exposed: []string{pem(t, b)}}, "jwks_ambiguous"},

		{"two keys of one name", set(v1, published(t, "v1", b)), jwks.Set{}, "jwks_ambiguous"},
		{"however far apart", set(v1, v2, rsa("v3"), published(t, "v1", b)), jwks.Set{Ignored: map[string]int{"another type": 1}}, "jwks_ambiguous"},
		{"no key", set(), jwks.Set{}, "jwks_empty"},
		{"no key, bare", "[]", jwks.Set{}, "jwks_empty"},
		{"nothing about keys", "{}", jwks.Set{}, "jwks_empty"},
		{"no list", `{"keys":null}`, jwks.Set{}, "jwks_empty"},
		{"null", "null", jwks.Set{}, "jwks_empty"},
		{"keys of others only", set(rsa("v1")), jwks.Set{Ignored: map[string]int{"another type": 1}}, "jwks_empty"},
		{"one key too many", set(append(many(100), v1)...), jwks.Set{}, "jwks_many"},
		{"10 000 keys", set(many(10_000)...), jwks.Set{}, "jwks_many"},
		{"nothing", "", jwks.Set{}, "jwks_text"},
		{"a web page", "<!DOCTYPE html><p>Sign in", jwks.Set{}, "jwks_text"},
		{"half of it", set(v1, v2)[:300], jwks.Set{}, "jwks_text"},
		{"two sets", set(v1) + set(v2), jwks.Set{}, "jwks_text"},
		{"two lists", `{"keys":[],"keys":[` + text(v1) + `]}`, jwks.Set{}, "jwks_text"},
		{"a list in other letters", `{"Keys":[` + text(v1) + `]}`, jwks.Set{}, "jwks_empty"},
		{"keys by name", `{"keys":{"v1":` + text(v1) + `}}`, jwks.Set{}, "jwks_text"},
		{"a key alone", text(v1), jwks.Set{}, "jwks_empty"},
		{"keys that are texts", `["v1"]`, jwks.Set{}, "jwks_text"},
		{"a key with two names", `[{"kid":"v1",` + text(v2)[1:] + `]`, jwks.Set{}, "jwks_text"},
		{"a number for a name", set(v2, published(t, "v1", a, with("kid", 1))), jwks.Set{}, "jwks_text"},
		{"very deep", strings.Repeat("[", 30_000), jwks.Set{}, "jwks_text"},
		{"very deep, and whole", `{"keys":[` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `]}`, jwks.Set{}, "jwks_text"},
		{"a point not on the curve", set(v1, published(t, "v2", b, with("x", v1["x"]))), jwks.Set{}, "jwks_point"},
		{"no point", set(v1, published(t, "v2", b, without("y"))), jwks.Set{}, "jwks_point"},
		{"the point at infinity", set(v1, published(t, "v2", b, with("x", encode(make([]byte, 32))), with("y", encode(make([]byte, 32))))), jwks.Set{}, "jwks_point"},
		{"half a coordinate", set(v1, published(t, "v2", b, with("x", "AAAA"))), jwks.Set{}, "jwks_point"},
		{"not base64", set(v1, published(t, "v2", b, with("x", "???"))), jwks.Set{}, "jwks_point"},
		{"a curve that it is not", set(v1, published(t, "v2", p384)), jwks.Set{}, "jwks_point"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := jwks.Parse([]byte(tc.text))
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("set (-want +got):\n%s", diff)
			}
			if tc.code == "" && err != nil || tc.code != "" && (errs.CodeOf(err) != tc.code || errs.KindOf(err) != errs.KindInvalid) {
				t.Errorf("error %s: %v; want %q", errs.CodeOf(err), err, tc.code)
			}
		})
	}
}

// Whatever is at the address, it gives usable keys or a reason, and no panic.
func FuzzParse(f *testing.F) {
	a, b := newKey(f), newKey(f)
	f.Add(set(published(f, "v1", a), published(f, "v2", b), rsa("v3")))
	f.Add(text([]entry{published(f, "v1", a, exposed)}))
	f.Add(set(published(f, "v1", a), published(f, "v1", b)))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := jwks.Parse([]byte(text))
		if (err == nil) != (len(s.Keys) > 0) {
			t.Fatalf("%d keys, and the error %v", len(s.Keys), err)
		}
		last := ""
		for _, k := range s.Keys {
			if k.Version <= last || len(k.Version) > 255 || strings.ContainsRune(k.Version, 0) {
				t.Errorf("key %q after %q", k.Version, last)
			}
			if _, err := keys.ParsePublicPEM([]byte(k.PublicKey)); err != nil {
				t.Errorf("a key that cannot be used: %v", err)
			}
			last = k.Version
		}
	})
}
