// Package mirror copies what other servers publish for their phones into buckets
// of ours: for phones that cannot reach those servers, or not cheaply.
package mirror

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

// Settings say how long things are kept, and for how long a run may take.
type Settings struct {
	TTL     time.Duration `envconfig:"CLEANUP_TTL" default:"336h" min:"0s" desc:"age at which files leave a mirror that has ended; one that is kept up follows its source; the same value as in the cleanup service"`
	Grace   time.Duration `envconfig:"INDEX_CACHE_GRACE" default:"1h" min:"10m" desc:"how long a file outlives its entry in the index; longer than any cache keeps an index (5m) and a phone takes to download; at least 10m"`
	Timeout time.Duration `envconfig:"MIRROR_TIMEOUT" default:"10m" min:"1s" desc:"time after which one run gives up; the next goes on; must suffice for the largest file"`
	AtOnce  int           `envconfig:"MIRRORS_AT_ONCE" default:"4" min:"1" max:"32" desc:"mirrors that are worked on at the same time; each holds a file in TMPDIR, of at most 64 MiB"`

	ReleaseSameDay bool `envconfig:"DEBUG_RELEASE_SAME_DAY_KEYS" default:"false" desc:"development only: files may hold keys that are still broadcast"`
}

// Deps is what the service needs.
type Deps struct {
	Store   *store.DB
	Buckets listing.Buckets
	Remote  *remote.Client
	Now     func() time.Time
}

// Service keeps mirrors up to date. It keeps no state: any number may run, and
// whatever one was doing when it was killed, the next run finishes.
type Service struct {
	settings Settings
	store    *store.DB
	buckets  listing.Buckets
	remote   *remote.Client
	now      func() time.Time
}

// New makes a service.
func New(s Settings, d Deps) *Service {
	return &Service{settings: s, store: d.Store, buckets: d.Buckets, remote: d.Remote, now: d.Now}
}

// Mirrored is the answer of Mirror.
type Mirrored struct {
	Mirrors  int               `json:"mirrors"` // that were worked on
	Busy     int               `json:"busy"`    // that another run works on
	Copied   int               `json:"copied"`  // files
	Adopted  int               `json:"adopted"` // of those, that a killed run had brought into the bucket already
	Dropped  int64             `json:"dropped"` // files that are no longer listed
	Indexes  int               `json:"indexes"` // written
	Deleted  int               `json:"deleted"` // objects
	Failures map[string]string `json:"failures,omitempty"`
	More     bool              `json:"more"` // time was nearly up; the next run goes on
}

func (a *Mirrored) add(b Mirrored) {
	a.Mirrors += b.Mirrors
	a.Busy += b.Busy
	a.Copied += b.Copied
	a.Adopted += b.Adopted
	a.Dropped += b.Dropped
	a.Indexes += b.Indexes
	a.Deleted += b.Deleted
	for name, failure := range b.Failures {
		a.fail(name, failure)
	}
	a.More = a.More || b.More
}

func (a *Mirrored) fail(name, failure string) {
	if a.Failures == nil {
		a.Failures = map[string]string{}
	}
	a.Failures[name] = failure
}

const (
	// leaseMargin is how much longer than a run its leases are held.
	leaseMargin = 30 * time.Second

	// tidyTimeout bounds what is noted after the time of a run is over.
	tidyTimeout = 5 * time.Second
)

// Mirror brings every mirror up to date, a few at once. Each is leased.
//
// A mirror is worked on in this order, and may be left behind after any step:
//  1. the index of the source is read, and what is new or gone in it noted.
//  2. each new file is downloaded, held against the rules of phones, and created
//     in the bucket, in order. Left behind, the next run finds the object and
//     adopts it. The first that fails ends this step.
//  3. our index is written: the files in order, up to the first that is not
//     copied, for phones never look back. Left behind, the next run compares what
//     is in the bucket with what should be.
//  4. objects go that were in no index for the time of grace.
//
// A source that fails stops neither 3 and 4 nor other mirrors. It is told, here
// and in the mirror's status, and is no failure of this server, for which the
// scheduler would have to call again.
func (s *Service) Mirror(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "mirror.Mirror")
	all, err := s.store.Mirrors(ctx)
	if err != nil {
		return nil, err
	}
	results, failures := make([]Mirrored, len(all)), make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(max(s.settings.AtOnce, 1))
	for i, m := range all {
		group.Go(func() error {
			results[i], failures[i] = s.leased(ctx, m)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	source.Show(ctx, s.store, store.KindMirror, s.now())
	var sum Mirrored
	for _, r := range results {
		sum.add(r)
	}
	return sum, errors.Join(failures...)
}

// leased works on one mirror, if nobody else does. The error is ours.
func (s *Service) leased(ctx context.Context, m store.Mirror) (done Mirrored, err error) {
	defer errs.Wrap(&err, "mirror %s", m.Name)
	name := "mirror " + m.Name
	now := s.now()
	fence, ok, err := s.store.TakeLease(ctx, name, now, now.Add(s.settings.Timeout+leaseMargin))
	if err != nil {
		return done, err
	}
	if !ok {
		done.Busy = 1
		return done, nil
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
		defer cancel()
		_ = s.store.ReturnLease(ctx, name, fence, s.now()) // else it runs out
	}()
	done.Mirrors = 1
	if err := s.store.MirrorAttempted(ctx, m.ID, s.now()); err != nil {
		return done, err
	}
	theirs, err := s.update(ctx, m, &done)
	if err != nil && ctx.Err() != nil {
		return done, err // of a run that was cut off there is nothing to note
	}
	return done, errors.Join(err, s.conclude(ctx, m, &done, theirs, err))
}

// conclude notes how it stands with a mirror.
func (s *Service) conclude(ctx context.Context, m store.Mirror, done *Mirrored, theirs, ours error) error {
	if failure := errors.Join(theirs, ours); failure != nil {
		done.fail(m.Name, failure.Error())
		return s.store.MirrorFailed(ctx, m.ID, s.now(), failure.Error())
	}
	if done.More {
		return nil
	}
	return s.store.MirrorSucceeded(ctx, m.ID, s.now())
}

// update brings one mirror up to date. What is wrong with its source is theirs;
// err is ours.
func (s *Service) update(ctx context.Context, m store.Mirror, done *Mirrored) (theirs, err error) {
	bucket, err := s.buckets.Bucket(ctx, m.Bucket)
	if err != nil {
		return nil, err
	}
	w := &work{Service: s, mirror: m, bucket: bucket, done: done}
	if m.Ended {
		err = w.fade(ctx)
	} else {
		theirs, err = w.follow(ctx)
	}
	if err != nil {
		return theirs, err
	}
	missing, err := w.list(ctx)
	if err != nil {
		return theirs, err
	}
	return theirs, errors.Join(missing, w.sweep(ctx))
}

// nearlyUp says whether less than a tenth of a run's time is left: too late to
// begin a file, and enough for the index.
func (s *Service) nearlyUp(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < s.settings.Timeout/10
}

// fade lets a mirror that has ended run empty: its files leave it when they are
// as old as ours are when they go, so that phones lose nothing and nothing stays
// for ever. An empty index remains.
func (w *work) fade(ctx context.Context) (err error) {
	w.done.Dropped, err = w.store.DropMirrorFiles(ctx, w.mirror.ID, w.now(), w.now().Add(-w.settings.TTL))
	return err
}

// foreign is an object under our root that we did not write.
func foreign(bucket, object, how string) error {
	return errs.Conflict("foreign_object",
		"bucket %s holds an object %s that this mirror did not write (%s); it was left as it is, and the index stops before it: find out who writes there, and move it away", bucket, object, how)
}
