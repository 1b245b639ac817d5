package store

import (
	"bytes"
	"context"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Trace is all that the database knows about one key. It says nothing about
// who sent it.
type Trace struct {
	Key, Revision *TraceEvent // nil: there is none
	SealedAt      time.Time   // when the sealer last worked; zero: never
	DueUploads    int         // how many uploads wait for it and may be sealed now
	Exports       []TraceExport
}

// TraceEvent is a key, or a revision of it, on its way.
type TraceEvent struct {
	exposure.Exposure
	Origin   int
	DueAt    time.Time // until sealed: the end of its embargo
	Epoch    int       // 0: not sealed
	SealedAt time.Time // of the epoch
	Padding  bool
}

// TraceExport is an export as far as the key is concerned.
type TraceExport struct {
	Name, Bucket, Root string
	Filter             Filter
	From, Thru         time.Time // zero: no bound
	Period             time.Duration
	Begun              bool // the batcher has met it
	LastEpoch          int  // up to which batches have been cut
	CutAt              time.Time
	Batches            []TraceBatch // those that hold the epoch of an event
}

// TraceBatch is a batch with the files that are recorded of it.
type TraceBatch struct {
	Batch
	Done  bool
	Files []TraceFile
}

// TraceFile is a file of a batch, as long as its object may be in the bucket.
type TraceFile struct {
	Number int
	Object string
	Listed bool // no index has been without it yet
}

// FileOf is the number of the file, from 1, in which a key would be.
func (b Batch) FileOf(e exposure.Exposure) int {
	number := 1
	for i, part := range b.Parts {
		if part.FromStart < e.Start || part.FromStart == e.Start && bytes.Compare(part.FromKey, e.Key[:]) <= 0 {
			number = i + 1
		}
	}
	return number
}

// Trace answers where a key is, and in which batches and files of which exports
// it could be.
func (db *DB) Trace(ctx context.Context, now time.Time, key exposure.Key) (t Trace, err error) {
	defer errs.Wrap(&err, "Trace")
	err = db.InSnapshot(ctx, func(tx database.Tx) error {
		if err := t.readWaiting(ctx, tx, key); err != nil {
			return err
		}
		if err := t.readSealed(ctx, tx, key); err != nil {
			return err
		}
		if t.Key == nil && t.Revision == nil {
			return nil
		}
		if err := t.readSealer(ctx, tx, now); err != nil {
			return err
		}
		return t.readExports(ctx, tx)
	})
	return t, err
}

type traceRow struct {
	Event         int16
	StartInterval exposure.Interval
	Period, Risk  int16
	Report        exposure.Report
	Onset         *int16
	Traveler      bool
	Regions       []string
	Origin        int
	DueAt         *time.Time
	Epoch         int
	SealedAt      pgtime
	Padding       bool
}

func (r traceRow) event(key exposure.Key) *TraceEvent {
	e := TraceEvent{
		Exposure: exposure.Exposure{
			Key: key, Start: r.StartInterval, Period: int32(r.Period), Risk: int32(r.Risk), Report: r.Report,
			Regions: r.Regions, Traveler: r.Traveler, HasOnset: r.Onset != nil,
		},
		Origin: r.Origin, Epoch: r.Epoch, Padding: r.Padding,
	}
	if r.Onset != nil {
		e.DaysSinceOnset = int32(*r.Onset)
	}
	if r.DueAt != nil {
		e.DueAt = r.DueAt.UTC()
	}
	if r.Epoch != 0 {
		e.SealedAt = r.SealedAt.bound()
	}
	return &e
}

func (t *Trace) put(row traceRow, key exposure.Key) {
	if row.Event == 1 {
		t.Revision = row.event(key)
	} else {
		t.Key = row.event(key)
	}
}

func (t *Trace) readWaiting(ctx context.Context, tx database.Tx, key exposure.Key) error {
	for row, err := range database.Each[traceRow](ctx, tx, `
		SELECT event, start_interval, period, risk, report, onset, traveler, regions, origin, due_at
		FROM   arrival
		WHERE  key = $1`, key[:]) {
		if err != nil {
			return err
		}
		t.put(row, key)
	}
	return nil
}

// readSealed comes second: where both know the key, the log is right, for what
// waits under another start will be discarded.
func (t *Trace) readSealed(ctx context.Context, tx database.Tx, key exposure.Key) error {
	for row, err := range database.Each[traceRow](ctx, tx, `
		SELECT    e.event, e.start_interval, e.period, e.risk, e.report, e.onset, e.traveler, e.regions, e.origin, e.epoch, e.padding,
		          coalesce(p.sealed_at, '-infinity') AS sealed_at
		FROM      exposure e
		LEFT JOIN epoch p USING (epoch)
		WHERE     e.key = $1`, key[:]) {
		if err != nil {
			return err
		}
		t.put(row, key)
	}
	return nil
}

func (t *Trace) readSealer(ctx context.Context, tx database.Tx, now time.Time) error {
	sealedAt, _, err := database.One[struct{ SealedAt pgtime }](ctx, tx, `SELECT sealed_at FROM log_head`)
	if err != nil {
		return err
	}
	t.SealedAt = sealedAt.SealedAt.bound()
	// One upload is one transaction: that is how the sealer counts them.
	t.DueUploads, _, err = database.One[int](ctx, tx, `
		SELECT count(DISTINCT xmin::text)
		FROM   arrival
		WHERE  due_at <= $1
		AND    origin = 0`, now)
	return err
}

func (t *Trace) readExports(ctx context.Context, tx database.Tx) error {
	type row struct {
		ExportID                     int
		Name, Bucket, Root           string
		InputRegions, ExcludeRegions []string
		Travelers, Provenance        string
		Seconds                      float64
		ValidFrom, ValidThru         pgtime
		LastEpoch                    *int
		CutAt                        pgtime
	}
	rows, err := database.All[row](ctx, tx, `
		SELECT   export_id, name, bucket, root, input_regions, exclude_regions, travelers, provenance,
		         extract(epoch FROM period)::float8 AS seconds, valid_from, valid_thru, last_epoch,
		         coalesce(cut_at, '-infinity') AS cut_at
		FROM     export
		ORDER BY name`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		x := TraceExport{
			Name: r.Name, Bucket: r.Bucket, Root: r.Root, From: r.ValidFrom.bound(), Thru: r.ValidThru.bound(),
			Filter: Filter{InputRegions: r.InputRegions, ExcludeRegions: r.ExcludeRegions, Travelers: Travelers(r.Travelers), Provenance: Provenance(r.Provenance)},
			Period: time.Duration(r.Seconds * float64(time.Second)), Begun: r.LastEpoch != nil,
		}
		if x.Begun {
			x.LastEpoch, x.CutAt = *r.LastEpoch, r.CutAt.Time
		}
		if x.Batches, err = t.readBatches(ctx, tx, r.ExportID); err != nil {
			return err
		}
		t.Exports = append(t.Exports, x)
	}
	return nil
}

func (t *Trace) readBatches(ctx context.Context, tx database.Tx, exportID int) (batches []TraceBatch, err error) {
	type row struct {
		batchRow
		Done bool
	}
	rows, err := database.All[row](ctx, tx, `
		SELECT   b.batch_id, b.export_id, x.name, x.bucket, x.root, b.region, b.first_epoch, b.last_epoch, b.first_day, b.last_day,
		         b.start_at, b.end_at, b.input_regions, b.exclude_regions, b.travelers, b.provenance, b.parts, b.signing_keys, b.fence,
		         b.done_at IS NOT NULL AS done
		FROM     export_batch b
		JOIN     export x USING (export_id)
		WHERE    b.export_id = $1
		AND      EXISTS (SELECT FROM unnest($2::integer[]) AS e(epoch) WHERE e.epoch BETWEEN b.first_epoch AND b.last_epoch)
		ORDER BY b.first_epoch`, exportID, t.epochs())
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		b := TraceBatch{Done: r.Done}
		if b.Batch, err = r.batch(); err != nil {
			return nil, err
		}
		if b.Files, err = database.All[TraceFile](ctx, tx, `
			SELECT   number, object, delisted_sequence IS NULL AS listed
			FROM     export_file
			WHERE    batch_id = $1
			ORDER BY number`, b.ID); err != nil {
			return nil, err
		}
		batches = append(batches, b)
	}
	return batches, nil
}

// epochs are those in which the events were sealed.
func (t *Trace) epochs() []int32 {
	epochs := []int32{}
	for _, e := range []*TraceEvent{t.Key, t.Revision} {
		if e != nil && e.Epoch != 0 {
			epochs = append(epochs, int32(e.Epoch))
		}
	}
	return epochs
}
