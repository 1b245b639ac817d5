package exposure

import (
	"fmt"
	"slices"

	"enkeyserver/internal/errs"
)

// Known is what is already stored about a key that an upload names.
type Known struct {
	Exposure
	Origin  int    // 0: our own apps
	Revised Report // Unknown when it was never revised
}

// effective is the report that counts now.
func (k Known) effective() Report {
	if k.Revised != Unknown {
		return k.Revised
	}
	return k.Report
}

// Covered is a key that a revision token names.
type Covered struct {
	Key    Key
	Start  Interval
	Period int32
}

// Permission says which known keys an upload may revise.
type Permission struct {
	all    bool
	tokens map[Key]Covered
}

// ByToken permits the keys that a token names. Without a token it permits none.
func ByToken(covered []Covered) Permission {
	p := Permission{tokens: map[Key]Covered{}}
	for _, c := range covered {
		p.tokens[c.Key] = c
	}
	return p
}

// WithoutToken permits every key: for apps that are configured so.
func WithoutToken() Permission { return Permission{all: true} }

// String keeps the keys that a token names out of logs and errors.
func (p Permission) String() string {
	if p.all {
		return "every key"
	}
	return fmt.Sprintf("the %d keys of a token", len(p.tokens))
}

// revisable lists the changes of a diagnosis that are allowed, once a key.
var revisable = map[Report][]Report{
	Likely: {Confirmed, Revoked},
	Self:   {Confirmed, Likely, Revoked},
}

// Decision is what happens to the keys of an upload that are known already.
type Decision struct {
	Revisions []Exposure // events to store; regions and traveller as first published
	Unchanged int        // sent again as they are
}

// Decide tells what becomes of uploaded keys that are known already. An error
// refuses the whole upload: a phone must not think that half of it was taken.
func Decide(uploaded []Exposure, known []Known, may Permission) (d Decision, err error) {
	byKey := map[Key]Known{}
	for _, k := range known {
		byKey[k.Key] = k
	}
	for _, up := range uploaded {
		old, ok := byKey[up.Key]
		if !ok {
			continue
		}
		if err := may.permits(up, old); err != nil {
			return Decision{}, err
		}
		if up.Report == old.effective() {
			d.Unchanged++
			continue
		}
		if err := transition(old, up.Report); err != nil {
			return Decision{}, err
		}
		// The revision must reach whoever got the key, wherever the app
		// belongs today.
		up.Regions, up.Traveler = old.Regions, old.Traveler
		d.Revisions = append(d.Revisions, up)
	}
	return d, nil
}

func (p Permission) permits(up Exposure, old Known) error {
	if old.Origin != 0 {
		return errs.Invalid("invalid_revision_token", "a key that a neighbour sent can be revised only by that neighbour")
	}
	if !p.all && len(p.tokens) == 0 {
		return errs.Invalid("missing_revision_token", "some keys are known already: send the newest revision token with them")
	}
	if up.Start != old.Start || up.Period != old.Period {
		return errs.Invalid("invalid_revision_token", "a key is known with another start or period")
	}
	if p.all {
		return nil
	}
	c, ok := p.tokens[up.Key]
	if !ok || c.Start != up.Start || c.Period != up.Period {
		return errs.Invalid("invalid_revision_token", "the revision token does not cover these keys, or not with this start and period")
	}
	return nil
}

func transition(old Known, to Report) error {
	if old.Revised != Unknown {
		return errs.Invalid("key_already_revised", "a key can be revised once, and this was")
	}
	if slices.Contains(revisable[old.Report], to) {
		return nil
	}
	return errs.Invalid("invalid_report_type_transition", "a report cannot change from %s to %s", old.Report, to)
}
