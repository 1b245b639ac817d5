package exposure_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

// Each row is one key; a good one goes with it, so that a bad one is dropped
// and does not refuse the request.
func TestKeepJudgesEachKey(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	current := int32(exposure.IntervalOf(noon))
	oldest := int32(exposure.IntervalOf(noon.Add(-360 * time.Hour)))

	for _, tc := range []struct {
		why    string
		edit   func(*exposure.Submitted)
		reason string // empty: kept
	}{
		{"a whole day", func(s *exposure.Submitted) {}, ""},
		{"URL alphabet without padding", func(s *exposure.Submitted) { s.Text = strings.TrimRight(toURL(s.Text), "=") }, ""},
		{"15 bytes", func(s *exposure.Submitted) { s.Text = base64.StdEncoding.EncodeToString(make([]byte, 15)) }, "it must be base64 of 16 bytes"},
		{"17 bytes", func(s *exposure.Submitted) { s.Text = base64.StdEncoding.EncodeToString(make([]byte, 17)) }, "it must be base64 of 16 bytes"},
		{"no text", func(s *exposure.Submitted) { s.Text = "" }, "it must be base64 of 16 bytes"},
		{"no base64", func(s *exposure.Submitted) { s.Text = "!" + s.Text[1:] }, "it must be base64 of 16 bytes"},

		{"shortest period", func(s *exposure.Submitted) { s.Period = 1 }, ""},
		{"period 0", func(s *exposure.Submitted) { s.Period = 0 }, "its rollingPeriod must be 1 to 144"},
		{"period 145", func(s *exposure.Submitted) { s.Period = 145 }, "its rollingPeriod must be 1 to 144"},
		{"negative period", func(s *exposure.Submitted) { s.Period = -1 }, "its rollingPeriod must be 1 to 144"},
		{"largest period", func(s *exposure.Submitted) { s.Period = math.MaxInt32 }, "its rollingPeriod must be 1 to 144"},

		{"highest risk", func(s *exposure.Submitted) { s.Risk = 8 }, ""},
		{"risk 9", func(s *exposure.Submitted) { s.Risk = 9 }, "its transmissionRisk must be 0 to 8"},
		{"negative risk", func(s *exposure.Submitted) { s.Risk = -1 }, "its transmissionRisk must be 0 to 8"},

		{"starts now and ends tomorrow: embargoed, but accepted", func(s *exposure.Submitted) { s.Start = current }, ""},
		{"starts in the next interval", func(s *exposure.Submitted) { s.Start = current + 1 }, "it starts in the future"},
		{"start + period beyond int32", func(s *exposure.Submitted) { s.Start = math.MaxInt32 }, "it starts in the future"},
		{"start + period is just beyond int32", func(s *exposure.Submitted) { s.Start, s.Period = math.MaxInt32-1, 2 }, "it starts in the future"},

		{"ends exactly at the limit of age", func(s *exposure.Submitted) { s.Start = oldest - 144 }, ""},
		{"ends one interval before it", func(s *exposure.Submitted) { s.Start = oldest - 145 }, "it ended too long ago"},
		{"a short key at the limit", func(s *exposure.Submitted) { s.Start, s.Period = oldest-1, 1 }, ""},
		{"a short key before it", func(s *exposure.Submitted) { s.Start, s.Period = oldest-2, 1 }, "it ended too long ago"},
		{"start 0", func(s *exposure.Submitted) { s.Start = 0 }, "it ended too long ago"},
		{"negative start", func(s *exposure.Submitted) { s.Start = -1 }, "its rollingStartNumber must not be negative"},
		{"smallest start: start - period would wrap into the future", func(s *exposure.Submitted) { s.Start = math.MinInt32 }, "its rollingStartNumber must not be negative"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			sent := []exposure.Submitted{entest.Submitted(1, noon, 5), entest.Submitted(2, noon, 3, tc.edit)}

			kept, dropped, err := entest.Rules().Keep(sent, noon)
			if err != nil {
				t.Fatal(err)
			}
			wantKept, wantDropped := keys(1, 2), []exposure.Drop(nil)
			if tc.reason != "" {
				wantKept, wantDropped = keys(1), []exposure.Drop{{Index: 1, Reason: tc.reason}}
			}
			if diff := cmp.Diff(wantKept, keysOf(kept)); diff != "" {
				t.Errorf("keys kept (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantDropped, dropped); diff != "" {
				t.Errorf("keys dropped (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKeepTakesTheValues(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	start := entest.DaysAgo(noon, 2)
	sent := exposure.Submitted{Text: entest.Key(7).Base64(), Start: int32(start), Period: 100, Risk: 5}

	kept, _, err := entest.Rules().Keep([]exposure.Submitted{sent}, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []exposure.Exposure{{Key: entest.Key(7), Start: start, Period: 100, Risk: 5}}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func TestKeepJudgesTheRequest(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	day := int32(entest.DaysAgo(noon, 3))
	at := func(n int, start, period int32) exposure.Submitted {
		return exposure.Submitted{Text: entest.Key(n).Base64(), Start: start, Period: period}
	}
	invalid := entest.Submitted(99, noon, 3, func(s *exposure.Submitted) { s.Period = 0 })

	for _, tc := range []struct {
		why  string
		sent []exposure.Submitted
		want []exposure.Key // nil: refused
	}{
		{"no keys at all", nil, nil},
		{"none that can be kept", []exposure.Submitted{invalid, invalid}, nil},
		{"as many keys as allowed", many(30, day-29), firstKeys(30)},
		{"one too many", many(31, day-30), nil},
		{"one too many, though some would go", append(many(29, day-28), invalid, invalid), nil},

		{"one day after another", []exposure.Submitted{at(1, day, 144), at(2, day-144, 144), at(3, day+144, 144)}, keys(1, 2, 3)},
		{"a gap between them", []exposure.Submitted{at(1, day, 10), at(2, day+100, 10)}, keys(1, 2)},
		{"the next begins where the first ends", []exposure.Submitted{at(1, day, 72), at(2, day+72, 72)}, keys(1, 2)},
		{"the next begins one interval earlier", []exposure.Submitted{at(1, day, 73), at(2, day+72, 72)}, nil},
		{"the same, sent the other way round", []exposure.Submitted{at(2, day+72, 72), at(1, day, 73)}, nil},
		{"one within the other", []exposure.Submitted{at(1, day, 144), at(2, day+10, 1)}, nil},
		{"two share a start", []exposure.Submitted{at(1, day, 144), at(2, day, 144)}, keys(1, 2)},
		{"three share a start, with other periods", []exposure.Submitted{at(1, day, 144), at(2, day, 20), at(3, day, 77)}, keys(1, 2, 3)},
		{"four share a start", []exposure.Submitted{at(1, day, 144), at(2, day, 1), at(3, day, 1), at(4, day, 1)}, nil},
		{"three on each of two days", []exposure.Submitted{
			at(1, day, 144), at(2, day, 144), at(3, day, 144),
			at(4, day+144, 144), at(5, day+144, 144), at(6, day+144, 144),
		}, keys(1, 2, 3, 4, 5, 6)},
		{"the longest of those that share a start counts", []exposure.Submitted{at(1, day, 144), at(2, day, 20), at(3, day+20, 10)}, nil},
		{"also when it is not the last", []exposure.Submitted{at(1, day, 20), at(2, day, 144), at(3, day, 5), at(4, day+143, 1)}, nil},
		{"a dropped key overlaps nothing", []exposure.Submitted{at(1, day, 144), at(2, day+1, 0)}, keys(1)},
		{"a dropped key shares no start", []exposure.Submitted{at(1, day, 144), at(2, day, 1), at(3, day, 1), at(4, day, 0)}, keys(1, 2, 3)},

		{"a key sent twice counts once", []exposure.Submitted{at(1, day, 144), at(2, day+144, 144), at(1, day, 144)}, keys(1, 2)},
		{"also in another alphabet", []exposure.Submitted{at(1, day, 144), {Text: toURL(entest.Key(1).Base64()), Start: day, Period: 144}}, keys(1)},
		{"and does not fill the share of its start", []exposure.Submitted{at(1, day, 9), at(1, day, 9), at(2, day, 9), at(3, day, 9)}, keys(1, 2, 3)},
		{"with another start it is a contradiction", []exposure.Submitted{at(1, day, 144), at(1, day+144, 144)}, nil},
		{"with another period too", []exposure.Submitted{at(1, day, 144), at(1, day, 143)}, nil},
		{"with another risk too", []exposure.Submitted{at(1, day, 144), {Text: entest.Key(1).Base64(), Start: day, Period: 144, Risk: 3}}, nil},
		{"unless that one is dropped", []exposure.Submitted{at(1, day, 144), at(1, day, 145)}, keys(1)},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			kept, _, err := entest.Rules().Keep(tc.sent, noon)
			if tc.want != nil && err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				wantRefused(t, err, tc.sent)
			}
			if diff := cmp.Diff(tc.want, keysOf(kept)); diff != "" {
				t.Errorf("keys kept (-want +got):\n%s", diff)
			}
		})
	}
}

// Why nothing was kept is worth telling to whoever debugs an app.
func TestKeepTellsWhyNothingIsLeft(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	late := entest.Submitted(1, noon, -1)
	_, dropped, err := entest.Rules().Keep([]exposure.Submitted{late}, noon)

	if want := "none of the 1 keys can be kept: key 0 is left out: it starts in the future"; errs.MessageOf(err) != want {
		t.Errorf("the message is %q, want %q", errs.MessageOf(err), want)
	}
	if diff := cmp.Diff([]exposure.Drop{{Index: 0, Reason: "it starts in the future"}}, dropped); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
}

// What Keep lets through holds every rule, whatever was sent.
func FuzzKeep(f *testing.F) {
	noon := entest.Noon()
	now := int32(exposure.IntervalOf(noon))
	f.Add(now-144, int32(144), int32(0), now-288, int32(144), int32(8), now-144, int32(7), int32(3), byte(0))
	f.Add(int32(math.MaxInt32), int32(144), int32(0), int32(math.MinInt32), int32(1), int32(-1), int32(-1), int32(math.MaxInt32), int32(9), byte(1))
	f.Add(now-1, int32(1), int32(0), now, int32(1), int32(0), now-1, int32(1), int32(0), byte(7))
	f.Fuzz(func(t *testing.T, s1, p1, r1, s2, p2, r2, s3, p3, r3 int32, twins byte) {
		sent := []exposure.Submitted{{"", s1, p1, r1}, {"", s2, p2, r2}, {"", s3, p3, r3}, {"", s1, p1, r1}}
		for i := range sent {
			sent[i].Text = entest.Key(i & int(twins)).Base64()
		}
		rules := entest.Rules()
		rules.MaxSameStart = 2

		kept, dropped, err := rules.Keep(sent, noon)
		if err != nil {
			wantRefused(t, err, sent)
			if kept != nil {
				t.Errorf("%d keys were kept of a refused request", len(kept))
			}
			return
		}
		if len(kept) == 0 || len(kept)+len(dropped) > len(sent) {
			t.Errorf("of %d keys %d were kept and %d dropped", len(sent), len(kept), len(dropped))
		}
		checkKept(t, rules, kept, noon)
	})
}

// checkKept checks pairs, which is slow and plainly right.
func checkKept(t *testing.T, rules exposure.Rules, kept []exposure.Exposure, now time.Time) {
	t.Helper()
	oldest := now.Add(-rules.MaxAge)
	for i, a := range kept {
		if a.Period < 1 || a.Period > 144 || a.Risk < 0 || a.Risk > 8 || a.Start.Time().After(now) || a.End().Time().Before(oldest.Truncate(exposure.IntervalLength)) {
			t.Errorf("a key was kept with start %d, period %d, risk %d", a.Start, a.Period, a.Risk)
		}
		same := 0
		for j, b := range kept {
			if i != j && a.Key == b.Key {
				t.Error("a key was kept twice")
			}
			if a.Start == b.Start {
				same++
			}
			if a.Start < b.Start && b.Start < a.End() {
				t.Errorf("%d+%d and %d+%d overlap", a.Start, a.Period, b.Start, b.Period)
			}
		}
		if same > rules.MaxSameStart {
			t.Errorf("%d keys share a start", same)
		}
	}
}

// wantRefused also looks for what must not be in an error.
func wantRefused(t *testing.T, err error, sent []exposure.Submitted) {
	t.Helper()
	if errs.KindOf(err) != errs.KindInvalid || errs.CodeOf(err) != "bad_request" {
		t.Fatalf("the request gave %v, want bad_request", err)
	}
	for _, s := range sent {
		if strings.Contains(err.Error(), s.Text) {
			t.Errorf("the error holds a key: %v", err)
		}
	}
}

func many(count int, start int32) []exposure.Submitted {
	all := make([]exposure.Submitted, count)
	for i := range all {
		all[i] = exposure.Submitted{Text: entest.Key(i).Base64(), Start: start + int32(i), Period: 1}
	}
	return all
}

func firstKeys(count int) []exposure.Key {
	numbers := make([]int, count)
	for i := range numbers {
		numbers[i] = i
	}
	return keys(numbers...)
}

func keys(numbers ...int) []exposure.Key {
	var all []exposure.Key
	for _, n := range numbers {
		all = append(all, entest.Key(n))
	}
	return all
}

func keysOf(exposures []exposure.Exposure) []exposure.Key {
	var all []exposure.Key
	for _, e := range exposures {
		all = append(all, e.Key)
	}
	return all
}

func toURL(text string) string { return strings.NewReplacer("+", "-", "/", "_").Replace(text) }
