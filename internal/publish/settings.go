package publish

import (
	"fmt"
	"time"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/revision"
)

// Settings shape what phones may upload and how they are answered.
type Settings struct {
	MaxKeys           int           `envconfig:"MAX_KEYS_ON_PUBLISH" default:"30" min:"1" max:"480" desc:"keys an upload may have; one with more is refused"`
	MaxSameStart      int           `envconfig:"MAX_SAME_START_INTERVAL_KEYS" default:"3" min:"1" desc:"keys of an upload that may share a start interval, and so overlap"`
	MaxAge            time.Duration `envconfig:"MAX_INTERVAL_AGE_ON_PUBLISH" default:"360h" min:"24h" desc:"how long ago a key may have ended; at most CLEANUP_TTL + 48h of the cleanup service, for older keys are forgotten unpublished"`
	MaxOnsetReportAge int           `envconfig:"MAX_VALID_SYMPTOM_ONSET_REPORT_DAYS" default:"28" min:"0" desc:"days; an earlier symptom onset counts as not told"`
	DefaultOnsetAge   int           `envconfig:"DEFAULT_SYMPTOM_ONSET_DAYS_AGO" default:"4" min:"0" desc:"days before the upload that are assumed when no onset was told"`
	MaxOnsetDistance  int           `envconfig:"MAX_SYMPTOM_ONSET_DAYS" default:"14" min:"0" max:"14" desc:"days between a key and the onset; keys further away are left out; at most 14, for phones refuse more"`

	ChaffMaxLatencyMS int `envconfig:"CHAFF_REQUEST_MAX_LATENCY_MS" default:"1000" min:"0" max:"9000" desc:"milliseconds; the longest that an answer to chaff waits to look like a real one; real ones that take longer can be told apart"`
	PaddingMin        int `envconfig:"RESPONSE_PADDING_MIN_BYTES" default:"1024" min:"0" max:"65536" desc:"bytes of random padding that every answer has at least"`
	PaddingRange      int `envconfig:"RESPONSE_PADDING_RANGE" default:"1024" min:"0" max:"65536" desc:"bytes; up to so much more padding, at random; less hides less"`

	V1Alpha1 bool `envconfig:"ENABLE_V1ALPHA1_API" default:"false" desc:"also serve POST /, for old apps"`

	StatsAudience string        `envconfig:"STATS_AUDIENCE" desc:"audience that requests for statistics must name; empty refuses them all"`
	StatsMinimum  int64         `envconfig:"STATS_UPLOAD_MINIMUM" default:"10" min:"0" desc:"uploads; a day with fewer is hidden until STATS_EMBARGO_PERIOD after its end; fewer are easier to recognise"`
	StatsEmbargo  time.Duration `envconfig:"STATS_EMBARGO_PERIOD" default:"48h" min:"0s" desc:"how long after its end a day with few uploads is hidden"`

	ReleaseSameDay bool `envconfig:"DEBUG_RELEASE_SAME_DAY_KEYS" default:"false" desc:"development only: publish keys that phones still accept, so that anybody can replay them"`
}

// check refuses what cannot work together.
func (s Settings) check() error {
	if s.DefaultOnsetAge > s.MaxOnsetDistance {
		return fmt.Errorf("DEFAULT_SYMPTOM_ONSET_DAYS_AGO is %d: it must be at most MAX_SYMPTOM_ONSET_DAYS, which is %d, or today's keys are left out",
			s.DefaultOnsetAge, s.MaxOnsetDistance)
	}
	if s.DefaultOnsetAge > s.MaxOnsetReportAge {
		return fmt.Errorf("DEFAULT_SYMPTOM_ONSET_DAYS_AGO is %d: it must be at most MAX_VALID_SYMPTOM_ONSET_REPORT_DAYS, which is %d",
			s.DefaultOnsetAge, s.MaxOnsetReportAge)
	}
	return nil
}

func (s Settings) rules() exposure.Rules {
	return exposure.Rules{
		MaxKeys:           s.MaxKeys,
		MaxSameStart:      s.MaxSameStart,
		MaxAge:            s.MaxAge,
		MaxOnsetReportAge: s.MaxOnsetReportAge,
		DefaultOnsetAge:   s.DefaultOnsetAge,
		MaxOnsetDistance:  s.MaxOnsetDistance,
		ReleaseSameDay:    s.ReleaseSameDay,
	}
}

// TokenRetention is for how long a revision token can be of use.
func (s Settings) TokenRetention() time.Duration { return revision.TokenLife(s.MaxAge) }

func (s Settings) chaffMaxLatency() time.Duration {
	return time.Duration(s.ChaffMaxLatencyMS) * time.Millisecond
}
