package exposure_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

// reports are all that a certificate can say.
var reports = []exposure.Report{exposure.Confirmed, exposure.Likely, exposure.Self, exposure.Revoked}

// Every change of a report, from every state that a key can be in.
func TestDecideTransitions(t *testing.T) {
	t.Parallel()
	allowed := map[[2]exposure.Report]bool{
		{exposure.Likely, exposure.Confirmed}: true,
		{exposure.Likely, exposure.Revoked}:   true,
		{exposure.Self, exposure.Confirmed}:   true,
		{exposure.Self, exposure.Likely}:      true,
		{exposure.Self, exposure.Revoked}:     true,
	}
	for _, from := range append(reports, exposure.Unknown, exposure.Recursive) {
		for _, to := range reports {
			d, err := decide(from, exposure.Unknown, to)
			switch {
			case from == to:
				wantDecision(t, d, err, 0, 1)
			case allowed[[2]exposure.Report{from, to}]:
				wantDecision(t, d, err, 1, 0)
			default:
				wantCode(t, err, "invalid_report_type_transition")
			}
		}
	}
}

// Nothing follows a revision, not even a way back.
func TestDecideOnlyOnce(t *testing.T) {
	t.Parallel()
	for _, revised := range reports {
		for _, to := range reports {
			d, err := decide(exposure.Self, revised, to)
			if to == revised {
				wantDecision(t, d, err, 0, 1)
				continue
			}
			wantCode(t, err, "key_already_revised")
		}
	}
}

func decide(from, revised, to exposure.Report) (exposure.Decision, error) {
	old := entest.Exposure(1, entest.Noon(), func(e *exposure.Exposure) { e.Report = from })
	up := entest.Exposure(1, entest.Noon(), func(e *exposure.Exposure) { e.Report = to })
	return exposure.Decide([]exposure.Exposure{up}, []exposure.Known{{Exposure: old, Revised: revised}}, exposure.ByToken(entest.Covered(old)))
}

func TestDecidePermission(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	likely := func(e *exposure.Exposure) { e.Report = exposure.Likely }
	old := entest.Exposure(1, noon, likely)
	other := entest.Exposure(2, noon, likely)
	up := entest.Exposure(1, noon)
	moved := entest.Exposure(1, noon, func(e *exposure.Exposure) { e.Start -= 144 })
	shorter := entest.Exposure(1, noon, func(e *exposure.Exposure) { e.Period-- })

	for _, tc := range []struct {
		why    string
		up     exposure.Exposure
		origin int
		may    exposure.Permission
		code   string // empty: revised
	}{
		{"the token covers it", up, 0, exposure.ByToken(entest.Covered(old, other)), ""},
		{"no token", up, 0, exposure.ByToken(nil), "missing_revision_token"},
		{"the token covers another key", up, 0, exposure.ByToken(entest.Covered(other)), "invalid_revision_token"},
		{"the token has another start", up, 0, exposure.ByToken(entest.Covered(moved)), "invalid_revision_token"},
		{"the token has another period", up, 0, exposure.ByToken(entest.Covered(shorter)), "invalid_revision_token"},
		{"the upload has another start", moved, 0, exposure.ByToken(entest.Covered(old)), "invalid_revision_token"},
		{"the upload has another period", shorter, 0, exposure.ByToken(entest.Covered(old)), "invalid_revision_token"},
		{"token and upload agree on a start that is not the known one", moved, 0, exposure.ByToken(entest.Covered(moved)), "invalid_revision_token"},
		{"the app needs no token", up, 0, exposure.WithoutToken(), ""},
		{"but the key must be the same", moved, 0, exposure.WithoutToken(), "invalid_revision_token"},
		{"a neighbour's key", up, 7, exposure.ByToken(entest.Covered(old)), "invalid_revision_token"},
		{"a neighbour's key, for an app without tokens", up, 7, exposure.WithoutToken(), "invalid_revision_token"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d, err := exposure.Decide([]exposure.Exposure{tc.up}, []exposure.Known{{Exposure: old, Origin: tc.origin}}, tc.may)
			if tc.code != "" {
				wantCode(t, err, tc.code)
				return
			}
			wantDecision(t, d, err, 1, 0)
		})
	}
}

// A revision must reach whoever got the key: regions and traveller stay, the
// rest is as uploaded now.
func TestDecideKeepsWhereTheKeyWent(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	old := entest.Exposure(1, noon, func(e *exposure.Exposure) {
		e.Report, e.Regions, e.Traveler = exposure.Likely, []string{"CA", "US"}, true
	})
	up := entest.Exposure(1, noon, func(e *exposure.Exposure) { e.Regions, e.Risk, e.DaysSinceOnset = []string{"MX"}, 7, -2 })
	fresh := entest.Exposure(2, noon)

	d, err := exposure.Decide([]exposure.Exposure{fresh, up}, []exposure.Known{{Exposure: old}}, exposure.ByToken(entest.Covered(old)))
	if err != nil {
		t.Fatal(err)
	}
	want := up
	want.Regions, want.Traveler = []string{"CA", "US"}, true
	if diff := cmp.Diff([]exposure.Exposure{want}, d.Revisions); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
}

// One key that may not change refuses all: a phone must not think that half of
// its upload was taken.
func TestDecideIsAllOrNothing(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	good := entest.Exposure(1, noon, func(e *exposure.Exposure) { e.Report = exposure.Likely })
	final := entest.Exposure(2, noon, func(e *exposure.Exposure) { e.Report = exposure.Revoked })
	ups := entest.Exposures(1, 2, noon)

	d, err := exposure.Decide(ups, []exposure.Known{{Exposure: good}, {Exposure: final}}, exposure.WithoutToken())
	wantCode(t, err, "invalid_report_type_transition")
	if diff := cmp.Diff(exposure.Decision{}, d); diff != "" {
		t.Errorf("a refused upload decides something (-want +got):\n%s", diff)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if errs.KindOf(err) != errs.KindInvalid || errs.CodeOf(err) != code {
		t.Errorf("got %v (%s), want %s", err, errs.CodeOf(err), code)
	}
}

func wantDecision(t *testing.T, d exposure.Decision, err error, revisions, unchanged int) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	if len(d.Revisions) != revisions || d.Unchanged != unchanged {
		t.Errorf("%d revisions and %d unchanged, want %d and %d", len(d.Revisions), d.Unchanged, revisions, unchanged)
	}
}
