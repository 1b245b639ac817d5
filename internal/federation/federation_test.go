package federation_test

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation"
	federationpb "enkeyserver/internal/pb/federation"
)

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*exposure.Exposure)
	}{
		{"everything is told", func(e *exposure.Exposure) { e.Traveler, e.Regions = true, []string{"CA", "US"} }},
		{"nobody knows the onset", func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = false, 0 }},
		{"the onset was on the day", func(e *exposure.Exposure) { e.DaysSinceOnset = 0 }},
		{"the onset came later", func(e *exposure.Exposure) { e.DaysSinceOnset = -14 }},
		{"withdrawn", func(e *exposure.Exposure) { e.Report, e.Risk = exposure.Revoked, 0 }},
		{"of a user alone, shortly", func(e *exposure.Exposure) { e.Report, e.Period = exposure.Self, 1 }},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			want := entest.Exposure(1, entest.Noon(), tc.edit)
			got, err := federation.FromWire(federation.ToWire(want, want.Regions))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The bytes are written by hand after the definitions that all servers share.
func TestWire(t *testing.T) {
	t.Parallel()
	e := exposure.Exposure{
		Key: exposure.Key{15: 1}, Start: 2670048, Period: 144, Risk: 2, Report: exposure.Revoked,
		DaysSinceOnset: -3, HasOnset: true, Traveler: true, Regions: []string{"CA", "US"},
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(federation.ToWire(e, []string{"US"}))
	if err != nil {
		t.Fatal(err)
	}
	const want = "0a10" + "00000000000000000000000000000001" +
		"1002" + // risk
		"18e0fba201" + // interval
		"209001" + // count
		"2805" + // report
		"3005" + // -3, zigzag
		"3801" + "4001" +
		"4a025553" // US
	if diff := cmp.Diff(want, hex.EncodeToString(raw)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFromWire(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*federationpb.ExposureKey)
		want string // code of the error
	}{
		{"as it should be", func(*federationpb.ExposureKey) {}, ""},
		{"a short key", func(k *federationpb.ExposureKey) { k.ExposureKey = make([]byte, 15) }, "bad_key"},
		{"a long key, with which phones would loop", func(k *federationpb.ExposureKey) { k.ExposureKey = make([]byte, 17) }, "bad_key"},
		{"no key", func(k *federationpb.ExposureKey) { k.ExposureKey = nil }, "bad_key"},
		{"a report of the future", func(k *federationpb.ExposureKey) { k.ReportType = 6 }, "bad_report"},
		{"a report that would look known when cut to 16 bits", func(k *federationpb.ExposureKey) { k.ReportType = 1<<16 + 1 }, "bad_report"},
		{"a negative report", func(k *federationpb.ExposureKey) { k.ReportType = -1 }, "bad_report"},
		{"the rules are for others to keep", func(k *federationpb.ExposureKey) { k.IntervalCount, k.TransmissionRisk = 1000, 99 }, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			k := federation.ToWire(entest.Exposure(1, entest.Noon()), []string{"US"})
			tc.edit(k)
			got := ""
			if _, err := federation.FromWire(k); err != nil {
				got = errs.CodeOf(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := federation.FromWire(nil); errs.CodeOf(err) != "bad_key" {
		t.Errorf("no key at all is %v", err)
	}
}

func TestOnsetThatIsNotTold(t *testing.T) {
	t.Parallel()
	want := entest.Exposure(1, entest.Noon(), func(e *exposure.Exposure) { e.HasOnset, e.DaysSinceOnset = false, 0 })
	k := federation.ToWire(want, want.Regions)
	k.DaysSinceOnsetOfSymptoms = 7 // left over
	got, err := federation.FromWire(k)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRegions(t *testing.T) {
	t.Parallel()
	got := federation.Regions([]string{"us", "CA", "Us"})
	if diff := cmp.Diff([]string{"CA", "US"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
