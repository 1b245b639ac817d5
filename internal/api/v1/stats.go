package apiv1

import "time"

// Stats is the body of POST /v1/stats.
type Stats struct {
	Padding string `json:"padding"` // ignored: it hides the size of the request
}

// StatsResponse answers every stats request, good or bad.
type StatsResponse struct {
	Days    []StatsDay `json:"days"` // newest first; never null
	Error   string     `json:"error,omitempty"`
	Code    string     `json:"code,omitempty"`
	Padding string     `json:"padding,omitempty"`
}

// StatsDay is what a health authority learns of the uploads of one UTC day.
type StatsDay struct {
	Day             time.Time     `json:"day"` // midnight with which it begins
	PublishRequests StatsRequests `json:"publish_requests"`
	KeysPublished   int64         `json:"total_teks_published"`
	Revisions       int64         `json:"requests_with_revisions"`
	KeyAges         []int64       `json:"tek_age_distribution"`         // 17 counts: 0..15 whole days, more
	OnsetToUpload   []int64       `json:"onset_to_upload_distribution"` // 31 counts: 0..29 whole days, more
	MissingOnset    int64         `json:"requests_missing_onset_date"`
}

// StatsRequests are uploads by kind of phone.
type StatsRequests struct {
	Unknown int64 `json:"unknown"`
	Android int64 `json:"android"`
	IOS     int64 `json:"ios"`
}

// Total is all of them.
func (r StatsRequests) Total() int64 { return r.Unknown + r.Android + r.IOS }
