package attestation_test

import (
	"encoding/hex"
	"testing"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

// The vectors of docs/app-developers.md.
func TestDigestVectors(t *testing.T) {
	t.Parallel()
	keys := []exposure.Submitted{
		{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 1, Period: 144, Risk: 3},
		{Text: "dPCphLzfG4uzXneNimkPRQ==", Start: 144, Period: 144, Risk: 5},
	}
	for _, tc := range []struct {
		why       string
		app       string
		sent      []exposure.Submitted
		claim     string
		hex, text string
	}{
		{"two keys", "org.example.app", keys, "header.payload.signature", "873503b3ef13d30fe0910513dfaa19d8158842a9750a1c2240b461e909bf4382", "hzUDs-8T0w_gkQUT36oZ2BWIQql1ChwiQLRh6Qm_Q4I"},
		{"one key without risk", "org.example.app", []exposure.Submitted{{Text: keys[0].Text, Start: 2649312, Period: 144}}, "header.payload.signature", "4803fdf96c3ed45088cd298dee8e18823648db4cbb67fc0125d04deb30b2db54", "SAP9-Ww-1FCIzSmN7o4YgjZI20y7Z_wBJdBN6zCy21Q"},
		{"nothing at all", "", nil, "", "16b2424a7f66c3f081abf4a6cfbe1e21e6ff55f4a346d02908bd75bb2c7bcbe5", "FrJCSn9mw_CBq_Smz74eIeb_VfSjRtApCL11uyx7y-U"},
	} {
		d := attestation.DigestOf(tc.app, tc.sent, tc.claim)
		if got := hex.EncodeToString(d[:]); got != tc.hex || d.Text() != tc.text {
			t.Errorf("%s: got %s, %s, want %s, %s", tc.why, got, d.Text(), tc.hex, tc.text)
		}
	}
}

func TestDigestTellsUploadsApart(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	sent := entest.Upload(1, 14, noon)
	digest := attestation.DigestOf("app", sent, "certificate")
	if attestation.DigestOf("app", entest.Upload(1, 14, noon), "certificate") != digest {
		t.Error("the same upload has two digests")
	}
	reversed := []exposure.Submitted{}
	for i := range sent {
		reversed = append(reversed, sent[len(sent)-1-i])
	}
	if attestation.DigestOf("app", reversed, "certificate") != digest {
		t.Error("the order of the keys matters")
	}
	for why, other := range map[string]attestation.Digest{
		"another app":         attestation.DigestOf("App", sent, "certificate"),
		"another certificate": attestation.DigestOf("app", sent, "certificatf"),
		"a key less":          attestation.DigestOf("app", sent[1:], "certificate"),
		"another key":         attestation.DigestOf("app", entest.Upload(2, 14, noon), "certificate"),
		"another risk":        attestation.DigestOf("app", entest.Upload(1, 14, noon, func(s *exposure.Submitted) { s.Risk++ }), "certificate"),
		"another period":      attestation.DigestOf("app", entest.Upload(1, 14, noon, func(s *exposure.Submitted) { s.Period-- }), "certificate"),
		"another start":       attestation.DigestOf("app", entest.Upload(1, 14, noon, func(s *exposure.Submitted) { s.Start-- }), "certificate"),
	} {
		if other == digest {
			t.Errorf("%s: the digest is the same", why)
		}
	}
}
