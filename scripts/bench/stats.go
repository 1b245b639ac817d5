package main

import (
	"math"
	"slices"
	"time"
)

// summary is what a reader wants to know of repeated measurements.
type summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func summarize(values []float64) summary {
	if len(values) == 0 {
		return summary{math.NaN(), math.NaN(), math.NaN()}
	}
	return summary{Median: quantile(values, 0.5), Min: slices.Min(values), Max: slices.Max(values)}
}

// quantile is the value below which a share q of the values lies, between two
// of them in proportion. There must be one.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// millis is durations in milliseconds.
func millis(durations []time.Duration) []float64 {
	all := make([]float64, len(durations))
	for i, d := range durations {
		all[i] = milli(d)
	}
	return all
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// each is the share of one of n in a duration, in milliseconds.
func each(d time.Duration, n int) float64 { return milli(d) / float64(n) }

// perSecond is how many of n fit into a second.
func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }
