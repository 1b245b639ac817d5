package operator

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
)

func whyCommands() []command {
	return []command{{
		name: "why", args: "[KEY]", short: "tell where a key is, in which file it will be, or why in none",
		help: `
KEY is the key's base64. Without it, the key is read from the standard input,
which keeps it out of the shell's history. The key itself is never printed.
Nothing tells who sent it: nobody knows.

  enctl why < key.txt
  enctl why -o json z2Cx9hdz2SlxZ8GEgqTYpA==
  enctl why -- -2Cx9hdz2SlxZ8GEgqTYpA`,
		build: buildWhy,
	}}
}

func buildWhy(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if len(args) > 1 {
			return usageError("one key can be asked for")
		}
		key, err := keyOf(s, args)
		if err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			now := s.Now()
			trace, err := db.Trace(ctx, now, key)
			if err != nil {
				return err
			}
			answer := explain(trace, now)
			return out.show(answer, answer.write)
		})
	}
}

func keyOf(s *Session, args []string) (exposure.Key, error) {
	if len(args) == 1 {
		return exposure.ParseKey(args[0])
	}
	text, err := io.ReadAll(io.LimitReader(s.In, 1000))
	if err != nil {
		return exposure.Key{}, err
	}
	return exposure.ParseKey(strings.TrimSpace(string(text)))
}

// answer explains where a key is.
type answer struct {
	State    string         `json:"state"` // of the key itself: unknown, embargo, waiting or sealed
	About    []string       `json:"about"`
	Key      *whereabouts   `json:"key,omitempty"`
	Revision *whereabouts   `json:"revision,omitempty"`
	Exports  []exportAnswer `json:"exports"`
}

// whereabouts is how far an event has come.
type whereabouts struct {
	State  string    `json:"state"` // embargo, waiting or sealed
	Until  time.Time `json:"until,omitzero"`
	Epoch  int       `json:"epoch,omitempty"`
	Report string    `json:"report"`
	Why    string    `json:"why"`
}

// exportAnswer tells what becomes of one event in one export.
type exportAnswer struct {
	Export string `json:"export"`
	Event  string `json:"event"` // key or revision
	State  string `json:"state"` // published, pending, removed or never
	File   string `json:"file,omitempty"`
	Why    string `json:"why"`
}

// What becomes of a key in an export.
const (
	statePublished = "published" // in a file that the index lists
	statePending   = "pending"   // will be in a file
	stateRemoved   = "removed"   // was in a file
	stateNever     = "never"
)

// explain turns what the database knows into words. It is pure.
func explain(t store.Trace, now time.Time) answer {
	a := answer{State: "unknown", About: []string{}, Exports: []exportAnswer{}}
	if t.Key == nil && t.Revision == nil {
		a.About = append(a.About, "The key is not here. It never arrived, or was dropped when it arrived or was sealed (older than what is kept), or its day has been forgotten.")
		return a
	}
	a.Key, a.Revision = whereaboutsOf(t.Key, t, now), whereaboutsOf(t.Revision, t, now)
	if a.Key != nil {
		a.State = a.Key.State
		a.About = about(*t.Key)
	}
	for _, x := range t.Exports {
		a.Exports = append(a.Exports, explainExport(t, x, now)...)
	}
	return a
}

func about(e store.TraceEvent) []string {
	lines := []string{fmt.Sprintf("It was broadcast from %s to %s.", clockTime(e.Start.Time()), clockTime(e.End().Time()))}
	if len(e.Regions) > 0 {
		lines = append(lines, fmt.Sprintf("Its regions are %s.", strings.Join(e.Regions, ", ")))
	}
	if e.Traveler {
		lines = append(lines, "It is a traveller's.")
	}
	if e.Origin != 0 {
		lines = append(lines, fmt.Sprintf("It came from neighbour %d.", e.Origin))
	}
	if e.Padding {
		lines = append(lines, "It was generated to fill a file up: no phone has it.")
	}
	return lines
}

func whereaboutsOf(e *store.TraceEvent, t store.Trace, now time.Time) *whereabouts {
	switch {
	case e == nil:
		return nil
	case e.Epoch != 0:
		return &whereabouts{
			State: "sealed", Epoch: e.Epoch, Report: e.Report.String(),
			Why: fmt.Sprintf("sealed in epoch %d at %s", e.Epoch, clockTime(e.SealedAt)),
		}
	case e.DueAt.After(now):
		return &whereabouts{
			State: "embargo", Until: e.DueAt, Report: e.Report.String(),
			Why: fmt.Sprintf("under embargo until %s: phones would still believe whoever replays it", clockTime(e.DueAt)),
		}
	}
	w := &whereabouts{State: "waiting", Until: e.DueAt, Report: e.Report.String()}
	w.Why = fmt.Sprintf("due since %s, waits for the next run of the batcher", clockTime(e.DueAt))
	if t.SealedAt.After(e.DueAt) {
		w.Why = fmt.Sprintf("due since %s, and the batcher that worked at %s left it: a crowd of %d uploads is smaller than SEAL_MIN_UPLOADS, and SEAL_MAX_WAIT has not passed",
			clockTime(e.DueAt), clockTime(t.SealedAt), t.DueUploads)
	}
	return w
}

// explainExport tells of the key and of its revision.
func explainExport(t store.Trace, x store.TraceExport, now time.Time) (answers []exportAnswer) {
	if t.Key != nil {
		answers = append(answers, named(x, "key", explainKey(t, x, now)))
	}
	if t.Revision != nil {
		answers = append(answers, named(x, "revision", explainRevision(t, x, now)))
	}
	return answers
}

func named(x store.TraceExport, event string, a exportAnswer) exportAnswer {
	a.Export, a.Event = x.Name, event
	return a
}

func explainKey(t store.Trace, x store.TraceExport, now time.Time) exportAnswer {
	b, ok := batchOf(x, t.Key)
	if !ok {
		return uncut(x, *t.Key, t, now)
	}
	if revisedIn(b, t.Revision) && t.Revision.Report == exposure.Revoked {
		return never("it was withdrawn before the file was made, so nobody needs to hear of it")
	}
	if why := excluded(b.Filter, *t.Key); why != "" {
		return never(why)
	}
	a := inFile(b, *t.Key)
	if revisedIn(b, t.Revision) {
		a.Why += "; it appears once, with its revised report"
	}
	return a
}

func explainRevision(t store.Trace, x store.TraceExport, now time.Time) exportAnswer {
	b, ok := batchOf(x, t.Revision)
	if !ok {
		return uncut(x, *t.Revision, t, now)
	}
	if why := excluded(b.Filter, *t.Revision); why != "" {
		return never(why)
	}
	if t.Key != nil && t.Key.Epoch >= b.FirstEpoch && t.Key.Epoch <= b.LastEpoch {
		if t.Revision.Report == exposure.Revoked {
			return never("the key was withdrawn before the file was made, so nobody needs to hear of it")
		}
		a := inFile(b, *t.Revision)
		a.Why += "; as the key itself, which nobody had seen before"
		return a
	}
	a := inFile(b, *t.Revision)
	a.Why += "; among its revised keys"
	return a
}

func never(why string) exportAnswer { return exportAnswer{State: stateNever, Why: why} }

// batchOf is the batch that holds an event, if one has been cut.
func batchOf(x store.TraceExport, e *store.TraceEvent) (store.TraceBatch, bool) {
	for _, b := range x.Batches {
		if e.Epoch != 0 && b.FirstEpoch <= e.Epoch && e.Epoch <= b.LastEpoch {
			return b, true
		}
	}
	return store.TraceBatch{}, false
}

func revisedIn(b store.TraceBatch, revision *store.TraceEvent) bool {
	return revision != nil && b.FirstEpoch <= revision.Epoch && revision.Epoch <= b.LastEpoch
}

// inFile tells of the file of a batch that covers the event.
func inFile(b store.TraceBatch, e store.TraceEvent) exportAnswer {
	number := b.FileOf(e.Exposure)
	object := exportfile.ObjectName(b.Root, b.Start, b.EndOf(number), number)
	if !b.Done {
		return exportAnswer{State: statePending, File: object, Why: "the batch is cut, a worker will make the file"}
	}
	i := slices.IndexFunc(b.Files, func(f store.TraceFile) bool { return f.Number == number })
	switch {
	case i < 0:
		return exportAnswer{State: stateRemoved, File: object, Why: "it was in this file, which has been deleted since"}
	case !b.Files[i].Listed:
		return exportAnswer{State: stateRemoved, File: b.Files[i].Object, Why: "it is in this file, which the index no longer lists"}
	}
	return exportAnswer{State: statePublished, File: b.Files[i].Object, Why: "it is in this file"}
}

// uncut tells of an event that no batch of the export holds.
func uncut(x store.TraceExport, e store.TraceEvent, t store.Trace, now time.Time) exportAnswer {
	ended := !x.Thru.IsZero() && !x.Thru.After(now)
	switch {
	case e.Epoch != 0 && x.Begun && e.Epoch <= x.LastEpoch:
		return never("it was sealed before this export began, or the batch is so old that it was forgotten")
	case ended && (!x.Begun || !x.CutAt.Before(x.Thru)):
		return never("the export ended at " + clockTime(x.Thru))
	}
	if why := excluded(x.Filter, e); why != "" {
		return never(why)
	}
	if t.Revision != nil && t.Revision.Report == exposure.Revoked && batchless(x, t) {
		return never("it was withdrawn before anybody saw it, so nobody needs to hear of it")
	}
	return exportAnswer{State: statePending, Why: "it will be in " + nextBatch(x, e, now)}
}

// batchless tells whether neither the key nor its revision is in a batch: the
// batch that comes will have both.
func batchless(x store.TraceExport, t store.Trace) bool {
	if t.Key == nil {
		return false
	}
	_, key := batchOf(x, t.Key)
	_, revision := batchOf(x, t.Revision)
	return !key && !revision && (t.Key.Epoch == 0 || t.Key.Epoch > x.LastEpoch)
}

func nextBatch(x store.TraceExport, e store.TraceEvent, now time.Time) string {
	switch {
	case x.From.After(now):
		return fmt.Sprintf("a batch after the export begins, at %s", clockTime(x.From))
	case !x.Begun:
		return "the first batch, once the batcher has met this export; what is sealed before that, only with backfill"
	case e.Epoch == 0:
		return "the batch that follows its sealing"
	}
	// The batcher cuts in windows of the period since 1970.
	seconds := int64(x.Period / time.Second)
	due := time.Unix((x.CutAt.Unix()/seconds+1)*seconds, 0)
	if due.After(now) {
		return fmt.Sprintf("the next batch, which is due at %s", clockTime(due))
	}
	return "the next batch, which is due: the batcher cuts it on its next run if the export has a signing key"
}

// excluded tells why a key does not belong to an export, or nothing.
func excluded(f store.Filter, e store.TraceEvent) string {
	if f.Covers(e.Regions, e.Traveler, e.Origin) {
		return ""
	}
	if e.Origin != 0 && f.Provenance == store.ProvenanceLocal {
		return "a neighbour sent it, and the export takes only keys of our own apps"
	}
	for _, region := range e.Regions {
		if slices.Contains(f.ExcludeRegions, region) {
			return fmt.Sprintf("its region %s is excluded", region)
		}
	}
	if e.Traveler && f.Travelers == store.TravelersExclude {
		return "it is a traveller's, and the export takes none of those"
	}
	why := fmt.Sprintf("none of its regions (%s) is one of the export's (%s)", strings.Join(e.Regions, ", "), strings.Join(f.InputRegions, ", "))
	if e.Traveler {
		why += ", and of travellers' keys the export takes only those"
	}
	return why
}

func clockTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func (a answer) write(w io.Writer) error {
	var b strings.Builder
	for _, line := range a.About {
		fmt.Fprintln(&b, line)
	}
	if a.Key != nil {
		fmt.Fprintf(&b, "The key (%s) is %s.\n", a.Key.Report, a.Key.Why)
	}
	if a.Revision != nil {
		fmt.Fprintf(&b, "Its revision (%s) is %s.\n", a.Revision.Report, a.Revision.Why)
	}
	for _, x := range a.Exports {
		fmt.Fprintf(&b, "export %s, %s: %s: %s\n", x.Export, x.Event, strings.TrimSpace(x.State+" "+x.File), x.Why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
