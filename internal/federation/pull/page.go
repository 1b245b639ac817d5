package pull

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/federation"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// The reasons for which this package leaves something out, beside those of
// package exposure.
const (
	dropMalformed = "malformed" // not even the shape of a key
	dropRepeated  = "repeated"  // twice in a page
	dropRegion    = "region"    // none that we asked for, or one that we excluded
	dropTraveler  = "traveler"  // nobody's who travelled, though only those were asked for
)

// garbage are the reasons that no honest server gives cause for. Keys that are
// too old, or withdrawn, or known, come from every server one day.
var garbage = []string{
	dropMalformed, dropRepeated, dropRegion, dropTraveler,
	exposure.DropPeriod, exposure.DropRisk, exposure.DropFuture, exposure.DropReport, exposure.DropOnset,
}

// page is an answer that was checked, ready to be stored.
type page struct {
	store.ForeignPage
	received int
	garbage  int
	ahead    time.Duration // by which the neighbour's clock is ahead of ours
}

// idle tells that storing the page would change nothing.
func (p page) idle() bool {
	return len(p.Keys)+len(p.Revisions)+len(p.Dropped) == 0 && string(p.From) == string(p.To)
}

// moves tells whether the next question will be another one.
func (p page) moves() bool { return string(p.From) != string(p.To) }

// A cursor is stored behind a mark of what it was the cursor for: asked for other
// regions, or for more than travellers, a neighbour would go on where it is and
// never tell of older keys. So it is asked from the beginning then; what comes
// twice does no harm.
const markSize = 8

// markOf is the mark of what a neighbour is asked for.
func markOf(p store.PullConfig) []byte {
	text := fmt.Sprintf("%q %q %t %t", federation.Regions(p.IncludeRegions), federation.Regions(p.ExcludeRegions), p.OnlyTravelers, p.OnlyLocalProvenance)
	sum := sha256.Sum256([]byte(text))
	return sum[:markSize]
}

// question asks for what follows after a cursor.
func (c *conversation) question(cursor []byte) (*federationpb.FederationFetchRequest, error) {
	ask := &federationpb.FederationFetchRequest{
		IncludeRegions:      c.IncludeRegions,
		ExcludeRegions:      c.ExcludeRegions,
		OnlyTravelers:       c.OnlyTravelers,
		OnlyLocalProvenance: c.OnlyLocalProvenance,
		MaxExposureKeys:     uint32(c.settings.PageKeys),
	}
	state, ours := bytes.CutPrefix(cursor, c.mark)
	if !ours {
		return ask, nil
	}
	ask.State = &federationpb.FetchState{}
	if err := proto.Unmarshal(state, ask.State); err != nil {
		return nil, errOf("the cursor that is stored of it is damaged: enctl federation restart lets it begin anew")
	}
	return ask, nil
}

// read checks an answer by our own clock. What it says of where to go on is
// kept whole, with fields that we do not know.
func (c *conversation) read(answer *federationpb.FederationFetchResponse, from []byte) (p page, err error) {
	now := c.now()
	p.Origin, p.From, p.To, p.Dropped = c.Origin, from, from, map[string]int{}
	if next := answer.GetNextFetchState(); next != nil {
		if p.To, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(slices.Clone(c.mark), next); err != nil {
			return p, err
		}
		p.Newest, p.ahead = newest(next.GetKeyCursor().GetTimestamp(), now)
	}
	p.received = len(answer.GetKeys()) + len(answer.GetRevisedKeys())
	p.Keys = c.keepable(&p, answer.GetKeys(), func(e exposure.Exposure) (exposure.Exposure, string) {
		if e, reason := c.audience.of(e); reason != "" {
			return e, reason
		}
		return c.rules.Foreign(e, now)
	})
	p.Revisions = c.keepable(&p, answer.GetRevisedKeys(), func(e exposure.Exposure) (exposure.Exposure, string) {
		if reason := c.audience.ofRevision(e); reason != "" {
			return e, reason
		}
		return c.rules.ForeignRevision(e, now)
	})
	for _, reason := range garbage {
		p.garbage += p.Dropped[reason]
	}
	c.watch.page(p)
	return p, nil
}

// keepable gives the keys that a judge lets pass, each once, and counts the
// others.
func (c *conversation) keepable(p *page, sent []*federationpb.ExposureKey, judge func(exposure.Exposure) (exposure.Exposure, string)) []exposure.Exposure {
	kept := make([]exposure.Exposure, 0, len(sent))
	clear(c.seen)
	for _, k := range sent {
		e, err := federation.FromWire(k)
		if err != nil {
			p.Dropped[dropMalformed]++
			continue
		}
		if c.seen[e.Key] {
			p.Dropped[dropRepeated]++
			continue
		}
		c.seen[e.Key] = true
		e, reason := judge(e)
		if reason != "" {
			p.Dropped[reason]++
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// newest is how far a cursor is, in Unix seconds of the neighbour's clock. What
// it says of the future counts as now. ahead tells how far its clock is off.
func newest(timestamp int64, now time.Time) (_ time.Time, ahead time.Duration) {
	switch {
	case timestamp <= 0:
		return time.Time{}, 0
	case timestamp > now.Unix():
		const most = int64(365 * 24 * time.Hour / time.Second) // or the number overflows
		return now, time.Duration(min(timestamp-now.Unix(), most)) * time.Second
	}
	return time.Unix(timestamp, 0), 0
}

// audience is for whom the keys of a neighbour may be.
type audience struct {
	include, exclude []string
	onlyTravelers    bool

	// What was decided last: keys that follow one another are mostly for the
	// same regions.
	sent, limited []string
	reason        string
}

func newAudience(p store.PullConfig) audience {
	return audience{
		include: federation.Regions(p.IncludeRegions), exclude: federation.Regions(p.ExcludeRegions), onlyTravelers: p.OnlyTravelers,
	}
}

// of limits a key to the regions that the neighbour was asked for: it cannot put
// keys into others. A key with a region that was excluded is for none.
func (a *audience) of(e exposure.Exposure) (_ exposure.Exposure, reason string) {
	if a.onlyTravelers && !e.Traveler {
		return exposure.Exposure{}, dropTraveler
	}
	if a.sent == nil || !slices.Equal(a.sent, e.Regions) {
		a.sent = e.Regions
		a.limited, a.reason = a.limit(e.Regions)
	}
	e.Regions = a.limited
	return e, a.reason
}

// ofRevision looks only at regions that are told: a revision goes where its key
// went.
func (a *audience) ofRevision(e exposure.Exposure) (reason string) {
	if len(e.Regions) == 0 {
		return ""
	}
	_, reason = a.limit(e.Regions)
	return reason
}

func (a *audience) limit(regions []string) (limited []string, reason string) {
	for _, region := range regions {
		if slices.Contains(a.exclude, region) {
			return nil, dropRegion
		}
		if slices.Contains(a.include, region) {
			limited = append(limited, region)
		}
	}
	if len(limited) == 0 {
		return nil, dropRegion
	}
	return limited, ""
}
