package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"contrib.go.opencensus.io/exporter/prometheus"
	"go.opencensus.io/plugin/ocgrpc"
	"go.opencensus.io/stats"
	"go.opencensus.io/stats/view"
	"go.opencensus.io/tag"
)

// Outcome is how a run of a job ended.
type Outcome string

// The outcomes.
const (
	Success Outcome = "success" // the work is done, or there was none
	Failure Outcome = "failure" // call it again
	Busy    Outcome = "busy"    // somebody else is at it
)

var (
	routeKey    = tag.MustNewKey("route")
	statusKey   = tag.MustNewKey("status")
	jobKey      = tag.MustNewKey("job")
	outcomeKey  = tag.MustNewKey("outcome")
	platformKey = tag.MustNewKey("platform")
	kindKey     = tag.MustNewKey("kind")

	neighbourKey = tag.MustNewKey("neighbour")
	reasonKey    = tag.MustNewKey("reason")

	requestSeconds = stats.Float64("en/http/request_seconds", "time to answer a request", stats.UnitSeconds)
	jobSeconds     = stats.Float64("en/job/run_seconds", "time that a run of a job took", stats.UnitSeconds)
	attested       = stats.Int64("en/upload/attested", "uploads of the last seven whole days", stats.UnitDimensionless)
	told           = stats.Int64("en/neighbour/told", "keys that a neighbour was told", stats.UnitDimensionless)
	jobSuccess     = stats.Float64("en/job/success_time", "when a job last did its work", stats.UnitSeconds)

	neighbourKeys      = stats.Int64("en/neighbour/keys", "keys taken over from a neighbour", stats.UnitDimensionless)
	neighbourRevisions = stats.Int64("en/neighbour/revisions", "revisions taken over from a neighbour", stats.UnitDimensionless)
	neighbourDropped   = stats.Int64("en/neighbour/dropped", "keys and revisions of a neighbour that were left out", stats.UnitDimensionless)
	neighbourSuccess   = stats.Float64("en/neighbour/success_time", "when we last had all that a neighbour had", stats.UnitSeconds)
	neighbourLag       = stats.Float64("en/neighbour/lag", "how far we are behind a neighbour", stats.UnitSeconds)
)

// views are all metrics that this system shows. Their names follow the custom
// of Prometheus: a prefix, what is counted, the base unit, and _total for counts.
// They are made once: OpenCensus tells them apart by their address.
var views = []*view.View{
	{
		Name:        "en_http_requests_total",
		Description: "Requests answered, by route and class of status (2xx, 4xx, 5xx).",
		Measure:     requestSeconds,
		TagKeys:     []tag.Key{routeKey, statusKey},
		Aggregation: view.Count(),
	},
	{
		Name:        "en_http_request_duration_seconds",
		Description: "Time from a request's header to the end of its answer, by route, in seconds.",
		Measure:     requestSeconds,
		TagKeys:     []tag.Key{routeKey},
		Aggregation: view.Distribution(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
	},
	{
		Name:        "en_job_runs_total",
		Description: "Runs of a scheduled job, by outcome (success, failure, busy).",
		Measure:     jobSeconds,
		TagKeys:     []tag.Key{jobKey, outcomeKey},
		Aggregation: view.Count(),
	},
	{
		Name:        "en_job_duration_seconds",
		Description: "Time that a run of a scheduled job took, by outcome, in seconds.",
		Measure:     jobSeconds,
		TagKeys:     []tag.Key{jobKey, outcomeKey},
		Aggregation: view.Distribution(0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900),
	},
	{
		Name:        "en_job_last_success_timestamp_seconds",
		Description: "When this instance last finished a run of a scheduled job, in seconds since 1970.",
		Measure:     jobSuccess,
		TagKeys:     []tag.Key{jobKey},
		Aggregation: view.LastValue(),
	},
	{
		Name:        "en_upload_attested_7d",
		Description: "Uploads of the last seven whole days, by platform and what became of the device's proof (none, genuine, doubtful).",
		Measure:     attested,
		TagKeys:     []tag.Key{platformKey, outcomeKey},
		Aggregation: view.LastValue(),
	},
	{
		Name:        "en_neighbour_keys_total",
		Description: "Keys that were taken over from a neighbour.",
		Measure:     neighbourKeys,
		TagKeys:     []tag.Key{neighbourKey},
		Aggregation: view.Sum(),
	},
	{
		Name:        "en_neighbour_revisions_total",
		Description: "Revisions that were taken over from a neighbour.",
		Measure:     neighbourRevisions,
		TagKeys:     []tag.Key{neighbourKey},
		Aggregation: view.Sum(),
	},
	{
		Name:        "en_neighbour_dropped_total",
		Description: "Keys and revisions of a neighbour that were left out, by reason.",
		Measure:     neighbourDropped,
		TagKeys:     []tag.Key{neighbourKey, reasonKey},
		Aggregation: view.Sum(),
	},
	{
		Name:        "en_neighbour_last_success_timestamp_seconds",
		Description: "When we last had all that a neighbour had, in seconds since 1970.",
		Measure:     neighbourSuccess,
		TagKeys:     []tag.Key{neighbourKey},
		Aggregation: view.LastValue(),
	},
	{
		Name:        "en_neighbour_lag_seconds",
		Description: "How far we were behind a neighbour after the last run that asked it, in seconds.",
		Measure:     neighbourLag,
		TagKeys:     []tag.Key{neighbourKey},
		Aggregation: view.LastValue(),
	},
	{
		Name:        "en_neighbour_told_total",
		Description: "Keys that a neighbour was told, by kind (key, revision).",
		Measure:     told,
		TagKeys:     []tag.Key{neighbourKey, kindKey},
		Aggregation: view.Sum(),
	},
	{
		// Without the method, which whoever calls may make up.
		Name:        "en_neighbour_answer_bytes",
		Description: "Size of answers to neighbours, in bytes.",
		Measure:     ocgrpc.ServerSentBytesPerRPC,
		Aggregation: view.Distribution(1<<10, 16<<10, 64<<10, 256<<10, 1<<20, 4<<20),
	},
}

// MetricsHandler shows all metrics in the text form of Prometheus. What was
// recorded before the first call is not counted.
func MetricsHandler() (http.Handler, error) {
	// Registering a view that is there already does nothing.
	if err := view.Register(views...); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return prometheus.NewExporter(prometheus.Options{})
}

// RecordRequest counts an answered request. The route is a pattern out of our
// own route table, never a path that a client made up.
func RecordRequest(ctx context.Context, route string, status int, took time.Duration) {
	record(ctx, []tag.Mutator{
		tag.Upsert(routeKey, route),
		tag.Upsert(statusKey, strconv.Itoa(status/100)+"xx"),
	}, requestSeconds.M(took.Seconds()))
}

// RecordJob counts a run of a scheduled job that ended at now.
func RecordJob(ctx context.Context, job string, outcome Outcome, took time.Duration, now time.Time) {
	measured := []stats.Measurement{jobSeconds.M(took.Seconds())}
	if outcome == Success {
		measured = append(measured, jobSuccess.M(float64(now.Unix())))
	}
	record(ctx, []tag.Mutator{
		tag.Upsert(jobKey, job),
		tag.Upsert(outcomeKey, string(outcome)),
	}, measured...)
}

// RecordAttested shows how many uploads of the last whole days came from a
// platform with a proof of an outcome. There is no count that moves with each
// upload: it would tell whoever reads metrics when somebody was ill.
func RecordAttested(ctx context.Context, platform, outcome string, n int64) {
	record(ctx, []tag.Mutator{
		tag.Upsert(platformKey, platform),
		tag.Upsert(outcomeKey, outcome),
	}, attested.M(n))
}

// RecordNeighbourPage counts what was taken over from a neighbour, by its name in
// our configuration, and what was left out, by reasons out of our own words.
func RecordNeighbourPage(ctx context.Context, neighbour string, keys, revisions int, dropped map[string]int) {
	name := tag.Upsert(neighbourKey, neighbour)
	record(ctx, []tag.Mutator{name}, neighbourKeys.M(int64(keys)), neighbourRevisions.M(int64(revisions)))
	for reason, n := range dropped {
		record(ctx, []tag.Mutator{name, tag.Upsert(reasonKey, reason)}, neighbourDropped.M(int64(n)))
	}
}

// RecordNeighbour shows how it stands with a neighbour after a run: when we last
// had all that it had (zero: never), and how far we are behind it.
func RecordNeighbour(ctx context.Context, neighbour string, succeeded time.Time, lag time.Duration) {
	measured := []stats.Measurement{neighbourLag.M(lag.Seconds())}
	if !succeeded.IsZero() {
		measured = append(measured, neighbourSuccess.M(float64(succeeded.Unix())))
	}
	record(ctx, []tag.Mutator{tag.Upsert(neighbourKey, neighbour)}, measured...)
}

// RecordTold counts the keys that a neighbour was told.
func RecordTold(ctx context.Context, neighbour string, keys, revisions int) {
	record(ctx, []tag.Mutator{tag.Upsert(neighbourKey, neighbour), tag.Upsert(kindKey, "key")}, told.M(int64(keys)))
	record(ctx, []tag.Mutator{tag.Upsert(neighbourKey, neighbour), tag.Upsert(kindKey, "revision")}, told.M(int64(revisions)))
}

// record drops what cannot be recorded: a metric is never worth a request.
func record(ctx context.Context, tags []tag.Mutator, measured ...stats.Measurement) {
	_ = stats.RecordWithTags(ctx, tags, measured...)
}
