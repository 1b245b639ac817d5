package imports

import (
	"context"
	"errors"
	"time"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

// errExpired says that no key of a file can be of use any more.
var errExpired = errors.New("the file is too old")

// take imports one file. What is wrong with it, or with the server that has it,
// is theirs; err is ours.
func (s *Service) take(ctx context.Context, im store.Import, file store.ImportFile) (added store.ForeignAdded, theirs, err error) {
	if end, dated := source.EndedAt(file.File); dated && s.tooOld(end) {
		return added, errExpired, nil
	}
	f, theirs := s.download(ctx, im, file.File)
	if ctx.Err() != nil {
		if theirs == nil {
			f.Close()
		}
		return added, nil, context.Cause(ctx)
	}
	if theirs != nil {
		return added, theirs, nil
	}
	defer f.Close()
	contents, theirs := s.judge(f, im)
	if theirs != nil {
		return added, theirs, nil
	}
	newest := contents.End
	if file.Ahead {
		newest = time.Time{} // what failed before it is still missing
	}
	added, err = s.keep(ctx, f, im, newest)
	return added, nil, err
}

// download leaves a part of the run's time for what comes after it, so that a
// server that is too slow for the whole of it is found out, and noted.
func (s *Service) download(ctx context.Context, im store.Import, entry string) (*source.File, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-s.settings.Timeout/20))
		defer cancel()
	}
	return source.Download(ctx, s.remote, im.RootURL, entry)
}

// judge tells whether to believe a file: all of it is read, and its signature
// verified, before any of its keys is stored.
func (s *Service) judge(f *source.File, im store.Import) (exportfile.Contents, error) {
	contents, err := exportfile.ReadForeign(f, f.Size, func(exportfile.ForeignKey) error { return nil })
	if err != nil {
		return contents, err
	}
	if err := source.CheckTimes(contents.Meta, s.now()); err != nil {
		return contents, err
	}
	trusted, err := source.Trusted(im.Keys, contents.End)
	if err != nil {
		return contents, err
	}
	return contents, exportfile.Verify(f, f.Size, contents.BinSHA256, trusted)
}
