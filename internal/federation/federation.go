// Package federation turns keys into the words that neighbouring authorities'
// servers say to each other, and back.
//
// Its folders are the two sides of the conversation: serve answers neighbours,
// pull asks them.
package federation

import (
	"slices"
	"strings"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	federationpb "enkeyserver/internal/pb/federation"
)

// ToWire is a key as a neighbour is told of it, with those of its regions that
// the neighbour may know.
func ToWire(e exposure.Exposure, regions []string) *federationpb.ExposureKey {
	k := &federationpb.ExposureKey{
		ExposureKey:      slices.Clone(e.Key[:]),
		TransmissionRisk: e.Risk,
		IntervalNumber:   int32(e.Start),
		IntervalCount:    e.Period,
		ReportType:       federationpb.ExposureKey_ReportType(e.Report),
		HasSymptomOnset:  e.HasOnset,
		Traveler:         e.Traveler,
		Regions:          regions,
	}
	if e.HasOnset {
		k.DaysSinceOnsetOfSymptoms = e.DaysSinceOnset
	}
	return k
}

// FromWire reads a key that a neighbour sent. It looks at the shape alone;
// whether the key may be kept, the rules of package exposure say.
func FromWire(k *federationpb.ExposureKey) (exposure.Exposure, error) {
	if len(k.GetExposureKey()) != exposure.KeySize {
		return exposure.Exposure{}, errs.Invalid("bad_key", "a key has %d bytes, not %d", len(k.GetExposureKey()), exposure.KeySize)
	}
	if _, known := federationpb.ExposureKey_ReportType_name[int32(k.GetReportType())]; !known {
		return exposure.Exposure{}, errs.Invalid("bad_report", "there is no report type %d", k.GetReportType())
	}
	e := exposure.Exposure{
		Key:      exposure.Key(k.GetExposureKey()),
		Start:    exposure.Interval(k.GetIntervalNumber()),
		Period:   k.GetIntervalCount(),
		Risk:     k.GetTransmissionRisk(),
		Report:   exposure.Report(k.GetReportType()),
		HasOnset: k.GetHasSymptomOnset(),
		Regions:  Regions(k.GetRegions()),
		Traveler: k.GetTraveler(),
	}
	if e.HasOnset {
		e.DaysSinceOnset = k.GetDaysSinceOnsetOfSymptoms()
	}
	return e, nil
}

// Regions writes a list of regions as the log does: upper case, sorted, each
// once.
func Regions(list []string) []string {
	regions := make([]string, len(list))
	for i, r := range list {
		regions[i] = strings.ToUpper(r)
	}
	slices.Sort(regions)
	return slices.Compact(regions)
}
