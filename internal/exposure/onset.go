package exposure

import (
	"fmt"
	"slices"
	"time"
)

const day = 24 * time.Hour

// OnsetOf is the interval of the first symptom: what the phone says, else what
// the health authority says, else a usual number of days before the upload.
// Zero is "not said"; what lies in the future or too far back counts as that
// too. It reports false when nobody told.
func (r Rules) OnsetOf(request, claim Interval, now time.Time) (onset Interval, told bool) {
	first := max(IntervalOf(now.Add(-time.Duration(r.MaxOnsetReportAge)*day)), 1)
	last := IntervalOf(now)
	for _, said := range []Interval{request, claim} {
		if said >= first && said <= last {
			return said, true
		}
	}
	return IntervalOf(now.Add(-time.Duration(r.DefaultOnsetAge) * day)), false
}

// riskOf is the transmission risk of a report when the phone gave none.
var riskOf = map[Report]int32{
	Confirmed: 2,
	Likely:    4,
	Self:      5,
	Revoked:   6,
}

// Describe adds to kept keys what is published about them. Keys too far from
// the onset are left out, each with a warning for the client: phones would
// refuse the whole file for one of them.
func (r Rules) Describe(kept []Exposure, report Report, onset Interval, regions []string, traveler bool) (described []Exposure, warnings []string) {
	regions = slices.Compact(slices.Sorted(slices.Values(regions)))
	for _, e := range kept {
		days := int32(e.Start.Day() - onset.Day())
		if distance := max(days, -days); distance > int32(r.MaxOnsetDistance) {
			warnings = append(warnings, fmt.Sprintf(
				"a key is left out: its day is %d days from the symptom onset, at most %d are published", distance, r.MaxOnsetDistance))
			continue
		}
		e.Report, e.DaysSinceOnset, e.HasOnset = report, days, true
		e.Regions, e.Traveler = regions, traveler
		if e.Risk == 0 {
			e.Risk = riskOf[report]
		}
		described = append(described, e)
	}
	return described, warnings
}
