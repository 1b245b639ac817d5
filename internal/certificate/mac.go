package certificate

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strconv"

	"enkeyserver/internal/exposure"
)

// MAC is the HMAC-SHA256 that ties a certificate to keys: a phone makes it of
// the keys that it will send and gives it to the authority, which signs it
// without learning the keys.
func MAC(sent []exposure.Submitted, secret []byte) []byte {
	return mac(sent, secret, withRisk)
}

// covers tells whether a claim is the HMAC of the keys. Phones that do not
// know transmission risk leave it out; that is no ambiguity as long as every
// risk is zero.
func covers(claim string, sent []exposure.Submitted, secret []byte) bool {
	got, err := exposure.DecodeBase64(claim)
	if err != nil {
		return false
	}
	if hmac.Equal(got, MAC(sent, secret)) {
		return true
	}
	return noRisk(sent) && hmac.Equal(got, mac(sent, secret, withoutRisk))
}

func mac(sent []exposure.Submitted, secret []byte, segment func([]byte, exposure.Submitted) []byte) []byte {
	sorted := slices.Clone(sent)
	slices.SortStableFunc(sorted, func(a, b exposure.Submitted) int { return cmp.Compare(a.Text, b.Text) })
	var text []byte
	for i, s := range sorted {
		if i > 0 {
			text = append(text, ',')
		}
		text = segment(text, s)
	}
	h := hmac.New(sha256.New, secret)
	h.Write(text)
	return h.Sum(nil)
}

// withoutRisk appends key.start.period, the key's base64 exactly as sent.
func withoutRisk(text []byte, s exposure.Submitted) []byte {
	text = append(text, s.Text...)
	text = append(text, '.')
	text = strconv.AppendInt(text, int64(s.Start), 10)
	text = append(text, '.')
	return strconv.AppendInt(text, int64(s.Period), 10)
}

// withRisk appends key.start.period.risk.
func withRisk(text []byte, s exposure.Submitted) []byte {
	text = append(withoutRisk(text, s), '.')
	return strconv.AppendInt(text, int64(s.Risk), 10)
}

func noRisk(sent []exposure.Submitted) bool {
	return !slices.ContainsFunc(sent, func(s exposure.Submitted) bool { return s.Risk != 0 })
}
