package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

// WorkerSettings are those of the export worker.
type WorkerSettings struct {
	Timeout time.Duration `envconfig:"WORKER_TIMEOUT" default:"5m" min:"1s" desc:"time after which one run gives up; must suffice for the largest batch, which is begun anew otherwise"`
	Files   int           `envconfig:"WORKER_FILES_AT_ONCE" default:"2" min:"1" desc:"files of a batch that are written at once; each holds a database connection, so less than DB_POOL_MAX_CONNS"`

	ReleaseSameDay bool `envconfig:"DEBUG_RELEASE_SAME_DAY_KEYS" default:"false" desc:"development only: files may hold keys that are still broadcast"`
}

// WorkerDeps is what a worker needs.
type WorkerDeps struct {
	Store   *store.DB
	Buckets listing.Buckets
	Keys    *keys.Ring
	Listing *listing.Publisher
	Now     func() time.Time
}

// Worker turns batches into files. It keeps no state: any number may run.
type Worker struct {
	settings WorkerSettings
	store    *store.DB
	buckets  listing.Buckets
	keys     *keys.Ring
	listing  *listing.Publisher
	now      func() time.Time

	lease time.Duration // for how long a batch is taken
	beat  time.Duration // between two extensions of a lease
}

// A killed worker's batch is taken over when its lease has run out. A lease is
// extended four times before it would, so one slow answer does not lose it.
const (
	leaseLength = 2 * time.Minute
	leaseBeat   = leaseLength / 5
)

// NewWorker makes a worker.
func NewWorker(s WorkerSettings, d WorkerDeps) *Worker {
	return &Worker{
		settings: s, store: d.Store, buckets: d.Buckets, keys: d.Keys, listing: d.Listing, now: d.Now,
		lease: leaseLength, beat: leaseBeat,
	}
}

// Done is the answer of one run of a worker.
type Done struct {
	Batches int  `json:"batches"` // ended by this run
	Files   int  `json:"files"`   // of those batches
	Adopted int  `json:"adopted"` // files that a killed run had brought into the bucket already
	Keys    int  `json:"keys"`
	Revised int  `json:"revised"`
	Lost    int  `json:"lost"`    // batches that another worker took over meanwhile
	Indexes int  `json:"indexes"` // written
	More    bool `json:"more"`    // time was nearly up; the next run goes on
}

// Run exports batches, the oldest first, until there is none or time is nearly
// up.
//
// A batch is worked on in this order, and may be left behind after any step:
//  1. the lease. Left behind, it runs out and another worker begins anew.
//  2. each file into its bucket, only where there is no object of that name. Left
//     behind, the next worker makes the same export.bin, since a batch is
//     frozen, finds the object, and adopts it.
//  3. the batch's end with all its files, in one transaction under the fence of
//     the lease: a holder that lost it cannot.
//  4. the indexes. Left behind, they count as unwritten, and every run begins
//     with those.
//
// Nobody can see a file before 4, and all of them are in the bucket by then.
//
// A batch that fails is given back for the next run, or another worker, and
// does not stop the others.
func (w *Worker) Run(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "export.Worker")
	r := &run{Worker: w}
	err = r.work(ctx)
	return r.done, errors.Join(append(r.failures, r.listingFailure, err)...)
}

// run is the state of one call.
type run struct {
	*Worker
	done           Done
	failed         []int64 // batches that are not tried again in this run
	failures       []error
	listingFailure error // of the last attempt: each attempt is for all indexes
}

func (r *run) work(ctx context.Context) error {
	r.publish(ctx)
	for {
		if r.done.More = r.nearlyUp(ctx); r.done.More {
			return nil
		}
		b, ok, err := r.store.LeaseBatch(ctx, r.now(), r.lease, r.failed...)
		if err != nil || !ok {
			return err
		}
		r.export(ctx, b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// nearlyUp says whether less than a tenth of a run's time is left: too late to
// begin a batch.
func (w *Worker) nearlyUp(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < w.settings.Timeout/10
}

func (r *run) publish(ctx context.Context) {
	var written int
	written, r.listingFailure = r.listing.Publish(ctx)
	r.done.Indexes += written
}

// export works on one batch and keeps account of what became of it.
func (r *run) export(ctx context.Context, b store.Batch) {
	made, err := r.finish(ctx, b)
	if errors.Is(err, errLeaseLost) {
		r.done.Lost++
		return
	}
	if err != nil {
		r.failed = append(r.failed, b.ID)
		r.failures = append(r.failures, fmt.Errorf("batch %d of export %s: %w", b.ID, b.Export, err))
		r.giveBack(ctx, b)
		return
	}
	r.done.add(made)
	r.publish(ctx)
}

func (d *Done) add(made []madeFile) {
	d.Batches++
	for _, f := range made {
		d.Files++
		d.Keys += f.Keys
		d.Revised += f.Revised
		if f.adopted {
			d.Adopted++
		}
	}
}

// giveBack ends the lease of a batch that failed, even if the run was stopped.
// If that fails too, the lease runs out by itself.
func (w *Worker) giveBack(ctx context.Context, b store.Batch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = w.store.ReleaseBatch(ctx, b)
}

// finish makes all files of a batch and ends it.
func (w *Worker) finish(ctx context.Context, b store.Batch) ([]madeFile, error) {
	made, err := w.holding(ctx, b, w.makeFiles)
	if err != nil {
		return nil, err
	}
	var files []store.File
	for _, f := range made {
		files = append(files, f.File)
	}
	ok, err := w.store.CompleteBatch(ctx, b, files, w.now())
	if err == nil && !ok {
		err = errLeaseLost
	}
	return made, err
}

// makeFiles makes the files of a batch, a few at once. A part without keys
// makes none; the others keep their numbers.
func (w *Worker) makeFiles(ctx context.Context, b store.Batch) ([]madeFile, error) {
	bucket, err := w.buckets.Bucket(ctx, b.Bucket)
	if err != nil {
		return nil, err
	}
	signers, err := listing.Signers(ctx, w.keys, b.SigningKeys)
	if err != nil {
		return nil, err
	}
	byPart := make([]madeFile, len(b.Parts))
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(max(w.settings.Files, 1))
	for i := range b.Parts {
		files.Go(func() (err error) {
			byPart[i], err = w.makeFile(ctx, fileJob{batch: b, number: i + 1, bucket: bucket, signers: signers})
			return err
		})
	}
	if err := files.Wait(); err != nil {
		return nil, err
	}
	return withoutEmpty(byPart), nil
}

func withoutEmpty(byPart []madeFile) (made []madeFile) {
	for _, f := range byPart {
		if f.Object != "" {
			made = append(made, f)
		}
	}
	return made
}

// fileJob is what a file is made of.
type fileJob struct {
	batch   store.Batch
	number  int
	bucket  blob.Bucket
	signers []exportfile.Signer
}
