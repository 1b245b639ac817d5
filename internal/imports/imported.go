package imports

import (
	"context"
	"errors"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

// Imported is the answer of Import.
type Imported struct {
	Imports  int `json:"imports"`  // that were worked on
	Busy     int `json:"busy"`     // that another run works on
	Files    int `json:"files"`    // imported
	Vanished int `json:"vanished"` // listed, and not there
	Refused  int `json:"refused"`  // broken, or signed by nobody whom we trust, for good
	Expired  int `json:"expired"`  // too old by now
	Later    int `json:"later"`    // failed, and to be tried again
	store.ForeignAdded
	Failures map[string]string `json:"failures,omitempty"` // the last one of each import
	More     bool              `json:"more"`               // time was nearly up; the next run goes on
}

func (a *Imported) add(b Imported) {
	a.Imports += b.Imports
	a.Busy += b.Busy
	a.Files += b.Files
	a.Vanished += b.Vanished
	a.Refused += b.Refused
	a.Expired += b.Expired
	a.Later += b.Later
	a.ForeignAdded.Add(b.ForeignAdded)
	for name, failure := range b.Failures {
		a.fail(name, failure)
	}
	a.More = a.More || b.More
}

func (a *Imported) fail(name, failure string) {
	if a.Failures == nil {
		a.Failures = map[string]string{}
	}
	a.Failures[name] = failure
}

const (
	// leaseMargin is how much longer than a run its leases are held.
	leaseMargin = 30 * time.Second

	// A file that is listed and not there may be on its way through caches.
	vanishedAfter = 3

	// A file that stays wrong is tried for four days: whoever made it may mend
	// it, and the operator may add the key that signed it.
	refusedAfter = 24
)

// backoff spaces out the attempts at a file.
var backoff = store.Backoff{First: time.Minute, Most: 6 * time.Hour}

// Import imports the files that wait, until there is none or time is nearly up.
// Each import is leased, and its files are taken one after the other, in the
// order of its index. One that fails is tried again later, and those after it go
// on: a revision that comes before its key is held for it.
//
// A file is imported in this order, and may be left behind after any step:
//  1. the attempt is counted, and the next put off.
//  2. it is downloaded, and its signature verified.
//  3. its keys are stored, a page at a time. Left behind, the whole file is read
//     again, and what is known already is not stored twice.
//  4. it is noted as done.
//
// What a neighbour gets wrong is told, here and in its status, and stops no
// other. It is no failure of this server, for which the scheduler would have to
// call again.
func (s *Service) Import(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "imports.Import")
	results, failures, err := each(ctx, s, s.leased)
	if err != nil {
		return nil, err
	}
	source.Show(ctx, s.store, store.KindImport, s.now())
	var sum Imported
	for _, r := range results {
		sum.add(r)
	}
	return sum, errors.Join(failures...)
}

// leased works on one import, if nobody else does. The error is ours.
func (s *Service) leased(ctx context.Context, im store.Import) (done Imported, err error) {
	defer errs.Wrap(&err, "import %s", im.Name)
	name := "import " + im.Name
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
		ctx, cancel := tidy(ctx)
		defer cancel()
		_ = s.store.ReturnLease(ctx, name, fence, s.now()) // else it runs out
	}()
	done.Imports = 1
	if err := s.files(ctx, im, &done); err != nil {
		return done, err
	}
	return done, s.conclude(ctx, im, done)
}

// files works on the files of an import, one after the other.
func (s *Service) files(ctx context.Context, im store.Import, done *Imported) error {
	for {
		if done.More = s.nearlyUp(ctx); done.More {
			return nil
		}
		f, ok, err := s.store.BeginImportFile(ctx, im.Origin, s.now(), backoff)
		if err != nil || !ok {
			return err
		}
		goOn, err := s.file(ctx, im, f, done)
		if err != nil || !goOn {
			return err
		}
	}
}

// nearlyUp says whether less than a tenth of a run's time is left: too late to
// begin a file.
func (s *Service) nearlyUp(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < s.settings.Timeout/10
}

// file brings one file to its end, or puts it off, and tells whether to go on
// with the next: not when the neighbour's server does not answer.
func (s *Service) file(ctx context.Context, im store.Import, f store.ImportFile, done *Imported) (goOn bool, err error) {
	added, theirs, err := s.take(ctx, im, f)
	done.ForeignAdded.Add(added)
	if err != nil {
		return false, err
	}
	switch {
	case theirs == nil:
		done.Files++
		return true, s.store.EndImportFile(ctx, im.Origin, f.File, store.ImportImported, s.now())
	case errors.Is(theirs, errExpired):
		done.Expired++
		return true, s.store.EndImportFile(ctx, im.Origin, f.File, store.ImportExpired, s.now())
	}
	done.fail(im.Name, theirs.Error())
	if kind := errs.KindOf(theirs); kind == errs.KindNotFound || kind == errs.KindInvalid {
		return true, s.missed(ctx, im, f, theirs, done)
	}
	return false, s.putOff(ctx, im, f, theirs, done)
}

// missed counts how often a file was not there, or wrong, and gives it up when
// that is often enough.
func (s *Service) missed(ctx context.Context, im store.Import, f store.ImportFile, theirs error, done *Imported) error {
	misses, err := s.store.ImportFileMissed(ctx, im.Origin, f.File, theirs.Error())
	if err != nil {
		return err
	}
	switch gone := errs.KindOf(theirs) == errs.KindNotFound; {
	case gone && misses >= vanishedAfter:
		done.Vanished++
		return s.store.EndImportFile(ctx, im.Origin, f.File, store.ImportVanished, s.now())
	case misses >= refusedAfter:
		done.Refused++
		return s.store.EndImportFile(ctx, im.Origin, f.File, store.ImportRefused, s.now())
	}
	done.Later++
	return nil
}

// putOff leaves a file for later, for as long as it can be of use.
func (s *Service) putOff(ctx context.Context, im store.Import, f store.ImportFile, theirs error, done *Imported) error {
	if err := s.store.ImportFileFailed(ctx, im.Origin, f.File, theirs.Error()); err != nil {
		return err
	}
	if s.tooOld(f.SeenAt) {
		done.Expired++
		return s.store.EndImportFile(ctx, im.Origin, f.File, store.ImportExpired, s.now())
	}
	done.Later++
	return nil
}

// conclude notes how it stands with the neighbour: well, when all its files were
// imported and none is left.
func (s *Service) conclude(ctx context.Context, im store.Import, done Imported) error {
	if failure, failed := done.Failures[im.Name]; failed {
		return s.store.NeighbourFailed(ctx, im.Origin, s.now(), failure)
	}
	if done.Files == 0 {
		return nil // what the last run said is still so
	}
	waiting, err := s.store.WaitingImportFiles(ctx, im.Origin)
	if err != nil || waiting > 0 {
		return err
	}
	return s.store.NeighbourSucceeded(ctx, im.Origin, s.now())
}
