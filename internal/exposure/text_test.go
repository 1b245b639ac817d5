package exposure_test

import (
	"slices"
	"testing"

	"enkeyserver/internal/exposure"
)

func TestSignedText(t *testing.T) {
	t.Parallel()
	sent := []exposure.Submitted{
		{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 1, Period: 144, Risk: 3},
		{Text: "dPCphLzfG4uzXneNimkPRQ", Start: 144, Period: 100},
	}
	before := slices.Clone(sent)
	for _, tc := range []struct {
		why       string
		got, want string
	}{
		{"sorted by the text as sent", string(exposure.SignedText(sent)), "dPCphLzfG4uzXneNimkPRQ.144.100.0,z2Cx9hdz2SlxZ8GEgqTYpA==.1.144.3"},
		{"three parts", string(exposure.SignedTextWithoutRisk(sent)), "dPCphLzfG4uzXneNimkPRQ.144.100,z2Cx9hdz2SlxZ8GEgqTYpA==.1.144"},
		{"no keys", string(exposure.SignedText(nil)), ""},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.why, tc.got, tc.want)
		}
	}
	if !slices.Equal(before, sent) {
		t.Error("the caller's keys were sorted")
	}
}
