package publish_test

import (
	"strings"
	"testing"

	"enkeyserver/internal/publish"
)

// Settings that contradict each other are told with both names.
func TestSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*publish.Settings)
		want string
	}{
		{"the defaults are fine", func(*publish.Settings) {}, ""},
		{"today's keys would be left out", func(s *publish.Settings) { s.MaxOnsetDistance = 3 }, "MAX_SYMPTOM_ONSET_DAYS"},
		{"the assumed onset would not count", func(s *publish.Settings) { s.MaxOnsetReportAge = 3 }, "MAX_VALID_SYMPTOM_ONSET_REPORT_DAYS"},
	} {
		s, err := defaults()
		if err != nil {
			t.Fatal(err)
		}
		tc.edit(&s)
		_, err = publish.NewService(s, publish.Deps{DevelopmentOnly: func(string, bool) error { return nil }})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want an error with %q", tc.why, err, tc.want)
		}
	}
}
