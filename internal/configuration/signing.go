package configuration

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// How much care a key that turns over deserves before somebody is warned.
const (
	// rehearsal is for how long a new key stands in files before it leads, so
	// that one that phones cannot use shows itself while another one is first.
	rehearsal = 24 * time.Hour

	// companionship is for how long files have the old key and the new one:
	// phones that were off meanwhile, or got the new one late, need no other.
	companionship = 14 * 24 * time.Hour

	// soon is how long before its end a key is warned of: a new one must be made,
	// registered and rehearsed until then.
	soon = 30 * 24 * time.Hour
)

// Signing is who signs an export, by the dates of its keys.
type Signing struct {
	Since    time.Time                // when today's order began; zero: always
	Today    []store.SigningKeyConfig // the leading one first
	Next     []SigningStep            // each change to come
	Warnings []SigningWarning
}

// SigningStep is a change of the keys that sign.
type SigningStep struct {
	At   time.Time
	What []string // "us-2 is added"
	Keys []store.SigningKeyConfig
}

// SigningWarning is what phones, or the operator, will regret.
type SigningWarning struct {
	Code string    `json:"code"`          // no_key, no_overlap, short_overlap, not_rehearsed, ends_soon
	Key  string    `json:"key,omitempty"` // its name
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"text"`
}

// SigningOf tells who signs an export now, and what the dates of the keys will
// change.
func SigningOf(x store.ExportConfig, keys []store.SigningKeyConfig, now time.Time) Signing {
	own := keysOf(x, keys)
	s := Signing{Today: store.SigningOrder(own, now)}
	order := []store.SigningKeyConfig(nil)
	for _, at := range turns(own) {
		next := store.SigningOrder(own, at)
		if slices.Equal(names(order), names(next)) {
			continue
		}
		if !at.After(now) {
			s.Since = at
		} else if x.Thru.IsZero() || at.Before(x.Thru) {
			s.Next = append(s.Next, SigningStep{At: at, What: turned(order, next), Keys: next})
		}
		order = next
	}
	s.Warnings = slices.Concat(warnOfGaps(x, own, now), warnOfHandovers(own, now), warnOfEnds(own, now))
	return s
}

// keysOf gives the keys that an export names.
func keysOf(x store.ExportConfig, keys []store.SigningKeyConfig) (own []store.SigningKeyConfig) {
	for _, k := range keys {
		if slices.Contains(x.SigningKeys, k.Name) {
			own = append(own, k)
		}
	}
	return own
}

// turns are all times at which the order of keys can change, in order; the zero
// time is the beginning.
func turns(keys []store.SigningKeyConfig) []time.Time {
	all := []time.Time{}
	for _, k := range keys {
		all = append(all, k.From, k.LeadsFrom())
		if !k.Thru.IsZero() {
			all = append(all, k.Thru)
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

func names(keys []store.SigningKeyConfig) (all []string) {
	for _, k := range keys {
		all = append(all, k.Name)
	}
	return all
}

// gap is a time in which no key of an export is valid. Without an end it is the
// zero time.
type gap struct{ from, until time.Time }

// gaps finds where no key signs what an export cuts from now on.
func gaps(x store.ExportConfig, own []store.SigningKeyConfig, now time.Time) (all []gap) {
	begin := now
	if x.From.After(now) {
		begin = x.From
	}
	times := append([]time.Time{begin}, turns(own)...)
	slices.SortFunc(times, time.Time.Compare)
	open := false
	for _, at := range times {
		if at.Before(begin) || !x.Thru.IsZero() && !at.Before(x.Thru) {
			continue
		}
		switch signed := len(store.SigningOrder(own, at)) > 0; {
		case !signed && !open:
			all = append(all, gap{from: at})
		case signed && open:
			all[len(all)-1].until = at
		}
		open = len(all) > 0 && all[len(all)-1].until.IsZero()
	}
	return all
}

// refuseGaps refuses dates that leave an export without a key between two of
// them: nobody means that. That no key is valid now, or that the last one ends,
// may be meant, by somebody whose key has leaked; it is told.
func refuseGaps(final store.Configuration, now time.Time) error {
	var found problems
	for _, x := range final.Exports {
		if !x.Thru.IsZero() && !x.Thru.After(now) {
			continue
		}
		own := keysOf(x, final.SigningKeys)
		for _, g := range gaps(x, own, now) {
			if g.from.After(now) && !g.until.IsZero() && !g.from.Equal(x.From) {
				found = append(found, fmt.Sprintf("export %s: no signing key is valid from %s to %s: let the next key begin before the last one ends", x.Name, at(g.from), at(g.until)))
			}
		}
		found = append(found, sameNames(x, own)...)
	}
	if len(found) > 0 {
		return errs.From(found, errs.KindInvalid, "configuration", "the configuration cannot be applied")
	}
	return nil
}

// sameNames finds keys that phones could not tell apart in a file.
func sameNames(x store.ExportConfig, own []store.SigningKeyConfig) (found problems) {
	seen := map[string]string{}
	for _, k := range own {
		name := k.KeyID + "-" + k.KeyVersion
		if other, ok := seen[name]; ok {
			found = append(found, fmt.Sprintf("export %s: the signing keys %s and %s have the same id and version: give one another version", x.Name, other, k.Name))
		}
		seen[name] = k.Name
	}
	return found
}

func warnOfGaps(x store.ExportConfig, own []store.SigningKeyConfig, now time.Time) (all []SigningWarning) {
	for _, g := range gaps(x, own, now) {
		text := "no key is valid from " + at(g.from) + " on"
		if !g.until.IsZero() {
			text = "no key is valid from " + at(g.from) + " to " + at(g.until)
		}
		all = append(all, SigningWarning{Code: "no_key", At: g.from, Text: text + ": no file is made then"})
	}
	return all
}

// warnOfHandovers looks at each change of the leading key that is to come, or
// whose old key has not ended.
func warnOfHandovers(own []store.SigningKeyConfig, now time.Time) (all []SigningWarning) {
	var leader store.SigningKeyConfig
	for _, at := range turns(own) {
		order := store.SigningOrder(own, at)
		if len(order) == 0 {
			continue // a gap is told of; the last leader's successor is still to come
		}
		if leader.Name != "" && order[0].Name != leader.Name && (at.After(now) || leader.ValidAt(now)) {
			all = append(all, warnOfHandover(leader, order[0], at, now)...)
		}
		leader = order[0]
	}
	return all
}

func warnOfHandover(old, next store.SigningKeyConfig, when, now time.Time) (all []SigningWarning) {
	warn := func(code, format string, args ...any) {
		all = append(all, SigningWarning{Code: code, Key: next.Name, At: when, Text: fmt.Sprintf(format, args...)})
	}
	if when.After(now) && old.ValidAt(when) && when.Sub(next.From) < rehearsal {
		warn("not_rehearsed", "%s leads from %s, less than %s after it is added: let it be in files for a while before (leads later than from)", next.Name, at(when), rehearsal)
	}
	if old.Thru.IsZero() {
		return all
	}
	switch together := old.Thru.Sub(next.From); {
	case together <= 0:
		warn("no_overlap", "%s begins when %s has ended: phones that do not know it by then refuse every file; let it begin %s before", next.Name, old.Name, companionship)
	case together < companionship:
		warn("short_overlap", "files have both %s and %s for %s only: phones that were off for two weeks may know neither", old.Name, next.Name, together)
	}
	return all
}

func warnOfEnds(own []store.SigningKeyConfig, now time.Time) (all []SigningWarning) {
	for _, k := range own {
		if k.ValidAt(now) && !k.Thru.IsZero() && k.Thru.Sub(now) <= soon {
			all = append(all, SigningWarning{
				Code: "ends_soon", Key: k.Name, At: k.Thru,
				Text: fmt.Sprintf("%s ends at %s: phones that know no other key of this export get no more files then", k.Name, at(k.Thru)),
			})
		}
	}
	slices.SortFunc(all, func(a, b SigningWarning) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Key, b.Key)) })
	return all
}

// turned says in words how the keys that sign differ.
func turned(before, after []store.SigningKeyConfig) (what []string) {
	old, now := names(before), names(after)
	for _, name := range old {
		if !slices.Contains(now, name) {
			what = append(what, name+" ends")
		}
	}
	for _, name := range now {
		if !slices.Contains(old, name) {
			what = append(what, name+" is added")
		}
	}
	if len(now) > 0 && (len(old) == 0 || old[0] != now[0]) {
		what = append(what, now[0]+" leads")
	}
	return what
}
