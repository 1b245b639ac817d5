package certificate_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"testing"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

// The vectors that phones and verification servers agree on.
func TestMACVectors(t *testing.T) {
	t.Parallel()
	secret := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10}
	keys := func(risk1, risk2 int32) []exposure.Submitted {
		return []exposure.Submitted{
			{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 1, Period: 144, Risk: risk1},
			{Text: "dPCphLzfG4uzXneNimkPRQ==", Start: 144, Period: 144, Risk: risk2},
		}
	}
	const withoutRisk = "J9S7xVebH/66dm14wGsIcAnSUR3PHD4NtDQEOGZbDUo="
	for _, tc := range []struct {
		why   string
		sent  []exposure.Submitted
		claim string
		made  bool // also what MAC makes
		want  bool
	}{
		{"with risk", keys(3, 5), "2u1nHt5WWurJytFLF3xitNzM99oNrad2y4YGOL53AeY=", true, true},
		{"no risk, four parts", keys(0, 0), "mFNI9zhTA17n4ndd1Vu5tsn4XQX0gPrIKyjeh/9noUE=", true, true},
		{"no risk, three parts", keys(0, 0), withoutRisk, false, true},
		{"one risk: three parts would leave it unsigned", keys(0, 5), withoutRisk, false, false},
		{"all risks", keys(3, 5), withoutRisk, false, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if made := base64.StdEncoding.EncodeToString(certificate.MAC(tc.sent, secret)) == tc.claim; made != tc.made {
				t.Errorf("MAC made the claim: %t, want %t", made, tc.made)
			}
			for _, sent := range [][]exposure.Submitted{tc.sent, reversed(tc.sent)} {
				if got := certificate.Covers(tc.claim, sent, secret); got != tc.want {
					t.Errorf("the claim covers the keys: %t, want %t", got, tc.want)
				}
			}
		})
	}
}

// The characters count, not the bytes that they stand for.
func TestMACCoversTheTextAsSent(t *testing.T) {
	t.Parallel()
	sent := []exposure.Submitted{{Text: "-_--AwQFBgcICQoLDA0ODw", Start: 2, Period: 3, Risk: 1}}
	h := hmac.New(sha256.New, []byte("secret"))
	h.Write([]byte("-_--AwQFBgcICQoLDA0ODw.2.3.1"))
	if !hmac.Equal(h.Sum(nil), certificate.MAC(sent, []byte("secret"))) {
		t.Error("MAC is not over the text as sent")
	}
}

func TestCoversRefuses(t *testing.T) {
	t.Parallel()
	secret := []byte("secret")
	sent := entest.Upload(1, 3, entest.Noon())
	mac := certificate.MAC(sent, secret)
	good := base64.StdEncoding.EncodeToString(mac)
	for _, tc := range []struct {
		why    string
		claim  string
		sent   []exposure.Submitted
		secret []byte
		want   bool
	}{
		{"as made", good, sent, secret, true},
		{"URL alphabet, unpadded", base64.RawURLEncoding.EncodeToString(mac), sent, secret, true},
		{"no claim", "", sent, secret, false},
		{"not base64", "!" + good, sent, secret, false},
		{"half of it", base64.StdEncoding.EncodeToString(mac[:16]), sent, secret, false},
		{"more than it", base64.StdEncoding.EncodeToString(append(slices.Clone(mac), 0)), sent, secret, false},
		{"another secret", good, sent, []byte("Secret"), false},
		{"no secret", good, sent, nil, false},
		{"a key less", good, sent[1:], secret, false},
		{"a key more", good, append(slices.Clone(sent), sent[0]), secret, false},
		{"no keys", good, nil, secret, false},
		{"another start", good, edited(sent, func(s *exposure.Submitted) { s.Start++ }), secret, false},
		{"another period", good, edited(sent, func(s *exposure.Submitted) { s.Period-- }), secret, false},
		{"another risk", good, edited(sent, func(s *exposure.Submitted) { s.Risk++ }), secret, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if got := certificate.Covers(tc.claim, tc.sent, tc.secret); got != tc.want {
				t.Errorf("the claim covers the keys: %t, want %t", got, tc.want)
			}
		})
	}
}

// The phone's order is not ours to change.
func TestMACLeavesTheKeysInOrder(t *testing.T) {
	t.Parallel()
	sent := reversed(entest.Upload(1, 5, entest.Noon()))
	before := slices.Clone(sent)
	certificate.MAC(sent, []byte("secret"))
	if !slices.Equal(before, sent) {
		t.Error("MAC sorted the caller's keys")
	}
}

func reversed(sent []exposure.Submitted) []exposure.Submitted {
	sent = slices.Clone(sent)
	slices.Reverse(sent)
	return sent
}

// edited changes the first key.
func edited(sent []exposure.Submitted, edit func(*exposure.Submitted)) []exposure.Submitted {
	sent = slices.Clone(sent)
	edit(&sent[0])
	return sent
}
