package imports

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

const (
	// maxEntries bounds an index; two weeks of a country have a few hundred.
	maxEntries = 20_000

	// maxWaiting bounds the files that wait: an index that names others each
	// time must not fill our disk.
	maxWaiting = 50_000

	// rememberGone is how long we know of a file that is done and in no index
	// any more. One that comes back later is read again, which does no harm.
	rememberGone = 48 * time.Hour
)

// Scheduled is the answer of Schedule.
type Scheduled struct {
	Imports  int               `json:"imports"`  // of which the index was asked for
	Listed   int               `json:"listed"`   // entries
	Fresh    int64             `json:"fresh"`    // files that were not seen before
	Expired  int               `json:"expired"`  // entries that are too old to be of use
	Unusable int               `json:"unusable"` // entries that cannot name a file of that server
	Failures map[string]string `json:"failures,omitempty"`
}

// Schedule reads the index of each import and records the files that it has not
// seen before, in the order of the index. One that cannot be read is told,
// here and in the neighbour's status, and stops no other; it is no failure of
// this server, for which the scheduler would have to call again.
//
// A repeat finds nothing new. A killed run has recorded an index whole, or not
// at all.
func (s *Service) Schedule(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "imports.Schedule")
	results, failures, err := each(ctx, s, s.schedule)
	if err != nil {
		return nil, err
	}
	var sum Scheduled
	for _, r := range results {
		sum.add(r)
	}
	return sum, errors.Join(failures...)
}

func (a *Scheduled) add(b Scheduled) {
	a.Imports += b.Imports
	a.Listed += b.Listed
	a.Fresh += b.Fresh
	a.Expired += b.Expired
	a.Unusable += b.Unusable
	for name, failure := range b.Failures {
		if a.Failures == nil {
			a.Failures = map[string]string{}
		}
		a.Failures[name] = failure
	}
}

// schedule is Schedule for one import. The error is ours.
func (s *Service) schedule(ctx context.Context, im store.Import) (done Scheduled, err error) {
	defer errs.Wrap(&err, "import %s", im.Name)
	done.Imports = 1
	if err := s.store.NeighbourAttempted(ctx, im.Origin, s.now()); err != nil {
		return done, err
	}
	index, err := source.Index(ctx, s.remote, im.IndexURL)
	if ctx.Err() != nil {
		return done, context.Cause(ctx)
	}
	var usable []string
	if err == nil {
		usable, err = s.entries(index, im.RootURL, &done)
	}
	if err != nil {
		return done, s.complain(ctx, im, &done, err.Error())
	}
	return done, s.see(ctx, im, usable, &done)
}

// entries gives the entries of an index that may be recorded. One that names no
// file of that server is left out, and the rest go on.
func (s *Service) entries(index []byte, root string, done *Scheduled) (usable []string, err error) {
	names := strings.Fields(string(index))
	if len(names) > maxEntries {
		return nil, errs.Invalid("index", "the index has %d entries, more than the %d that are read", len(names), maxEntries)
	}
	done.Listed = len(names)
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		end, dated := source.EndedAt(name)
		_, err := source.Address(root, name)
		switch {
		case err != nil:
			done.Unusable++
		case dated && s.tooOld(end):
			done.Expired++
		case !seen[name]:
			seen[name] = true
			usable = append(usable, name)
		}
	}
	return usable, nil
}

// see records what is new, and how it stands with the neighbour.
func (s *Service) see(ctx context.Context, im store.Import, usable []string, done *Scheduled) error {
	waiting, err := s.store.WaitingImportFiles(ctx, im.Origin)
	if err != nil {
		return err
	}
	if waiting > maxWaiting {
		return s.complain(ctx, im, done, fmt.Sprintf("%d files wait to be imported and no more are recorded: the index names others each time", waiting))
	}
	if done.Fresh, err = s.store.SeeImportFiles(ctx, im.Origin, usable, s.now()); err != nil {
		return err
	}
	if _, err := s.store.ForgetImportFiles(ctx, im.Origin, usable, s.now().Add(-rememberGone)); err != nil {
		return err
	}
	if done.Unusable > 0 {
		return s.complain(ctx, im, done, fmt.Sprintf("%d entries of the index are not relative names of files below the root, and were left out", done.Unusable))
	}
	if waiting == 0 && done.Fresh == 0 {
		return s.store.NeighbourSucceeded(ctx, im.Origin, s.now())
	}
	return nil
}

// complain notes a failure that is the neighbour's, in the answer and in its
// status.
func (s *Service) complain(ctx context.Context, im store.Import, done *Scheduled, failure string) error {
	done.Failures = map[string]string{im.Name: failure}
	return s.store.NeighbourFailed(ctx, im.Origin, s.now(), failure)
}
