// Package phone simulates the phones: what they broadcast and hear, how they
// upload, and how they find out that they met somebody.
//
// It keeps its own words for the wire instead of the server's, so that a change
// of the server that real phones would not understand is not understood here
// either.
package phone

import (
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"enkeyserver/internal/exposure"
)

// Memory is for how long a phone keeps its own keys and what it heard.
const Memory = 14 * 24 * time.Hour

// tolerance is how far the clocks of two phones may differ: a phone believes an
// identifier that it heard up to two hours away from its interval.
const tolerance = exposure.Interval(exposure.AcceptedAfterEnd / exposure.IntervalLength)

// Phone is one simulated phone. It is safe for concurrent use, once it has a
// name and a device.
type Phone struct {
	Name   string
	Device Device // how it proves that it is genuine

	mu      sync.Mutex
	keys    map[exposure.Day]exposure.Key
	heard   map[Identifier]exposure.Interval
	days    map[exposure.Day]bool // in which it heard anything
	matches map[exposure.Key]Match
	token   string // the newest revision token
}

// New is a phone that has met nobody yet.
func New(name string) *Phone {
	return &Phone{
		Name:    name,
		keys:    map[exposure.Day]exposure.Key{},
		heard:   map[Identifier]exposure.Interval{},
		days:    map[exposure.Day]bool{},
		matches: map[exposure.Key]Match{},
	}
}

// Broadcast is what the phone sends in an interval. It makes the day's key when
// there is none yet.
func (p *Phone) Broadcast(at exposure.Interval) Identifier {
	day := at.Day()
	for _, id := range Identifiers(p.dayKey(day), at, 1) {
		return id
	}
	return Identifier{}
}

func (p *Phone) dayKey(day exposure.Day) exposure.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	key, ok := p.keys[day]
	if !ok {
		_, _ = rand.Read(key[:]) // never fails: see crypto/rand
		p.keys[day] = key
	}
	return key
}

// Hear notes an identifier that was received in an interval.
func (p *Phone) Hear(id Identifier, at exposure.Interval) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[id] = at
	p.days[at.Day()] = true
}

// Meet lets phones hear each other in an interval.
func Meet(at exposure.Interval, phones ...*Phone) {
	for _, speaker := range phones {
		id := speaker.Broadcast(at)
		for _, listener := range phones {
			if listener != speaker {
				listener.Hear(id, at)
			}
		}
	}
}

// Carry switches a phone on for the days from and thru, so that it has a key
// for each of them.
func (p *Phone) Carry(from, thru exposure.Day) {
	for day := from; day <= thru; day++ {
		p.dayKey(day)
	}
}

// Keys gives the keys that a phone would upload now, oldest first: those that
// it still remembers, today's included, each valid for its whole day.
func (p *Phone) Keys(now time.Time) []exposure.Submitted {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest, today := exposure.DayOf(now.Add(-Memory)), exposure.DayOf(now)
	var own []exposure.Submitted
	for _, day := range slices.Sorted(maps.Keys(p.keys)) {
		if day < oldest || day > today {
			continue
		}
		own = append(own, exposure.Submitted{
			Text:   p.keys[day].Base64(),
			Start:  int32(day.Start()),
			Period: exposure.IntervalsPerDay,
		})
	}
	return own
}

// Key is the key of a day, if the phone was on.
func (p *Phone) Key(day exposure.Day) (exposure.Key, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key, ok := p.keys[day]
	return key, ok
}

// Forget drops what is older than a phone keeps: its keys, what it heard and
// what it was warned of.
func (p *Phone) Forget(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := exposure.DayOf(now.Add(-Memory))
	maps.DeleteFunc(p.keys, func(day exposure.Day, _ exposure.Key) bool { return day < oldest })
	maps.DeleteFunc(p.heard, func(_ Identifier, at exposure.Interval) bool { return at.Day() < oldest })
	maps.DeleteFunc(p.days, func(day exposure.Day, _ bool) bool { return day < oldest })
	maps.DeleteFunc(p.matches, func(_ exposure.Key, m Match) bool { return m.Exposure.Start.Day() < oldest })
}
