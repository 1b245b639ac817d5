package exposure

import (
	"cmp"
	"slices"
	"strconv"
)

// SignedText is the text that stands for the keys of an upload wherever
// somebody signs or seals them (protocol, section 2): key.start.period.risk of
// each, the key's base64 exactly as sent, sorted by it, with commas between.
func SignedText(sent []Submitted) []byte { return joined(sent, withRisk) }

// SignedTextWithoutRisk is the same of phones that do not know transmission
// risk: key.start.period.
func SignedTextWithoutRisk(sent []Submitted) []byte { return joined(sent, withoutRisk) }

func joined(sent []Submitted, segment func([]byte, Submitted) []byte) (text []byte) {
	sorted := slices.Clone(sent)
	slices.SortStableFunc(sorted, func(a, b Submitted) int { return cmp.Compare(a.Text, b.Text) })
	for i, s := range sorted {
		if i > 0 {
			text = append(text, ',')
		}
		text = segment(text, s)
	}
	return text
}

func withoutRisk(text []byte, s Submitted) []byte {
	text = append(text, s.Text...)
	text = append(text, '.')
	text = strconv.AppendInt(text, int64(s.Start), 10)
	text = append(text, '.')
	return strconv.AppendInt(text, int64(s.Period), 10)
}

func withRisk(text []byte, s Submitted) []byte {
	text = append(withoutRisk(text, s), '.')
	return strconv.AppendInt(text, int64(s.Risk), 10)
}
