package imports

import (
	"context"
	"time"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
)

// pageSize is how many keys are stored at once: with more, each costs no less.
const pageSize = 5_000

// The reasons of this package for leaving a key out, beside those of exposure.
const dropBroken = "broken" // it cannot be decoded

// keep stores the keys of a file that is believed. With its last key we have all
// that was published until newest.
func (s *Service) keep(ctx context.Context, f *source.File, im store.Import, newest time.Time) (store.ForeignAdded, error) {
	p := &pages{
		Service: s, ctx: ctx, im: im, at: s.now(),
		page:    store.ForeignPage{Origin: im.Origin},
		regions: []string{im.Region},
		onPage:  make(map[entry]bool, s.pageSize),
		dropped: map[string]int{},
	}
	if _, err := exportfile.ReadForeign(f, f.Size, p.visit); err != nil {
		return p.added, err
	}
	// Told with the last page, so that a file that is read again after a kill
	// does not count twice.
	p.page.Dropped, p.page.Newest = p.dropped, newest
	err := p.flush()
	return p.added, err
}

// pages cuts the keys of a file into what is stored at once.
type pages struct {
	*Service
	ctx context.Context
	im  store.Import
	at  time.Time // by which keys are judged

	regions []string
	page    store.ForeignPage
	onPage  map[entry]bool
	dropped map[string]int // of the whole file
	added   store.ForeignAdded
}

// entry is a key in one of the two lists of a file.
type entry struct {
	key     exposure.Key
	revised bool
}

func (p *pages) visit(k exportfile.ForeignKey) error {
	if reason := p.put(k); reason != "" {
		p.dropped[reason]++
	}
	if len(p.onPage) < p.pageSize {
		return nil
	}
	return p.flush()
}

// put adds a key to the page, or tells why not.
func (p *pages) put(k exportfile.ForeignKey) (reason string) {
	if k.Broken != "" {
		return dropBroken
	}
	e, reason := p.complete(k)
	if reason != "" {
		return reason
	}
	at := entry{e.Key, k.Revised}
	if p.onPage[at] {
		return exposure.DropKnown
	}
	p.onPage[at] = true
	if k.Revised {
		p.page.Revisions = append(p.page.Revisions, e)
	} else {
		p.page.Keys = append(p.page.Keys, e)
	}
	return ""
}

// complete adds what the file does not say, and holds the key against the rules.
//
// What the file says of its region counts for nothing: whoever makes it could
// else put keys into the exports of any region, ours among them. The region and
// whether to take people for travellers are what was agreed with that server.
func (p *pages) complete(k exportfile.ForeignKey) (e exposure.Exposure, reason string) {
	e = k.Exposure
	e.Regions, e.Traveler = p.regions, p.im.Traveler
	if onset := p.im.OnsetWhenMissing; !e.HasOnset && onset != nil {
		e.HasOnset, e.DaysSinceOnset = true, int32(*onset)
	}
	if k.Revised {
		return p.rules.ForeignRevision(e, p.at)
	}
	if e.Report == exposure.Unknown {
		e.Report = p.im.ReportWhenMissing
	}
	return p.rules.Foreign(e, p.at)
}

// flush stores the page and begins the next.
func (p *pages) flush() error {
	added, err := p.store.AddForeign(p.ctx, p.now(), p.page, p.rules.Release)
	if err != nil {
		return err
	}
	telemetry.RecordNeighbourPage(p.ctx, p.im.Name, added.Inserted, added.Revised, added.Dropped)
	p.added.Add(added)
	p.page.Keys, p.page.Revisions = p.page.Keys[:0], p.page.Revisions[:0]
	clear(p.onPage)
	return nil
}
