package telemetry_test

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/telemetry"
)

// One story, because the metrics belong to the process.
func TestMetrics(t *testing.T) {
	t.Parallel()
	handler, err := telemetry.MetricsHandler()
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)
	ctx := t.Context()
	route, job := "POST /"+rand.Text(), rand.Text() // new ones in each run of the test

	telemetry.RecordRequest(ctx, route, http.StatusOK, 20*time.Millisecond)
	telemetry.RecordRequest(ctx, route, http.StatusNoContent, 30*time.Millisecond)
	telemetry.RecordRequest(ctx, route, http.StatusBadRequest, time.Millisecond)
	telemetry.RecordJob(ctx, job, telemetry.Success, 2*time.Second, noon)
	telemetry.RecordJob(ctx, job, telemetry.Failure, time.Second, noon.Add(time.Hour))
	telemetry.RecordJob(ctx, job, telemetry.Busy, 0, noon.Add(time.Hour))

	telemetry.RecordAttested(ctx, "android", "doubtful", 4)
	telemetry.RecordAttested(ctx, "android", "doubtful", 3)
	neighbour := rand.Text()
	telemetry.RecordTold(ctx, neighbour, 500, 2)
	telemetry.RecordTold(ctx, neighbour, 100, 0)

	telemetry.RecordNeighbourPage(ctx, "ca", 5, 1, map[string]int{"too old": 2})
	telemetry.RecordNeighbourPage(ctx, "ca", 2, 0, nil)
	telemetry.RecordNeighbour(ctx, "ca", noon, 90*time.Second)

	want := []string{
		`en_http_request_duration_seconds_bucket{route="POST /v1/publish",le="0.001"} 0`,
		`en_http_request_duration_seconds_bucket{route="POST /v1/publish",le="0.025"} 2`,
		`en_http_request_duration_seconds_count{route="POST /v1/publish"} 3`,
		`en_http_requests_total{route="POST /v1/publish",status="2xx"} 2`,
		`en_http_requests_total{route="POST /v1/publish",status="4xx"} 1`,
		`en_job_duration_seconds_count{job="seal",outcome="success"} 1`,
		`en_job_last_success_timestamp_seconds{job="seal"} 1.6045776e+09`,
		`en_job_runs_total{job="seal",outcome="busy"} 1`,
		`en_job_runs_total{job="seal",outcome="failure"} 1`,
		`en_job_runs_total{job="seal",outcome="success"} 1`,
		`en_neighbour_dropped_total{neighbour="ca",reason="too old"} 2`,
		`en_neighbour_keys_total{neighbour="ca"} 7`,
		`en_neighbour_lag_seconds{neighbour="ca"} 90`,
		`en_neighbour_last_success_timestamp_seconds{neighbour="ca"} 1.6045776e+09`,
		`en_neighbour_revisions_total{neighbour="ca"} 1`,
		`en_neighbour_told_total{kind="key",neighbour="ca"} 600`,
		`en_neighbour_told_total{kind="revision",neighbour="ca"} 2`,
		`en_upload_attested_7d{outcome="doubtful",platform="android"} 3`,
	}
	names := strings.NewReplacer(route, "POST /v1/publish", job, "seal", neighbour, "ca")
	shown := names.Replace(scrape(t, handler))
	var got []string
	for _, line := range want {
		if strings.Contains(shown, line+"\n") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s\nin:\n%s", diff, shown)
	}
}

func TestEveryMetricSaysWhatItIs(t *testing.T) {
	t.Parallel()
	handler, err := telemetry.MetricsHandler()
	if err != nil {
		t.Fatal(err)
	}
	telemetry.RecordRequest(t.Context(), "GET /other", http.StatusOK, 0)
	for line := range strings.Lines(scrape(t, handler)) {
		if name, help, ok := strings.Cut(strings.TrimPrefix(line, "# HELP "), " "); ok && strings.HasPrefix(line, "# HELP") {
			if !strings.HasPrefix(name, "en_") || !strings.HasSuffix(help, ".\n") {
				t.Errorf("metric %s is described as %q", name, help)
			}
		}
	}
}

// scrape reads the metrics as Prometheus does.
func scrape(t *testing.T, handler http.Handler) string {
	t.Helper()
	// What was recorded waits in a queue, and registering goes through it too.
	if _, err := telemetry.MetricsHandler(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}
