package configuration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/store"
)

// days is a time so many days after noon; - is none.
func days(t *testing.T, text string) time.Time {
	t.Helper()
	if text == "-" {
		return time.Time{}
	}
	var n float64
	if _, err := fmt.Sscanf(text, "%g", &n); err != nil {
		t.Fatal(err)
	}
	return noon().Add(time.Duration(n * 24 * float64(time.Hour)))
}

// signedBy is an export from day 0 on with the keys, each written as its name,
// from, leads and thru in days.
func signedBy(t *testing.T, texts ...string) (store.ExportConfig, []store.SigningKeyConfig) {
	t.Helper()
	x := store.ExportConfig{Name: "us"}
	var keys []store.SigningKeyConfig
	for _, text := range texts {
		w := strings.Fields(text)
		x.SigningKeys = append(x.SigningKeys, w[0])
		keys = append(keys, store.SigningKeyConfig{
			Name: w[0], KeyID: "310", KeyVersion: w[0], From: days(t, w[1]), Leads: days(t, w[2]), Thru: days(t, w[3]),
		})
	}
	return x, append(keys, store.SigningKeyConfig{Name: "of_another_export"})
}

// told says in a line what a signing status says: the keys of today, each step
// with its day, and the warnings with theirs.
func told(s configuration.Signing) string {
	day := func(at time.Time) string { return fmt.Sprintf("%g", at.Sub(noon()).Hours()/24) }
	var words []string
	for _, k := range s.Today {
		words = append(words, k.Name)
	}
	for _, step := range s.Next {
		words = append(words, "|", day(step.At)+":")
		for _, k := range step.Keys {
			words = append(words, k.Name)
		}
		words = append(words, "("+strings.Join(step.What, ", ")+")")
	}
	for _, w := range s.Warnings {
		words = append(words, "!", w.Code, day(w.At))
	}
	return strings.Join(words, " ")
}

func TestSigningOf(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		keys []string
		want string
	}{
		{"one key for ever", []string{"a - - -"}, "a"},
		{"a rotation as it should be", []string{"a - - 60", "b 1 8 -"}, "a | 1: a b (b is added) | 8: b a (b leads) | 60: b (a ends)"},
		{"the same on its tenth day", []string{"a - - 50", "b -9 -2 -"}, "b a | 50: b (a ends)"},
		{"and on its last", []string{"a - - 20", "b -39 -32 -"}, "b a | 20: b (a ends) ! ends_soon 20"},
		{"the new key leads with its first file", []string{"a - - -", "b 1 - -"}, "a | 1: b a (b is added, b leads) ! not_rehearsed 1"},
		{"it did so long ago", []string{"a - - 99", "b -40 - -"}, "b a | 99: b (a ends)"},
		{"who knows the old key only is left without files", []string{"a - - 40", "b 40 - -"}, "a | 40: b (a ends, b is added, b leads) ! no_overlap 40"},
		{"a week is short", []string{"a - - 40", "b 33 36 -"}, "a | 33: a b (b is added) | 36: b a (b leads) | 40: b (a ends) ! short_overlap 36"},
		{"the old one ends while the new is rehearsed", []string{"a - - 40", "b 10 50 -"}, "a | 10: a b (b is added) | 40: b (a ends, b leads)"},
		{"nobody follows", []string{"a - - 40"}, "a | 40: (a ends) ! no_key 40"},
		{"nobody follows soon", []string{"a - - 30"}, "a | 30: (a ends) ! no_key 30 ! ends_soon 30"},
		{"a hole", []string{"a - - 40", "b 41 - -"}, "a | 40: (a ends) | 41: b (b is added, b leads) ! no_key 40 ! no_overlap 41"},
		{"nobody yet", []string{"a 1 - -"}, "| 1: a (a is added, a leads) ! no_key 0"},
		{"nobody any more", []string{"a - - -1"}, "! no_key 0"},
		{"no key at all", nil, "! no_key 0"},
		{"the new key has leaked: the old one takes over", []string{"a - - -", "b -9 - 0"}, "a"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			x, keys := signedBy(t, tc.keys...)
			if diff := cmp.Diff(tc.want, told(configuration.SigningOf(x, keys, noon()))); diff != "" {
				t.Errorf("signing (-want +got):\n%s", diff)
			}
		})
	}
}

// What comes after an export's end does not matter, nor what was before it.
func TestSigningOfAnExportThatEnds(t *testing.T) {
	t.Parallel()
	x, keys := signedBy(t, "a 2 - 60")
	x.From, x.Thru = days(t, "2"), days(t, "60")
	if diff := cmp.Diff("| 2: a (a is added, a leads)", told(configuration.SigningOf(x, keys, noon()))); diff != "" {
		t.Errorf("signing (-want +got):\n%s", diff)
	}
}

// The dates that apply refuses, and those that it only tells of.
func TestSigningDates(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why     string
		keys    []string
		refusal string
		notes   int
	}{
		{"a rotation as it should be", []string{"a - - 60", "b 1 8 -"}, "", 0},
		{"keys that touch", []string{"a - - 40", "b 40 - -"}, "", 1},
		{"a hole between two keys", []string{"a - - 40", "b 40.5 - -"}, "no signing key is valid from 2020-12-15T12:00:00Z to 2020-12-16T00:00:00Z", 0},
		{"the last key ends: it may have leaked", []string{"a - - 40"}, "", 1},
		{"the key has leaked, and no other is known to phones before tomorrow", []string{"a - - 0", "b 1 - -"}, "", 2},
		{"a start to come", []string{"b 1 - -"}, "", 1},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			x, keys := signedBy(t, tc.keys...)
			plan, err := configuration.NewPlan(store.Configuration{}, store.Configuration{
				SigningKeys: keys, Exports: []store.ExportConfig{x},
			}, configuration.KeepOthers, noon())
			if (err == nil) != (tc.refusal == "") || err != nil && !strings.Contains(err.Error(), tc.refusal) {
				t.Fatalf("error %v, want one about %q", err, tc.refusal)
			}
			if len(plan.Notes) != tc.notes {
				t.Errorf("notes %q, want %d", plan.Notes, tc.notes)
			}
		})
	}
}

// Two keys of one export must differ for phones, wherever they were written.
func TestSigningNames(t *testing.T) {
	t.Parallel()
	x, keys := signedBy(t, "a - - -", "b - - -")
	keys[1].KeyVersion = keys[0].KeyVersion
	current := store.Configuration{SigningKeys: keys[:1]}
	wanted := store.Configuration{SigningKeys: keys[1:2], Exports: []store.ExportConfig{x}}
	_, err := configuration.NewPlan(current, wanted, configuration.KeepOthers, noon())
	if err == nil || !strings.Contains(err.Error(), "a and b have the same id and version") {
		t.Errorf("error %v, want one about keys that phones cannot tell apart", err)
	}
}

// A hole in an export that has ended is nobody's concern.
func TestSigningDatesOfTheEnded(t *testing.T) {
	t.Parallel()
	x, keys := signedBy(t, "a - - 40", "b 41 - -")
	x.Thru = noon()
	if _, err := configuration.NewPlan(store.Configuration{SigningKeys: keys, Exports: []store.ExportConfig{x}},
		store.Configuration{}, configuration.KeepOthers, noon()); err != nil {
		t.Error(err)
	}
}

// A key leads within its own time, and comes out of the database as it went in.
func TestSigningLeads(t *testing.T) {
	t.Parallel()
	const from, leads, thru = "2020-11-10T00:00:00Z", "2020-11-17T00:00:00Z", "2021-11-10T00:00:00Z"
	for _, tc := range []struct {
		why, dates string
		refused    bool
	}{
		{"a rehearsal", "from: " + from + "\n    leads: " + leads + "\n    thru: " + thru, false},
		{"of a key without a beginning", "leads: " + leads, false},
		{"it leads at once", "from: " + from + "\n    leads: " + from, false},
		{"before it begins", "from: " + leads + "\n    leads: " + from, true},
		{"when it has ended", "leads: " + thru + "\n    thru: " + thru, true},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			text := edited(t, "version: v1\n", "version: v1\n    "+tc.dates+"\n")
			wanted, err := configuration.Parse(text, "../../docs")
			if tc.refused != (err != nil) || err != nil && !strings.Contains(err.Error(), "leads must not be before from, and must be before thru") {
				t.Fatalf("error %v, want a refusal %t", err, tc.refused)
			}
			if tc.refused {
				return
			}
			o.apply(wanted, configuration.KeepOthers)
			file, err := configuration.FileOf(o.configuration(), noon())
			if err != nil {
				t.Fatal(err)
			}
			again, err := file.YAML()
			if err != nil {
				t.Fatal(err)
			}
			back, err := configuration.Parse(again, "../../docs")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wanted.SigningKeys, back.SigningKeys); diff != "" {
				t.Errorf("from the database (-want +got):\n%s", diff)
			}
		})
	}
}
