// Package entest builds valid keys and uploads, so that a test shows only what
// it is about.
package entest

import (
	"crypto/sha256"
	"strconv"
	"time"

	"enkeyserver/internal/exposure"
)

// Noon is an instant for tests that need any: in the middle of a UTC day and
// at the start of an interval.
func Noon() time.Time { return time.Date(2020, time.November, 5, 12, 0, 0, 0, time.UTC) }

// Rules are the server's defaults.
func Rules() exposure.Rules {
	return exposure.Rules{
		MaxKeys:           30,
		MaxSameStart:      3,
		MaxAge:            360 * time.Hour,
		MaxOnsetReportAge: 28,
		DefaultOnsetAge:   4,
		MaxOnsetDistance:  14,
	}
}

// Key is the n-th of a series of keys without repetition.
func Key(n int) exposure.Key {
	sum := sha256.Sum256([]byte("key " + strconv.Itoa(n)))
	return exposure.Key(sum[:])
}

// DaysAgo is the first interval of the UTC day that is so many before now's.
func DaysAgo(now time.Time, days int) exposure.Interval {
	return (exposure.DayOf(now) - exposure.Day(days)).Start()
}

// Exposure is Key(n), broadcast all of the day before now, of a confirmed case
// in the region US; edits change what the test is about.
func Exposure(n int, now time.Time, edits ...func(*exposure.Exposure)) exposure.Exposure {
	e := exposure.Exposure{
		Key:            Key(n),
		Start:          DaysAgo(now, 1),
		Period:         exposure.MaxPeriod,
		Risk:           2,
		Report:         exposure.Confirmed,
		DaysSinceOnset: 3,
		HasOnset:       true,
		Regions:        []string{"US"},
	}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

// Exposures are count of them with keys from Key(first) on.
func Exposures(first, count int, now time.Time, edits ...func(*exposure.Exposure)) []exposure.Exposure {
	all := make([]exposure.Exposure, count)
	for i := range all {
		all[i] = Exposure(first+i, now, edits...)
	}
	return all
}

// Submitted is Key(n) as a phone sends it, broadcast all of the UTC day that
// is so many before now's.
func Submitted(n int, now time.Time, daysAgo int, edits ...func(*exposure.Submitted)) exposure.Submitted {
	s := exposure.Submitted{
		Text:   Key(n).Base64(),
		Start:  int32(DaysAgo(now, daysAgo)),
		Period: exposure.MaxPeriod,
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

// Upload is a key for each of the last days before now's, newest first, with
// keys from Key(first) on. More than 14 days are too old for the default rules.
func Upload(first, days int, now time.Time, edits ...func(*exposure.Submitted)) []exposure.Submitted {
	all := make([]exposure.Submitted, days)
	for i := range all {
		all[i] = Submitted(first+i, now, i+1, edits...)
	}
	return all
}

// Covered names exposures as a revision token does.
func Covered(exposures ...exposure.Exposure) []exposure.Covered {
	all := make([]exposure.Covered, len(exposures))
	for i, e := range exposures {
		all[i] = exposure.Covered{Key: e.Key, Start: e.Start, Period: e.Period}
	}
	return all
}
