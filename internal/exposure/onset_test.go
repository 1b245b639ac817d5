package exposure_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

func TestOnsetOf(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	ago := func(d time.Duration) exposure.Interval { return exposure.IntervalOf(noon.Add(-d)) }
	const day = 24 * time.Hour

	for _, tc := range []struct {
		why            string
		request, claim exposure.Interval
		want           exposure.Interval
		told           bool
	}{
		{"the phone says", ago(3 * day), 0, ago(3 * day), true},
		{"the authority says", 0, ago(2 * day), ago(2 * day), true},
		{"both say: the phone's word counts", ago(3 * day), ago(2 * day), ago(3 * day), true},
		{"nobody says: four days", 0, 0, ago(4 * day), false},
		{"now", ago(0), 0, ago(0), true},
		{"in the future counts as not said", ago(0) + 1, 0, ago(4 * day), false},
		{"in the future, and the authority knows", ago(0) + 1, ago(day), ago(day), true},
		{"28 days ago, the oldest", ago(28 * day), 0, ago(28 * day), true},
		{"older counts as not said", ago(28*day) - 1, 0, ago(4 * day), false},
		{"both too old", ago(60 * day), ago(29 * day), ago(4 * day), false},
		{"hostile", math.MinInt32, math.MaxInt32, ago(4 * day), false},
		{"negative", -1, -1, ago(4 * day), false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, told := entest.Rules().OnsetOf(tc.request, tc.claim, noon)
			if got != tc.want || told != tc.told {
				t.Errorf("OnsetOf gave %d, %t, want %d, %t", got, told, tc.want, tc.told)
			}
		})
	}
}

// Shortly after 1970, zero still is "not said".
func TestOnsetOfZeroIsNeverSaid(t *testing.T) {
	t.Parallel()
	if _, told := entest.Rules().OnsetOf(0, 0, time.Unix(86400, 0)); told {
		t.Error("an onset of zero counts as told")
	}
}

func TestDescribeDays(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	onsetAt := func(daysAgo int, into exposure.Interval) exposure.Interval {
		return entest.DaysAgo(noon, daysAgo) + into
	}
	keyAt := func(daysAgo int, into exposure.Interval) exposure.Interval {
		return entest.DaysAgo(noon, daysAgo) + into
	}

	for _, tc := range []struct {
		why   string
		start exposure.Interval
		onset exposure.Interval
		want  int32
		kept  bool
	}{
		{"the same day", keyAt(3, 0), onsetAt(3, 70), 0, true},
		{"days count, not hours: late key, early onset", keyAt(3, 143), onsetAt(3, 0), 0, true},
		{"the day before by ten minutes", keyAt(4, 143), onsetAt(3, 0), -1, true},
		{"the day after by ten minutes", keyAt(2, 0), onsetAt(3, 143), 1, true},
		{"14 days before", keyAt(14, 0), onsetAt(0, 0), -14, true},
		{"15 days before", keyAt(15, 0), onsetAt(0, 0), 0, false},
		{"14 days after", keyAt(0, 0), onsetAt(14, 143), 14, true},
		{"15 days after", keyAt(0, 0), onsetAt(15, 143), 0, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			kept := []exposure.Exposure{{Key: entest.Key(1), Start: tc.start, Period: 1}}
			described, warnings := entest.Rules().Describe(kept, exposure.Confirmed, tc.onset, []string{"US"}, false)
			if !tc.kept {
				if len(described) != 0 || len(warnings) != 1 {
					t.Errorf("%d keys and %d warnings, want a warning alone", len(described), len(warnings))
				}
				return
			}
			if len(described) != 1 || len(warnings) != 0 {
				t.Fatalf("%d keys and warnings %q, want the key alone", len(described), warnings)
			}
			if e := described[0]; e.DaysSinceOnset != tc.want || !e.HasOnset {
				t.Errorf("days since onset %d (%t), want %d", e.DaysSinceOnset, e.HasOnset, tc.want)
			}
		})
	}
}

func TestDescribeRisk(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	for _, tc := range []struct {
		report exposure.Report
		sent   int32
		want   int32
	}{
		{exposure.Confirmed, 0, 2},
		{exposure.Likely, 0, 4},
		{exposure.Self, 0, 5},
		{exposure.Revoked, 0, 6},
		{exposure.Unknown, 0, 0},
		{exposure.Confirmed, 1, 1},
		{exposure.Revoked, 8, 8},
	} {
		kept := []exposure.Exposure{{Key: entest.Key(1), Start: entest.DaysAgo(noon, 1), Period: 144, Risk: tc.sent}}
		described, _ := entest.Rules().Describe(kept, tc.report, entest.DaysAgo(noon, 1), nil, false)
		if got := described[0].Risk; got != tc.want {
			t.Errorf("risk %d of a %s report became %d, want %d", tc.sent, tc.report, got, tc.want)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	kept := []exposure.Exposure{
		{Key: entest.Key(1), Start: entest.DaysAgo(noon, 1), Period: 144, Risk: 3},
		{Key: entest.Key(2), Start: entest.DaysAgo(noon, 14), Period: 100},
	}
	regions := []string{"US", "CA", "US"}

	described, warnings := entest.Rules().Describe(kept, exposure.Likely, entest.DaysAgo(noon, 16), regions, true)
	want := []exposure.Exposure{{
		Key: entest.Key(2), Start: entest.DaysAgo(noon, 14), Period: 100,
		Risk: 4, Report: exposure.Likely, DaysSinceOnset: 2, HasOnset: true,
		Regions: []string{"CA", "US"}, Traveler: true,
	}}
	if diff := cmp.Diff(want, described); diff != "" {
		t.Errorf("described (-want +got):\n%s", diff)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "15 days") || strings.Contains(warnings[0], entest.Key(1).Base64()) {
		t.Errorf("warnings are %q", warnings)
	}
	if diff := cmp.Diff([]string{"US", "CA", "US"}, regions); diff != "" {
		t.Errorf("the caller's regions were changed (-want +got):\n%s", diff)
	}
}
