package phone

import (
	"enkeyserver/internal/exposure"
)

// Match is a published key that a phone met.
type Match struct {
	Exposure  exposure.Exposure // as last published
	Intervals int               // in how many intervals it was heard
}

// Consider compares a published key with what the phone heard. A revised key
// replaces what the phone knew of it: a withdrawn one takes the warning back.
func (p *Phone) Consider(e exposure.Exposure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.matches[e.Key]; ok {
		p.matches[e.Key] = Match{e, known.Intervals}
		return
	}
	if n := p.heardOf(e); n > 0 {
		p.matches[e.Key] = Match{e, n}
	}
}

// heardOf counts the intervals in which the phone heard a key. Days on which it
// heard nobody cost nothing: most phones meet few people.
func (p *Phone) heardOf(e exposure.Exposure) int {
	if !p.days[(e.Start-tolerance).Day()] && !p.days[e.Start.Day()] && !p.days[(e.End()+tolerance).Day()] {
		return 0
	}
	n := 0
	for at, id := range Identifiers(e.Key, e.Start, e.Period) {
		heard, ok := p.heard[id]
		if ok && heard >= at-tolerance && heard <= at+tolerance {
			n++
		}
	}
	return n
}

// Warned tells whether the phone warns its owner: it met a key whose report
// stands.
func (p *Phone) Warned() bool { return len(p.Warnings()) > 0 }

// Warnings gives the matches that stand.
func (p *Phone) Warnings() []Match {
	p.mu.Lock()
	defer p.mu.Unlock()
	var standing []Match
	for _, m := range p.matches {
		if m.Exposure.Report != exposure.Revoked {
			standing = append(standing, m)
		}
	}
	return standing
}
