package exposure

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"enkeyserver/internal/errs"
)

// MaxPeriod is the longest rolling period of a key: a day.
const MaxPeriod = IntervalsPerDay

// MaxRisk is the highest transmission risk that phones accept.
const MaxRisk = 8

// Submitted is a key as a phone sent it: nothing about it has been checked.
type Submitted struct {
	Text   string // base64, exactly as sent: the certificate's HMAC covers these characters
	Start  int32
	Period int32
	Risk   int32
}

// Rules say what of an upload may be kept.
type Rules struct {
	MaxKeys      int           // keys a request
	MaxSameStart int           // keys that may share a start interval, and so overlap
	MaxAge       time.Duration // how long ago a key may have ended

	MaxOnsetReportAge int // days: an older symptom onset counts as not told
	DefaultOnsetAge   int // days before the upload, when no onset was told
	MaxOnsetDistance  int // days between a key and the onset; at most 14, which is what phones accept

	// ReleaseSameDay lifts the embargo, for development only: a key that is
	// published while phones still accept it can be replayed by anybody.
	ReleaseSameDay bool
}

// Drop tells why a key of a request was left out. It never holds the key.
type Drop struct {
	Index  int // in the request
	Reason string
}

// String tells both, for the client.
func (d Drop) String() string { return fmt.Sprintf("key %d is left out: %s", d.Index, d.Reason) }

// Keep decides which keys of a request may be kept, in the order in which they
// were sent. A key that breaks a rule of its own is dropped and the others go
// on; a key that was sent twice counts once.
//
// What is wrong with the request as a whole refuses it: too many keys, an
// overlap, one key with two meanings, or no key left. The error then comes
// with the keys that were dropped before, and none kept.
func (r Rules) Keep(sent []Submitted, now time.Time) (kept []Exposure, dropped []Drop, err error) {
	if len(sent) > r.MaxKeys {
		return nil, nil, errs.Invalid("bad_request", "%d keys are too many: send at most %d", len(sent), r.MaxKeys)
	}
	for i, s := range sent {
		e, reason := r.read(s, now)
		if reason != "" {
			dropped = append(dropped, Drop{Index: i, Reason: reason})
			continue
		}
		kept = append(kept, e)
	}
	if len(kept) == 0 {
		return nil, dropped, noneLeft(dropped)
	}
	if kept, err = once(kept); err != nil {
		return nil, dropped, err
	}
	if err := r.checkOverlap(kept); err != nil {
		return nil, dropped, err
	}
	return kept, dropped, nil
}

// read checks one key. The reason is empty when the key may be kept.
func (r Rules) read(s Submitted, now time.Time) (e Exposure, reason string) {
	key, err := ParseKey(s.Text)
	if err != nil {
		return Exposure{}, fmt.Sprintf("it must be base64 of %d bytes", KeySize)
	}
	if s.Period < 1 || s.Period > MaxPeriod {
		return Exposure{}, fmt.Sprintf("its rollingPeriod must be 1 to %d", MaxPeriod)
	}
	if s.Risk < 0 || s.Risk > MaxRisk {
		return Exposure{}, fmt.Sprintf("its transmissionRisk must be 0 to %d", MaxRisk)
	}
	if reason := r.misplaced(s, now); reason != "" {
		return Exposure{}, reason
	}
	return Exposure{Key: key, Start: Interval(s.Start), Period: s.Period, Risk: s.Risk}, ""
}

// misplaced tells why a key cannot have been broadcast when it says. The sum
// of a hostile start and its period does not fit an int32.
func (r Rules) misplaced(s Submitted, now time.Time) (reason string) {
	if s.Start < 0 {
		return "its rollingStartNumber must not be negative"
	}
	if Interval(s.Start) > IntervalOf(now) {
		return "it starts in the future"
	}
	if int64(s.Start)+int64(s.Period) < int64(IntervalOf(now.Add(-r.MaxAge))) {
		return "it ended too long ago"
	}
	return ""
}

func noneLeft(dropped []Drop) error {
	if len(dropped) == 0 {
		return errs.Invalid("bad_request", "there is no key in the request")
	}
	return errs.Invalid("bad_request", "none of the %d keys can be kept: %s", len(dropped), dropped[0])
}

// once removes repetitions. The same key with another meaning refuses the
// request: no choice between the two would be right.
func once(keys []Exposure) ([]Exposure, error) {
	seen := make(map[Key]Exposure, len(keys))
	unique := keys[:0]
	for _, e := range keys {
		old, again := seen[e.Key]
		if again && (old.Start != e.Start || old.Period != e.Period || old.Risk != e.Risk) {
			return nil, errs.Invalid("bad_request", "a key is sent twice with different values: send it once")
		}
		if again {
			continue
		}
		seen[e.Key] = e
		unique = append(unique, e)
	}
	return unique, nil
}

// checkOverlap refuses keys that were broadcast at the same time. Phones make
// a new key before the day is over when an app asks for it, so a few keys may
// share a start; any other overlap is not what one phone does. A key lasts
// from its start up to, not including, its end.
func (r Rules) checkOverlap(keys []Exposure) error {
	byStart := slices.SortedFunc(slices.Values(keys), func(a, b Exposure) int { return cmp.Compare(a.Start, b.Start) })
	same, start, end := 0, Interval(-1), Interval(math.MinInt32)
	for _, e := range byStart {
		if e.Start != start {
			if e.Start < end {
				return errs.Invalid("bad_request", "keys overlap that do not share a rollingStartNumber")
			}
			same, start = 0, e.Start
		}
		if same++; same > r.MaxSameStart {
			return errs.Invalid("bad_request", "more than %d keys share a rollingStartNumber", r.MaxSameStart)
		}
		end = max(end, e.End())
	}
	return nil
}

// Release is when the embargo of a key ends: see Exposure.Release.
func (r Rules) Release(e Exposure) time.Time {
	if r.ReleaseSameDay {
		return e.Start.Time()
	}
	return e.Release()
}
