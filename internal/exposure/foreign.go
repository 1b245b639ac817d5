package exposure

import "time"

// The reasons for which what a neighbour sends is left out. They are counted
// and shown, so each is one of a few words, and nothing that was sent.
const (
	DropPeriod  = "period" // not 1 to 144 intervals
	DropRisk    = "risk"   // not 0 to 8
	DropFuture  = "future" // begins after now, by our own clock
	DropTooOld  = "too old"
	DropReport  = "report"  // means nothing to a phone
	DropOnset   = "onset"   // too far from the key for phones
	DropRevoked = "revoked" // as a new key: there is nobody to warn

	DropOurs      = "ours"      // our own apps sent it first
	DropAnothers  = "another's" // another neighbour sent it first
	DropKnown     = "known"     // the same neighbour sent it before
	DropRevised   = "revised"   // it was revised before, and may be once
	DropChange    = "change"    // no change that is allowed
	DropDifferent = "different" // the key is known with another start or period
)

// Foreign tells whether a key that somebody else accepted may be kept: the
// rules of an upload for a single key, by our own clock. It fills a
// transmission risk of 0 from the report. The reason is "", or names the rule
// that the key breaks.
//
// Nobody can ask the phone again, so a key is a person who is warned or not. One
// of an unknown report is kept as likely: whoever lets it out has accepted a
// diagnosis, phones would ignore it as it is, and likely can still be confirmed
// or withdrawn. A recursive one is left out: it tells of no diagnosis at all.
func (r Rules) Foreign(e Exposure, now time.Time) (_ Exposure, reason string) {
	if e.Report == Revoked {
		return Exposure{}, DropRevoked
	}
	if e.Report == Unknown {
		e.Report = Likely
	}
	return r.foreign(e, now)
}

// ForeignRevision is Foreign for a revision: it may withdraw a diagnosis, but an
// unknown report changes nothing.
func (r Rules) ForeignRevision(e Exposure, now time.Time) (_ Exposure, reason string) {
	if e.Report == Unknown {
		return Exposure{}, DropReport
	}
	return r.foreign(e, now)
}

func (r Rules) foreign(e Exposure, now time.Time) (_ Exposure, reason string) {
	usual, ok := riskOf[e.Report]
	if !ok {
		return Exposure{}, DropReport
	}
	if e.Risk == 0 {
		e.Risk = usual
	}
	if reason := r.broken(e, now); reason != "" {
		return Exposure{}, reason
	}
	return e, ""
}

// broken names the rule that numbers of a key break. The sum of a hostile start
// and its period does not fit an int32.
func (r Rules) broken(e Exposure, now time.Time) string {
	switch {
	case e.Period < 1 || e.Period > MaxPeriod:
		return DropPeriod
	case e.Risk < 0 || e.Risk > MaxRisk:
		return DropRisk
	case e.Start > IntervalOf(now):
		return DropFuture
	case e.Start < 0 || int64(e.Start)+int64(e.Period) < int64(IntervalOf(now.Add(-r.MaxAge))):
		return DropTooOld
	case e.HasOnset && (e.DaysSinceOnset > int32(r.MaxOnsetDistance) || e.DaysSinceOnset < -int32(r.MaxOnsetDistance)):
		return DropOnset
	}
	return ""
}

// ReviseBy decides about a revision that a neighbour sends of a key that is
// known. Only who sent the key may revise it, as often and as far as a phone of
// ours might. The reason is "" when the revision is to be stored.
func (k Known) ReviseBy(origin int, up Exposure) (revision Exposure, reason string) {
	switch {
	case k.Origin == 0:
		return Exposure{}, DropOurs
	case k.Origin != origin:
		return Exposure{}, DropAnothers
	case up.Start != k.Start || up.Period != k.Period:
		return Exposure{}, DropDifferent
	case up.Report == k.effective():
		return Exposure{}, DropKnown
	case k.Revised != Unknown:
		return Exposure{}, DropRevised
	case transition(k, up.Report) != nil:
		return Exposure{}, DropChange
	}
	// As for our own phones: it must reach whoever got the key.
	up.Regions, up.Traveler = k.Regions, k.Traveler
	return up, ""
}
