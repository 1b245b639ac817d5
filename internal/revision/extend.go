package revision

import (
	"bytes"
	"cmp"
	"slices"

	"enkeyserver/internal/exposure"
)

// Extend names the keys of a new token: those of the phone's last one and
// those of this upload, since a phone keeps only its newest token. Keys that
// ended at or before forget are no longer retained and go; of more than
// MaxKeys the newest stay.
func Extend(old []exposure.Covered, now []exposure.Exposure, forget exposure.Interval) []exposure.Covered {
	merged := make(map[exposure.Key]exposure.Covered, len(old)+len(now))
	for _, c := range old {
		merged[c.Key] = c
	}
	for _, e := range now {
		merged[e.Key] = exposure.Covered{Key: e.Key, Start: e.Start, Period: e.Period}
	}
	all := make([]exposure.Covered, 0, len(merged))
	for _, c := range merged {
		if c.Start+exposure.Interval(c.Period) > forget {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, newestFirst)
	return all[:min(len(all), MaxKeys)]
}

func newestFirst(a, b exposure.Covered) int {
	return cmp.Or(cmp.Compare(b.Start, a.Start), bytes.Compare(a.Key[:], b.Key[:]))
}
