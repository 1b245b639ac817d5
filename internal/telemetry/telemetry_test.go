package telemetry_test

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/telemetry"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why           string
		level, format string
		want          string
	}{
		{"JSON, with durations in seconds", "info", "json", `{"time":"T","level":"INFO","msg":"done","took":1.5}` + "\n" + `{"time":"T","level":"ERROR","msg":"broken"}` + "\n"},
		{"text, with durations for people", "info", "text", "time=T level=INFO msg=done took=1.5s\ntime=T level=ERROR msg=broken\n"},
		{"less important records are left out", "warn", "text", "time=T level=ERROR msg=broken\n"},
		{"all of them", "debug", "text", "time=T level=DEBUG msg=detail\ntime=T level=INFO msg=done took=1.5s\ntime=T level=ERROR msg=broken\n"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			log, err := telemetry.NewLogger(&b, telemetry.Settings{LogLevel: tc.level, LogFormat: tc.format})
			if err != nil {
				t.Fatal(err)
			}
			log.Debug("detail")
			log.Info("done", slog.Duration("took", 1500*time.Millisecond))
			log.Error("broken")

			got := regexp.MustCompile(`20\d\d-[^ "]*`).ReplaceAllString(b.String(), "T")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewLoggerRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		settings telemetry.Settings
		want     string
	}{
		{telemetry.Settings{LogLevel: "loud", LogFormat: "json"}, "LOG_LEVEL must be debug, info, warn or error"},
		{telemetry.Settings{LogLevel: "info", LogFormat: "xml"}, "LOG_FORMAT must be json or text"},
	} {
		if _, err := telemetry.NewLogger(nil, tc.settings); err == nil || err.Error() != tc.want {
			t.Errorf("error %v, want %s", err, tc.want)
		}
	}
}
