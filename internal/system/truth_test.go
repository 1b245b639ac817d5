package system_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
	"enkeyserver/internal/system"
)

// logRow is a row of the sealed log.
type logRow struct {
	Key           []byte
	Event         int16
	StartInterval exposure.Interval
	Period        int32
	Report        exposure.Report
	Regions       []string
	Traveler      bool
	Origin        int // 0: our own apps
	Padding       bool
	Epoch         int
	SealedAt      time.Time
}

// history is all that the log says of one key.
type history struct {
	first, revised *logRow
}

// cutRow is a batch as it was cut.
type cutRow struct {
	Export                       string
	FirstEpoch, LastEpoch        int
	InputRegions, ExcludeRegions []string
	Travelers, Provenance        string
}

func (c cutRow) covers(r *logRow) bool {
	f := store.Filter{
		InputRegions: c.InputRegions, ExcludeRegions: c.ExcludeRegions,
		Travelers: store.Travelers(c.Travelers), Provenance: store.Provenance(c.Provenance),
	}
	return r != nil && c.FirstEpoch <= r.Epoch && r.Epoch <= c.LastEpoch && f.Covers(r.Regions, r.Traveler, r.Origin)
}

// truth is what is checked after the fire: the ledger of the phones against the
// log, the batches and the files.
type truth struct {
	t         *testing.T
	now       time.Time
	ledger    *ledger
	roots     []string // of the exports
	histories map[exposure.Key]*history
	waiting   map[exposure.Key]bool // in arrivals
	batches   map[string][]cutRow
	published map[string]system.Published
}

// check compares everything with everything.
func (f *fire) check(ctx context.Context) {
	tr, err := f.readTruth(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	tr.checkPromises()
	tr.checkWholeUploads()
	tr.checkEmbargo()
	for root, published := range tr.published {
		keys, revised := 0, 0
		for _, file := range published.Files {
			keys, revised = keys+len(file.Keys), revised+len(file.Revised)
		}
		f.t.Logf("export %s: %d files, %d keys, %d revised", root, len(published.Files), keys, revised)
		tr.checkTiles(root)
		tr.checkReach(root, f.ended)
		tr.checkExport(root)
		tr.checkPadding(root)
	}
}

func (f *fire) readTruth(ctx context.Context) (*truth, error) {
	tr := &truth{
		t: f.t, now: f.Now(), ledger: f.ledger, roots: f.roots,
		histories: map[exposure.Key]*history{}, waiting: map[exposure.Key]bool{},
		batches: map[string][]cutRow{}, published: map[string]system.Published{},
	}
	if err := tr.readLog(ctx, f.Store.DB); err != nil {
		return nil, err
	}
	arrivals, err := database.All[[]byte](ctx, f.Store.DB, `SELECT key FROM arrival WHERE origin = 0`)
	if err != nil {
		return nil, err
	}
	for _, key := range arrivals {
		tr.waiting[exposure.Key(key)] = true
	}
	cuts, err := database.All[cutRow](ctx, f.Store.DB, `
		SELECT   x.name AS export, b.first_epoch, b.last_epoch, b.input_regions, b.exclude_regions, b.travelers, b.provenance
		FROM     export_batch b
		JOIN     export x USING (export_id)
		ORDER BY b.first_epoch`)
	if err != nil {
		return nil, err
	}
	for _, c := range cuts {
		tr.batches[c.Export] = append(tr.batches[c.Export], c)
	}
	for _, root := range tr.roots {
		if tr.published[root], err = f.Audit(ctx, root); err != nil {
			return nil, err
		}
	}
	return tr, nil
}

func (tr *truth) readLog(ctx context.Context, db *database.DB) error {
	rows, err := database.All[logRow](ctx, db, `
		SELECT e.key, e.event, e.start_interval, e.period, e.report, e.regions, e.traveler, e.origin, e.padding, e.epoch, p.sealed_at
		FROM   exposure e
		JOIN   epoch p USING (epoch)`)
	if err != nil {
		return err
	}
	for _, row := range rows {
		key := exposure.Key(row.Key)
		h := tr.histories[key]
		if h == nil {
			h = &history{}
			tr.histories[key] = h
		}
		if row.Event == 0 {
			h.first = &row
			continue
		}
		h.revised = &row
	}
	return nil
}

// checkPromises: what a phone was told is kept is in the log, or waits for the
// end of its embargo; and nothing is there that no phone has sent.
func (tr *truth) checkPromises() {
	for key, e := range tr.ledger.entries {
		h, sealed := tr.histories[key]
		switch {
		case e.fate == accepted && !sealed && !tr.waiting[key]:
			tr.t.Error("an accepted key is lost")
		case sealed && tr.waiting[key]:
			tr.t.Error("a key is sealed and waits as well")
		case sealed && h.first == nil:
			tr.t.Error("a revision is in the log without its key")
		case sealed && (h.first.Report != e.Report || h.first.StartInterval != e.Start || h.first.Period != e.Period || !slices.Equal(h.first.Regions, e.Regions)):
			tr.t.Error("a key is in the log with other words than it was sent with")
		case sealed && e.revFate == accepted && h.revised == nil:
			tr.t.Error("an accepted revision is lost")
		case sealed && h.revised != nil && h.revised.Report != e.revised:
			tr.t.Errorf("a key was revised to %s, and a phone said %s", h.revised.Report, e.revised)
		}
	}
	for key, h := range tr.histories {
		if tr.ledger.entries[key] == nil && !h.first.Padding && h.first.Origin == 0 {
			tr.t.Error("a key is in the log that no phone sent")
		}
	}
	for key := range tr.waiting {
		if tr.ledger.entries[key] == nil {
			tr.t.Error("a key waits that no phone sent")
		}
	}
}

// checkWholeUploads: an upload is stored with all of its keys or not at all.
func (tr *truth) checkWholeUploads() {
	stored, missing := map[int]int{}, map[int]int{}
	for key, e := range tr.ledger.entries {
		if _, sealed := tr.histories[key]; sealed || tr.waiting[key] {
			stored[e.upload]++
			continue
		}
		missing[e.upload]++
	}
	for upload, n := range stored {
		if missing[upload] > 0 {
			tr.t.Errorf("%d keys of an upload are stored and %d are not", n, missing[upload])
		}
	}
}

// checkEmbargo: nothing was sealed before its time, and what waits must wait.
func (tr *truth) checkEmbargo() {
	var early, late int
	for _, h := range tr.histories {
		e := exposure.Exposure{Start: h.first.StartInterval, Period: h.first.Period}
		if h.first.SealedAt.Before(e.Release()) {
			early++
		}
	}
	for key := range tr.waiting {
		if e := tr.ledger.entries[key]; e != nil && !e.embargoed(tr.now) {
			late++
		}
	}
	if early+late > 0 {
		tr.t.Errorf("%d keys were sealed before the end of their embargo, %d wait after it", early, late)
	}
}

// checkTiles: the batches of an export follow one another without gap or
// overlap.
func (tr *truth) checkTiles(root string) {
	cuts := tr.batches[root]
	for i := 1; i < len(cuts); i++ {
		if cuts[i].FirstEpoch != cuts[i-1].LastEpoch+1 {
			tr.t.Errorf("export %s: a batch ends with epoch %d and the next begins with %d", root, cuts[i-1].LastEpoch, cuts[i].FirstEpoch)
		}
	}
}

// regionsOf are the regions that each export asked for all the time.
var regionsOf = map[string][]string{"us": {"US"}, "na": {"US", "CA"}, "us2": {"US"}, "ca": {"CA"}, "own": {"US", "CA"}}

// checkReach: the batches of an export hold every key of its regions from its
// beginning to its end. Only what nobody may see, or has no company, may be left
// after the last batch.
func (tr *truth) checkReach(root string, ended time.Time) {
	cuts := tr.batches[root]
	if len(cuts) == 0 {
		tr.t.Errorf("export %s published nothing", root)
		return
	}
	missing := 0
	for _, h := range tr.histories {
		switch last := cuts[len(cuts)-1].LastEpoch; {
		case !overlap(h.first.Regions, regionsOf[root]):
		case root == "own" && h.first.Origin != 0:
		case root == "ca" && h.first.Epoch < cuts[0].FirstEpoch: // before it was added
		case root == "us2" && h.first.Epoch > last && !h.first.SealedAt.Before(ended):
		case h.first.Epoch > last && (h.first.Padding || h.withdrawn()):
		case tr.batchOf(root, h.first) == nil:
			missing++
		}
	}
	if missing > 0 {
		tr.t.Errorf("export %s: %d keys of its regions are in no batch", root, missing)
	}
}

func (h *history) withdrawn() bool { return h.revised != nil && h.revised.Report == exposure.Revoked }

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(region string) bool { return slices.Contains(b, region) })
}

// place is where a key stands in an export.
type place struct {
	file    int
	report  exposure.Report
	revised bool
}

// checkExport: every key of the log, padding too, stands in an export exactly
// as its history says.
func (tr *truth) checkExport(root string) {
	where := map[exposure.Key][]place{}
	for i, f := range tr.published[root].Files {
		for _, e := range f.Keys {
			where[e.Key] = append(where[e.Key], place{i, e.Report, false})
		}
		for _, e := range f.Revised {
			where[e.Key] = append(where[e.Key], place{i, e.Report, true})
		}
	}
	wrong := map[string]int{}
	for key, h := range tr.histories {
		got := where[key]
		delete(where, key)
		want := tr.expected(root, h)
		if why := tr.differ(root, got, want); why != "" {
			wrong[fmt.Sprintf("%s (padding %t): %s", h.describe(), h.first.Padding, why)]++
		}
	}
	for why, n := range wrong {
		tr.t.Errorf("export %s: %d keys, %s", root, n, why)
	}
	if len(where) > 0 {
		tr.t.Errorf("export %s: %d keys are in files and not in the log", root, len(where))
	}
}

func (h *history) describe() string {
	if h.revised == nil {
		return fmt.Sprintf("%s in %v, sealed in epoch %d", h.first.Report, h.first.Regions, h.first.Epoch)
	}
	return fmt.Sprintf("%s in %v, sealed in epoch %d, revised to %s in %d",
		h.first.Report, h.first.Regions, h.first.Epoch, h.revised.Report, h.revised.Epoch)
}

// wanted is a place by epoch: the file must be of the batch that has it.
type wanted struct {
	epoch   int
	report  exposure.Report
	revised bool
}

// expected tells where a key must stand: only the outcome within one batch,
// its report and later its revision otherwise.
func (tr *truth) expected(root string, h *history) (want []wanted) {
	first, revised := tr.batchOf(root, h.first), tr.batchOf(root, h.revised)
	if first != nil && first == revised {
		if h.revised.Report == exposure.Revoked {
			return nil
		}
		return []wanted{{h.first.Epoch, h.revised.Report, false}}
	}
	if first != nil {
		want = append(want, wanted{h.first.Epoch, h.first.Report, false})
	}
	if revised != nil {
		want = append(want, wanted{h.revised.Epoch, h.revised.Report, true})
	}
	return want
}

func (tr *truth) batchOf(root string, r *logRow) *cutRow {
	for i, c := range tr.batches[root] {
		if c.covers(r) {
			return &tr.batches[root][i]
		}
	}
	return nil
}

func (tr *truth) differ(root string, got []place, want []wanted) string {
	if len(got) != len(want) {
		return fmt.Sprintf("in %d places instead of %d", len(got), len(want))
	}
	last := -1
	for i, g := range got {
		f := tr.published[root].Files[g.file]
		if g.revised != want[i].revised || g.report != want[i].report {
			return fmt.Sprintf("%s, revised %t, instead of %s, revised %t", g.report, g.revised, want[i].report, want[i].revised)
		}
		if want[i].epoch < f.FirstEpoch || want[i].epoch > f.LastEpoch {
			return "in a file of other epochs"
		}
		if g.file == last {
			return "twice in one file"
		}
		last = g.file
	}
	return ""
}

// checkPadding: each cell of a batch that holds a real key is as big as a cell
// must be, so that comparing the files of two exports tells no more than one.
func (tr *truth) checkPadding(root string) {
	cuts := tr.batches[root]
	for _, cut := range cuts {
		sizes, real := map[string]int{}, map[string]int{}
		for _, h := range tr.histories {
			if !cut.covers(h.first) || (cut.covers(h.revised) && h.withdrawn()) {
				continue
			}
			cell := tr.cellOf(cut, h.first)
			sizes[cell]++
			if !h.first.Padding {
				real[cell]++
			}
		}
		for cell := range real {
			if sizes[cell] < fireMinRecords {
				tr.t.Errorf("export %s, epochs %d to %d: the cell {%s} holds %d keys, %d of them real; want at least %d",
					root, cut.FirstEpoch, cut.LastEpoch, cell, sizes[cell], real[cell], fireMinRecords)
			}
		}
	}
}

// cellOf names the exports that a key of a batch reaches, of those whose batch
// holds the same epochs: only their difference can be told by comparing files.
func (tr *truth) cellOf(cut cutRow, r *logRow) string {
	cell := ""
	for _, root := range tr.roots {
		for _, other := range tr.batches[root] {
			if other.FirstEpoch == cut.FirstEpoch && other.LastEpoch == cut.LastEpoch && other.covers(r) {
				cell += root + " "
			}
		}
	}
	return cell
}
