package exposure_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	current := exposure.IntervalOf(noon)
	oldest := exposure.IntervalOf(noon.Add(-360 * time.Hour))
	onset := func(days int32) func(*exposure.Exposure) {
		return func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = true, days }
	}
	kept := func(*exposure.Exposure) {}

	for _, tc := range []struct {
		why    string
		edit   func(*exposure.Exposure)
		reason string
		want   func(*exposure.Exposure) // what is changed of a key that is kept
	}{
		{"a whole day", kept, "", kept},
		{"the shortest period", func(e *exposure.Exposure) { e.Period = 1 }, "", kept},
		{"period 0", func(e *exposure.Exposure) { e.Period = 0 }, "period", nil},
		{"period 145", func(e *exposure.Exposure) { e.Period = 145 }, "period", nil},
		{"a period that turns the sum negative", func(e *exposure.Exposure) { e.Period = math.MaxInt32 }, "period", nil},
		{"a negative period", func(e *exposure.Exposure) { e.Period = -1 }, "period", nil},

		{"the highest risk", func(e *exposure.Exposure) { e.Risk = 8 }, "", kept},
		{"risk 9", func(e *exposure.Exposure) { e.Risk = 9 }, "risk", nil},
		{"a negative risk", func(e *exposure.Exposure) { e.Risk = -1 }, "risk", nil},
		{"no risk is filled", func(e *exposure.Exposure) { e.Risk = 0 }, "", func(e *exposure.Exposure) { e.Risk = 2 }},
		{"for each report its own", func(e *exposure.Exposure) { e.Risk, e.Report = 0, exposure.Self }, "", func(e *exposure.Exposure) { e.Risk = 5 }},

		{"starts now: embargoed, but accepted", func(e *exposure.Exposure) { e.Start = current }, "", kept},
		{"starts in the next interval", func(e *exposure.Exposure) { e.Start = current + 1 }, "future", nil},
		{"starts at the end of time", func(e *exposure.Exposure) { e.Start = math.MaxInt32 }, "future", nil},
		{"ends exactly at the limit of age", func(e *exposure.Exposure) { e.Start = oldest - 144 }, "", kept},
		{"ends one interval before it", func(e *exposure.Exposure) { e.Start = oldest - 145 }, "too old", nil},
		{"a negative start", func(e *exposure.Exposure) { e.Start = -1 }, "too old", nil},
		{"the smallest start", func(e *exposure.Exposure) { e.Start = math.MinInt32 }, "too old", nil},

		{"a likely case", func(e *exposure.Exposure) { e.Report = exposure.Likely }, "", kept},
		{"a user's own report", func(e *exposure.Exposure) { e.Report = exposure.Self }, "", kept},
		{
			"an unknown report becomes likely", func(e *exposure.Exposure) { e.Report, e.Risk = exposure.Unknown, 0 }, "",
			func(e *exposure.Exposure) { e.Report, e.Risk = exposure.Likely, 4 },
		},
		{"a recursive one is no diagnosis", func(e *exposure.Exposure) { e.Report = exposure.Recursive }, "report", nil},
		{"a report of the future", func(e *exposure.Exposure) { e.Report = 6 }, "report", nil},
		{"a negative number of a report", func(e *exposure.Exposure) { e.Report = -1 }, "report", nil},
		{"a withdrawn key warns nobody", func(e *exposure.Exposure) { e.Report = exposure.Revoked }, "revoked", nil},

		{"no onset is fine", func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = false, 0 }, "", kept},
		{"without an onset its number says nothing", func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = false, 99 }, "", kept},
		{"two weeks after it", onset(14), "", kept},
		{"two weeks before it", onset(-14), "", kept},
		{"more than that", onset(15), "onset", nil},
		{"more than that before", onset(-15), "onset", nil},
		{"the smallest number has no magnitude", onset(math.MinInt32), "onset", nil},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			e := entest.Exposure(1, noon, tc.edit)
			var want exposure.Exposure
			if tc.want != nil {
				want = e
				tc.want(&want)
			}
			got, reason := entest.Rules().Foreign(e, noon)
			if reason != tc.reason {
				t.Errorf("left out for %q, want %q", reason, tc.reason)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
		})
	}
}

// A revision is held to the same rules, but its report may withdraw, and must
// say something.
func TestForeignRevision(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	for _, tc := range []struct {
		why    string
		edit   func(*exposure.Exposure)
		risk   int32
		reason string
	}{
		{"a confirmed case", func(*exposure.Exposure) {}, 2, ""},
		{"withdrawn", func(e *exposure.Exposure) { e.Report, e.Risk = exposure.Revoked, 0 }, 6, ""},
		{"an unknown report", func(e *exposure.Exposure) { e.Report = exposure.Unknown }, 0, "report"},
		{"a recursive one", func(e *exposure.Exposure) { e.Report = exposure.Recursive }, 0, "report"},
		{"of a key that is forgotten", func(e *exposure.Exposure) { e.Start -= 40 * 144 }, 0, "too old"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, reason := entest.Rules().ForeignRevision(entest.Exposure(1, noon, tc.edit), noon)
			if reason != tc.reason || got.Risk != tc.risk {
				t.Errorf("got risk %d, reason %q, want %d, %q", got.Risk, reason, tc.risk, tc.reason)
			}
		})
	}
}

func TestReviseBy(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	as := func(r exposure.Report) exposure.Exposure {
		return entest.Exposure(1, noon, func(e *exposure.Exposure) { e.Report = r })
	}
	from := func(origin int, r exposure.Report) exposure.Known {
		return exposure.Known{Exposure: as(r), Origin: origin}
	}
	revised := from(7, exposure.Likely)
	revised.Revised = exposure.Confirmed
	later := as(exposure.Confirmed)
	later.Start++

	for _, tc := range []struct {
		why   string
		known exposure.Known
		up    exposure.Exposure
		want  string
	}{
		{"a likely case is confirmed", from(7, exposure.Likely), as(exposure.Confirmed), ""},
		{"or withdrawn", from(7, exposure.Likely), as(exposure.Revoked), ""},
		{"a user's report becomes likely", from(7, exposure.Self), as(exposure.Likely), ""},
		{"the same again", from(7, exposure.Likely), as(exposure.Likely), "known"},
		{"the same revision again", revised, as(exposure.Confirmed), "known"},
		{"a second revision", revised, as(exposure.Revoked), "revised"},
		{"a confirmed case stays", from(7, exposure.Confirmed), as(exposure.Revoked), "change"},
		{"of our own key", from(0, exposure.Likely), as(exposure.Revoked), "ours"},
		{"of another neighbour's", from(8, exposure.Likely), as(exposure.Revoked), "another's"},
		{"with another start", from(7, exposure.Likely), later, "different"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			up := tc.up
			up.Regions, up.Traveler = []string{"XX"}, true
			got, reason := tc.known.ReviseBy(7, up)
			if reason != tc.want {
				t.Fatalf("left out for %q, want %q", reason, tc.want)
			}
			want := exposure.Exposure{}
			if reason == "" {
				want = tc.up
				want.Regions, want.Traveler = tc.known.Regions, tc.known.Traveler
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("revision (-want +got):\n%s", diff)
			}
		})
	}
}
