// Package exposure knows what a temporary exposure key is, what of an upload
// may be kept, and how a diagnosis may change. It is pure: every answer is a
// function of values and a time.
package exposure

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"enkeyserver/internal/errs"
)

// KeySize is the length of a temporary exposure key in bytes.
const KeySize = 16

// Key is a temporary exposure key (TEK). It never shows itself in a log or an
// error: whatever verb formats it prints the word "redacted".
type Key [KeySize]byte

// ParseKey reads base64 in the standard or the URL alphabet, padded or not.
func ParseKey(text string) (Key, error) {
	raw, err := DecodeBase64(text)
	if err != nil || len(raw) != KeySize {
		return Key{}, errs.Invalid("bad_request", "a key must be base64 of %d bytes", KeySize)
	}
	return Key(raw), nil
}

// Base64 is the key in the padded standard alphabet, as phones send it.
func (k Key) Base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Format keeps the key out of every formatted text.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }

// LogValue keeps the key out of structured logs.
func (k Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// MarshalJSON refuses: without it a key in a logged struct would show as
// numbers. What is meant to be written writes Base64.
func (k Key) MarshalJSON() ([]byte, error) { return nil, errKeyInJSON }

var errKeyInJSON = errors.New("a key must not be written as JSON; Base64 gives its text where that is meant")

// DecodeBase64 reads base64 in the standard or the URL alphabet, padded or not:
// deployed clients use all four.
func DecodeBase64(text string) ([]byte, error) {
	// The decoder would skip line breaks, so one key would have many texts.
	if strings.ContainsAny(text, "\r\n") {
		return nil, errNotBase64
	}
	encoding := base64.RawStdEncoding
	if strings.HasSuffix(text, "=") {
		encoding = base64.StdEncoding
	}
	raw, err := encoding.DecodeString(toStandard.Replace(text))
	if err != nil {
		return nil, errNotBase64
	}
	return raw, nil
}

// errNotBase64 says less than the decoder's error, which tells where in the
// secret the mistake is.
var errNotBase64 = errors.New("not base64")

var toStandard = strings.NewReplacer("-", "+", "_", "/")

// Interval is an interval number: Unix seconds / 600.
type Interval int32

// IntervalsPerDay is the number of intervals in a UTC day.
const IntervalsPerDay = 144

// IntervalLength is the length of one interval.
const IntervalLength = 10 * time.Minute

// IntervalOf is the interval in which t lies.
func IntervalOf(t time.Time) Interval { return Interval(t.Unix() / int64(IntervalLength/time.Second)) }

// Time is the instant at which the interval begins.
func (i Interval) Time() time.Time {
	return time.Unix(int64(i)*int64(IntervalLength/time.Second), 0).UTC()
}

// Day is the UTC day in which the interval lies.
func (i Interval) Day() Day {
	if i < 0 { // division rounds towards zero, days go on downwards
		return Day((i+1)/IntervalsPerDay) - 1
	}
	return Day(i / IntervalsPerDay)
}

// Day is a UTC day, counted from 1970-01-01.
type Day int32

// DayOf is the UTC day in which t lies.
func DayOf(t time.Time) Day { return IntervalOf(t).Day() }

// Start is the first interval of the day.
func (d Day) Start() Interval { return Interval(d) * IntervalsPerDay }

// Time is the midnight with which the day begins.
func (d Day) Time() time.Time { return d.Start().Time() }

// Report is what is known about a diagnosis. Its numbers are those of export
// files and of federation.
type Report int16

// The reports. Phones call Likely "clinical diagnosis", Self "user report" and
// Revoked "negative".
const (
	Unknown   Report = 0
	Confirmed Report = 1
	Likely    Report = 2
	Self      Report = 3
	Recursive Report = 4
	Revoked   Report = 5
)

var reportNames = map[string]Report{
	"confirmed":   Confirmed,
	"likely":      Likely,
	"user-report": Self,
	"negative":    Revoked,
}

// ParseReport reads the reportType claim of a verification certificate.
func ParseReport(claim string) (Report, bool) {
	r, ok := reportNames[claim]
	return r, ok
}

// String is the claim's name for the report.
func (r Report) String() string {
	for name, report := range reportNames {
		if report == r {
			return name
		}
	}
	return "unknown"
}

// Exposure is a key with all that is published about it.
type Exposure struct {
	Key    Key
	Start  Interval // first interval in which the key was broadcast
	Period int32    // number of intervals, 1..144
	Risk   int32    // transmission risk, 0..8
	Report Report

	// DaysSinceOnset is the UTC day of the key less that of the first symptom,
	// -14..14; it says nothing unless HasOnset.
	DaysSinceOnset int32
	HasOnset       bool

	Regions  []string // upper case, sorted
	Traveler bool     // whoever had it has been abroad
}

// End is the first interval in which the key is no longer broadcast.
func (e Exposure) End() Interval { return e.Start + Interval(e.Period) }

// AcceptedAfterEnd is how long after its end phones still accept a key that
// they hear: two hours of tolerance for clocks that differ.
const AcceptedAfterEnd = 2 * time.Hour

// Release is when the key may be handed to anyone: once no phone would still
// believe somebody who replays it.
func (e Exposure) Release() time.Time { return e.End().Time().Add(AcceptedAfterEnd) }

// RetentionMargin is how much longer than its time to live a key is kept,
// counted from the end of its day: a batch that was cut late must still find it.
const RetentionMargin = 48 * time.Hour
