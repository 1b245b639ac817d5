package exposure_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	want := exposure.Key{0xfb, 0xff, 0xbe, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	for _, tc := range []struct {
		why  string
		text string
		ok   bool
	}{
		{"standard, padded: what phones send", "+/++AwQFBgcICQoLDA0ODw==", true},
		{"standard, unpadded", "+/++AwQFBgcICQoLDA0ODw", true},
		{"URL alphabet, padded", "-_--AwQFBgcICQoLDA0ODw==", true},
		{"URL alphabet, unpadded", "-_--AwQFBgcICQoLDA0ODw", true},
		{"nothing", "", false},
		{"only padding", "==", false},
		{"half of the padding", "+/++AwQFBgcICQoLDA0ODw=", false},
		{"too much padding", "+/++AwQFBgcICQoLDA0ODw===", false},
		{"padding in the middle", "+/++AwQFBgcICQoLDA0O==Dw", false},
		{"15 bytes", "AAECAwQFBgcICQoLDA0O", false},
		{"17 bytes: phones loop for ever on them", "AAECAwQFBgcICQoLDA0ODxA=", false},
		{"a line break, which Go's decoder skips", "+/++AwQFBgcICQoLDA0ODw\n==", false},
		{"a carriage return", "\r+/++AwQFBgcICQoLDA0ODw==", false},
		{"blanks", " +/++AwQFBgcICQoLDA0ODw==", false},
		{"another alphabet", "+/++AwQFBgcICQoLDA0O\u00e4w==", false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := exposure.ParseKey(tc.text)
			if (err == nil) != tc.ok {
				t.Fatalf("ParseKey gave error %v, want ok %t", err, tc.ok)
			}
			if tc.ok && got != want {
				t.Error("ParseKey gave another key")
			}
		})
	}
}

// Whatever parses has one canonical text, and that text parses to the same key.
func FuzzParseKey(f *testing.F) {
	f.Add("+/++AwQFBgcICQoLDA0ODw==")
	f.Add("-_--AwQFBgcICQoLDA0ODw")
	f.Add("z2Cx9hdz2SlxZ8GEgqTYpA=\n=")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := exposure.ParseKey(text)
		if err != nil {
			if text != "" && strings.Contains(err.Error(), text) && len(text) > 4 {
				t.Errorf("the error repeats what was sent: %v", err)
			}
			return
		}
		again, err := exposure.ParseKey(key.Base64())
		if err != nil || again != key {
			t.Errorf("the canonical text of a key gave another key, or %v", err)
		}
		if len(strings.TrimRight(text, "=")) != 22 {
			t.Errorf("a key was read from %d characters", len(text))
		}
	})
}

// In every alphabet and padding, decoding is the inverse of encoding.
func FuzzDecodeBase64(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xfb, 0xff, 0xbe, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			got, err := exposure.DecodeBase64(encoding.EncodeToString(raw))
			if err != nil || !bytes.Equal(raw, got) {
				t.Errorf("DecodeBase64 gave %x, %v, want %x", got, err, raw)
			}
		}
		_, _ = exposure.DecodeBase64(string(raw)) // must not panic
	})
}

// A key shows itself in no text that anybody formats by accident.
func TestKeyIsRedacted(t *testing.T) {
	t.Parallel()
	e := entest.Exposure(1, entest.Noon())
	permission := exposure.ByToken(entest.Covered(e))
	holder := struct {
		E exposure.Exposure
		P *exposure.Permission
		M map[exposure.Key]exposure.Known
		S []exposure.Permission
	}{E: e, P: &permission, M: map[exposure.Key]exposure.Known{e.Key: {Exposure: e}}, S: []exposure.Permission{permission}}

	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&shown, verb+verb, e.Key, holder.E)
	}
	fmt.Fprintf(&shown, "%v %+v %s", holder, holder, permission)
	for _, h := range []slog.Handler{slog.NewJSONHandler(&shown, nil), slog.NewTextHandler(&shown, nil)} {
		slog.New(h).Info("x", "key", e.Key, "exposure", e, "holder", holder, "keys", []exposure.Key{e.Key})
	}

	text := strings.ToLower(shown.String())
	for _, form := range []string{
		strings.ToLower(e.Key.Base64()),
		fmt.Sprintf("%x", e.Key[:4]),
		fmt.Sprintf("%d %d %d", e.Key[0], e.Key[1], e.Key[2]),
		fmt.Sprintf("%d,%d,%d", e.Key[0], e.Key[1], e.Key[2]),
	} {
		if strings.Contains(text, form) {
			t.Errorf("a key is readable in %s", text)
		}
	}
	if _, err := json.Marshal(e); err == nil {
		t.Error("an exposure was written as JSON, want an error")
	}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	for _, tc := range []struct {
		why  string
		at   time.Time
		want exposure.Interval
		day  exposure.Day
	}{
		{"the first instant", time.Unix(0, 0), 0, 0},
		{"just before the second interval", time.Unix(599, 999), 0, 0},
		{"the second interval", time.Unix(600, 0), 1, 0},
		{"the last interval of a day", time.Unix(86399, 0), 143, 0},
		{"the next day", time.Unix(86400, 0), 144, 1},
		{"any noon", noon, 2674296, 18571},
		{"another zone does not matter", noon.In(time.FixedZone("", 13*3600)), 2674296, 18571},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if got := exposure.IntervalOf(tc.at); got != tc.want {
				t.Errorf("IntervalOf gave %d, want %d", got, tc.want)
			}
			if got := exposure.DayOf(tc.at); got != tc.day {
				t.Errorf("DayOf gave %d, want %d", got, tc.day)
			}
			if got := exposure.IntervalOf(tc.want.Time()); got != tc.want {
				t.Errorf("the time of interval %d lies in %d", tc.want, got)
			}
		})
	}
}

// Hostile numbers reach Day through neighbours' files too.
func TestDayOfAnyInterval(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		interval exposure.Interval
		want     exposure.Day
	}{
		{-1, -1},
		{-144, -1},
		{-145, -2},
		{-1 << 31, -14913081},
		{1<<31 - 1, 14913080},
	} {
		if got := tc.interval.Day(); got != tc.want {
			t.Errorf("interval %d lies in day %d, want %d", tc.interval, got, tc.want)
		}
	}
}

func TestReportNames(t *testing.T) {
	t.Parallel()
	names := map[string]exposure.Report{
		"confirmed":   exposure.Confirmed,
		"likely":      exposure.Likely,
		"user-report": exposure.Self,
		"negative":    exposure.Revoked,
	}
	for name, want := range names {
		got, ok := exposure.ParseReport(name)
		if !ok || got != want {
			t.Errorf("ParseReport(%q) gave %d, %t, want %d", name, got, ok, want)
		}
		if got.String() != name {
			t.Errorf("the name of report %d is %q, want %q", got, got, name)
		}
	}
	for _, name := range []string{"", "Confirmed", "recursive", "unknown", "revoked", "confirmed "} {
		if _, ok := exposure.ParseReport(name); ok {
			t.Errorf("ParseReport(%q) was ok", name)
		}
	}
	if got := exposure.Recursive.String(); got != "unknown" {
		t.Errorf("a report that no certificate has is named %q", got)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	noon := entest.Noon()
	yesterday := entest.Exposure(1, noon)
	short := entest.Exposure(2, noon, func(e *exposure.Exposure) { e.Start, e.Period = exposure.IntervalOf(noon), 1 })

	got := []time.Time{yesterday.Release(), short.Release(), entest.Rules().Release(yesterday)}
	midnight := noon.Add(-12 * time.Hour)
	want := []time.Time{midnight.Add(2 * time.Hour), noon.Add(2*time.Hour + 10*time.Minute), midnight.Add(2 * time.Hour)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ends of embargoes (-want +got):\n%s", diff)
	}

	lifted := entest.Rules()
	lifted.ReleaseSameDay = true
	if at := lifted.Release(short); at.After(noon) {
		t.Errorf("without embargo a key is released at %s, want at once", at)
	}
}
