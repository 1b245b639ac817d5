package exportfile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

var payload = []byte(`{"sequence":7,"time":"2020-11-05T12:00:00Z","files":[]}`)

func signIndex(t *testing.T, signers ...exportfile.Signer) []byte {
	t.Helper()
	sig, err := exportfile.SignIndex(payload, signers)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// attached puts the payload where a JWS that is not detached has it.
func attached(t *testing.T, sig []byte) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(sig, &m); err != nil {
		t.Fatal(err)
	}
	if _, there := m["payload"]; there {
		t.Fatal("the payload is not detached")
	}
	m["payload"] = base64.RawURLEncoding.EncodeToString(payload)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// Somebody else's library verifies what we sign.
func TestSignIndexIsReadByOthers(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	parsed, err := jose.ParseSignedJSON(attached(t, signIndex(t, a, b)), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	for i, public := range []exportfile.PublicKey{publicA, publicB} {
		place, s, got, err := parsed.VerifyMulti(public.Key)
		if err != nil {
			t.Fatal(err)
		}
		if place != i || s.Header.KeyID != public.ID+"-"+public.Version || !bytes.Equal(got, payload) {
			t.Errorf("signature %d is by %s over %q", place, s.Header.KeyID, got)
		}
	}
}

// We verify what somebody else's library signs.
func TestVerifyIndexReadsOthers(t *testing.T) {
	t.Parallel()
	s, public := signer(t, "310", "v1")
	other, _ := signer(t, "310", "v0")
	keyed := func(s exportfile.Signer) jose.SigningKey {
		return jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.Key, KeyID: s.ID + "-" + s.Version}}
	}
	maker, err := jose.NewMultiSigner([]jose.SigningKey{keyed(s), keyed(other)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := maker.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(made.FullSerialize()), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "payload")
	sig, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := exportfile.VerifyIndex(payload, sig, []exportfile.PublicKey{public}); err != nil {
		t.Error(err)
	}
}

func TestVerifyIndex(t *testing.T) {
	t.Parallel()
	a, publicA := signer(t, "310", "v2")
	b, publicB := signer(t, "310", "v1")
	_, foreign := signer(t, "310", "v1")
	good := signIndex(t, a, b)
	both := []exportfile.PublicKey{publicA, publicB}
	type words struct {
		Payload    any                 `json:"payload,omitempty"`
		Signatures []map[string]string `json:"signatures"`
	}
	edited := func(edit func(*words)) []byte {
		var w words
		if err := json.Unmarshal(good, &w); err != nil {
			t.Fatal(err)
		}
		edit(&w)
		out, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	header := func(text string) []byte {
		return edited(func(w *words) { w.Signatures[0]["protected"] = base64.RawURLEncoding.EncodeToString([]byte(text)) })
	}
	for _, tc := range []struct {
		why     string
		index   []byte
		sig     []byte
		trusted []exportfile.PublicKey
		want    string
	}{
		{"all keys", payload, good, both, ""},
		{"one key", payload, good, []exportfile.PublicKey{publicB}, ""},
		{"nobody trusted", payload, good, nil, "signature"},
		{"a key of the same name", payload, good, []exportfile.PublicKey{foreign}, "signature"},
		{"one good, one of the same name", payload, good, []exportfile.PublicKey{publicA, foreign}, "signature"},
		{"another index", []byte("{}"), good, both, "signature"},
		{"the same index with a blank", append([]byte(" "), payload...), good, both, "signature"},
		{"a payload of its own", payload, edited(func(w *words) { w.Payload = "e30" }), both, "message"},
		{"nothing", payload, nil, both, "message"},
		{"no signatures", payload, []byte("{}"), both, "signature_count"},
		{"eleven", payload, edited(func(w *words) {
			for range 9 {
				w.Signatures = append(w.Signatures, w.Signatures[0])
			}
		}), both, "signature_count"},
		{"too long", payload, bytes.Repeat([]byte(" "), 70_000), both, "size"},
		{"a signature that is no base64", payload, edited(func(w *words) { w.Signatures[0]["signature"] = "!" }), both, "signature_encoding"},
		{"a signature of another length", payload, edited(func(w *words) { w.Signatures[0]["signature"] = "AAAA" }), both, "signature_encoding"},
		{"a signature of zeros", payload, edited(func(w *words) {
			w.Signatures[0]["signature"] = base64.RawURLEncoding.EncodeToString(make([]byte, 64))
		}), both, "signature"},
		{"a header that is no base64", payload, edited(func(w *words) { w.Signatures[0]["protected"] = "!" }), both, "message"},
		{"a header that is no JSON", payload, header("ES256"), both, "message"},
		{"no algorithm", payload, header(`{"alg":"none","kid":"310-v2"}`), both, "signature_algorithm"},
		{"a shared secret", payload, header(`{"alg":"HS256","kid":"310-v2"}`), both, "signature_algorithm"},
		{"a payload that is not encoded", payload, header(`{"alg":"ES256","kid":"310-v2","b64":false,"crit":["b64"]}`), both, "message"},
		{"a header with a key of its own", payload, header(`{"alg":"ES256","kid":"310-v2","jwk":{}}`), both, "message"},
		{"two headers", payload, header(`{"alg":"ES256","kid":"310-v2"}{}`), both, "message"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			checkBroken(t, exportfile.VerifyIndex(tc.index, tc.sig, tc.trusted), tc.want)
		})
	}
}

// r or s begins with a zero byte once in 128 signatures: DER leaves it out, a
// JWS keeps it.
func TestSignIndexKeepsZeros(t *testing.T) {
	t.Parallel()
	s, public := signer(t, "310", "v1")
	for range 300 {
		if err := exportfile.VerifyIndex(payload, signIndex(t, s), []exportfile.PublicKey{public}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSignIndexRefuses(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	for _, tc := range []struct {
		why     string
		signers []exportfile.Signer
		want    string
	}{
		{"nobody", nil, "signature_count"},
		{"the same twice", []exportfile.Signer{s, s}, "signature_name"},
		{"a name that phones don't read", []exportfile.Signer{{Key: s.Key, ID: "3-10", Version: "v1"}}, "signature_name"},
		{"no key", []exportfile.Signer{{ID: "310", Version: "v1"}}, "signer"},
		{"a manager that is away", []exportfile.Signer{{Key: strangeKey{s.Key.Public(), func([]byte) ([]byte, error) {
			return nil, errors.New("away")
		}}, ID: "310", Version: "v1"}}, "internal_error"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := exportfile.SignIndex(payload, tc.signers)
			if errs.CodeOf(err) != tc.want || errs.KindOf(err) != errs.Internal {
				t.Errorf("err = %v, want an internal one with code %s", err, tc.want)
			}
		})
	}
}
