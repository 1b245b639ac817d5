package revision_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/revision"
)

func TestExtend(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	forget := entest.DaysAgo(noon, 14)
	daysAgo := func(n, days int) exposure.Exposure {
		return entest.Exposure(n, noon, func(e *exposure.Exposure) { e.Start = entest.DaysAgo(noon, days) })
	}
	ends := func(n int, end exposure.Interval) exposure.Exposure {
		return entest.Exposure(n, noon, func(e *exposure.Exposure) { e.Start, e.Period = end-10, 10 })
	}
	type list = []exposure.Exposure

	for _, tc := range []struct {
		why            string
		old, now, want list
	}{
		{"nothing", nil, nil, list{}},
		{"a first upload", nil, list{daysAgo(1, 1), daysAgo(2, 2)}, list{daysAgo(1, 1), daysAgo(2, 2)}},
		{"a negative test keeps what the phone had", list{daysAgo(1, 1)}, nil, list{daysAgo(1, 1)}},
		{
			"another upload joins, newest first",
			list{daysAgo(2, 2), daysAgo(4, 4)},
			list{daysAgo(1, 1), daysAgo(3, 3)},
			list{daysAgo(1, 1), daysAgo(2, 2), daysAgo(3, 3), daysAgo(4, 4)},
		},
		{"a key sent again is named once", list{daysAgo(1, 1)}, list{daysAgo(1, 1)}, list{daysAgo(1, 1)}},
		{"what ended after the limit stays", list{ends(1, forget+1)}, nil, list{ends(1, forget+1)}},
		{"what ended at the limit goes", list{ends(1, forget), daysAgo(2, 2)}, nil, list{daysAgo(2, 2)}},
		{"also of this upload", nil, list{ends(1, forget-1), daysAgo(2, 2)}, list{daysAgo(2, 2)}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got := revision.Extend(entest.Covered(tc.old...), tc.now, forget)
			if diff := cmp.Diff(entest.Covered(tc.want...), got); diff != "" {
				t.Errorf("covered (-want +got):\n%s", diff)
			}
		})
	}
}

// A phone that uploads without end does not get a token without end: the
// newest keys stay.
func TestExtendIsBounded(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	forget := entest.DaysAgo(noon, 20)
	var covered []exposure.Covered
	for upload := range 20 {
		keys := entest.Exposures(30*upload, 30, noon, func(e *exposure.Exposure) { e.Start = entest.DaysAgo(noon, 19-upload) })
		covered = revision.Extend(covered, keys, forget)
	}
	if len(covered) != revision.MaxKeys {
		t.Errorf("%d keys are covered, want %d", len(covered), revision.MaxKeys)
	}
	if oldest := covered[len(covered)-1].Start; oldest != entest.DaysAgo(noon, 15) {
		t.Errorf("the oldest covered key is of day %d, want the newest 16 days", oldest.Day())
	}
}
