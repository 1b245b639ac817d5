package main

import (
	"math"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why    string
		values []float64
		q      float64
		want   float64
	}{
		{"one value is every quantile", []float64{7}, 0.99, 7},
		{"the middle one, whatever the order", []float64{9, 1, 5}, 0.5, 5},
		{"half way between the two in the middle", []float64{4, 1, 2, 3}, 0.5, 2.5},
		{"the least", []float64{3, 1, 2}, 0, 1},
		{"the largest", []float64{3, 1, 2}, 1, 3},
		{"in proportion", []float64{0, 10}, 0.95, 9.5},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if got := quantile(tc.values, tc.q); math.Abs(got-tc.want) > 1e-9 {
				t.Errorf("quantile(%v, %v) = %v, want %v", tc.values, tc.q, got, tc.want)
			}
		})
	}
}

func TestQuantileLeavesItsValuesAlone(t *testing.T) {
	t.Parallel()
	values := []float64{3, 1, 2}
	quantile(values, 0.5)
	if values[0] != 3 || values[1] != 1 || values[2] != 2 {
		t.Errorf("the values are now %v", values)
	}
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	if got, want := summarize([]float64{3, 9, 1}), (summary{Median: 3, Min: 1, Max: 9}); got != want {
		t.Errorf("summarize = %v, want %v", got, want)
	}
	if got := summarize(nil); !math.IsNaN(got.Median) {
		t.Errorf("the median of nothing is %v, want not a number", got.Median)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	if got := each(3*time.Second, 1500); got != 2 {
		t.Errorf("each of 1500 in 3 s takes %v ms, want 2", got)
	}
	if got := perSecond(1500, 500*time.Millisecond); got != 3000 {
		t.Errorf("1500 in half a second are %v a second, want 3000", got)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v    float64
		want string
	}{
		{0, "0"},
		{0.04567, "0.0457"},
		{1.234, "1.23"},
		{17.681, "17.7"},
		{999.6, "1 000"},
		{1512.3, "1 512"},
		{1_000_000, "1 000 000"},
		{-31.26, "-31.3"},
		{-1512, "-1 512"},
		{math.NaN(), "-"},
	} {
		if got := number(tc.v); got != tc.want {
			t.Errorf("number(%v) = %q, want %q", tc.v, got, tc.want)
		}
	}
}
