package system_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/system"
)

// fireFor is how long TestFire keeps everything burning.
var fireFor = flag.Duration("fire", 40*time.Second, "how long TestFire keeps everything burning")

// Sizes of TestFire: small ones, so that many files and cells come about.
const (
	fireMinRecords = 50
	fireMinRevised = 5
)

// fire is one run of TestFire.
type fire struct {
	*system.System
	t       *testing.T
	front   *front
	ledger  *ledger
	watches []*watch
	roots   []string  // of the exports, at the end
	ended   time.Time // of export us2

	kills, stops, crashes, cuts, batches, applies atomic.Int64
}

// Exactly once, under fire: phones upload, revise and repeat themselves through
// a network that loses answers, while several batchers and workers run at once,
// every service is killed again and again, leases run out under their holders,
// PostgreSQL crashes, and the operator changes the exports. After that every
// key that a phone was promised is published exactly once in every export that
// covers it, and whatever else must hold does.
func TestFire(t *testing.T) {
	if testing.Short() {
		t.Skip("it burns for 40 seconds; run without -short")
	}
	f := light(t)
	ctx, cancel := context.WithTimeout(t.Context(), *fireFor)
	defer cancel()
	f.burn(ctx)
	f.drain(t.Context())
	f.report()
	f.checkOutput()
	f.check(t.Context())
}

// light starts a system whose clock passes the end of an embargo half way
// through the fire: see keysOf.
func light(t *testing.T) *fire {
	t.Helper()
	noon := time.Now().UTC().Truncate(24 * time.Hour).Add((24 + 12) * time.Hour)
	return lightWith(t, []string{"us", "na", "us2", "ca"}, system.Options{
		Clock:   noon.Add(-*fireFor / 2),
		Durable: true, // what a crash of PostgreSQL may take is a promise broken
		Exports: []configuration.Export{exportOf("us", "US"), exportOf("na", "US", "CA"), exportOf("us2", "US")},
	})
}

// lightWith starts a system that has these exports in the end.
func lightWith(t *testing.T, roots []string, o system.Options) *fire {
	t.Helper()
	o.Binaries = binaries
	environment := map[string]string{
		"DEBUG_SEAL_NOW":            "true",
		"EXPORT_FILE_MIN_RECORDS":   strconv.Itoa(fireMinRecords),
		"EXPORT_FILE_PADDING_RANGE": "10",
		"EXPORT_FILE_MIN_REVISED":   strconv.Itoa(fireMinRevised),
		"DB_POOL_MAX_CONNS":         "8",
	}
	maps.Copy(environment, o.Environment)
	o.Environment = environment
	sys, err := system.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the services' last errors:\n%s", lastErrors(sys))
		}
		if err := sys.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fire{System: sys, t: t, ledger: newLedger(), front: newFront(t, sys), roots: roots}
	if err := sys.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The first call sets the cursors of the exports.
	if _, err := sys.CreateBatches(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sys.Down(); err != nil {
		t.Fatal(err)
	}
	return f
}

// lastErrors are the records that say why, but for those of a database that was
// away.
func lastErrors(sys *system.System) []byte {
	output, err := sys.Output()
	if err != nil {
		return []byte(err.Error())
	}
	lines := slices.DeleteFunc(bytes.Split(output, []byte{'\n'}), func(line []byte) bool {
		return !bytes.Contains(line, []byte(`"level":"ERROR"`)) || bytes.Contains(line, []byte("failed to connect"))
	})
	slices.SortFunc(lines, bytes.Compare) // by time, with which they begin
	return bytes.Join(lines[max(0, len(lines)-20):], []byte{'\n'})
}

func exportOf(name string, regions ...string) configuration.Export {
	e := system.ExportOf(name, time.Hour, regions...)
	e.MaxRecords = 300
	return e
}

// burn lets everybody loose until ctx ends.
func (f *fire) burn(ctx context.Context) {
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() { f.uploader(ctx) })
	}
	for _, service := range []string{
		system.Exposure, system.Exposure,
		system.Batcher, system.Batcher,
		system.Worker, system.Worker, system.Worker,
		system.Cleanup,
	} {
		all.Go(func() { f.killer(ctx, service) })
	}
	for range 2 {
		all.Go(func() { f.scheduler(ctx, 200*time.Millisecond, f.createBatches) })
	}
	for range 3 {
		all.Go(func() { f.scheduler(ctx, 100*time.Millisecond, f.doWork) })
	}
	all.Go(func() { f.scheduler(ctx, time.Second, f.cleanUp) })
	all.Go(func() { f.scheduler(ctx, 700*time.Millisecond, f.expireLeases) })
	all.Go(func() { f.crasher(ctx) })
	all.Go(func() { f.operator(ctx) })
	for _, root := range f.roots {
		w := newWatch(f.t, f.System, root)
		f.watches = append(f.watches, w)
		all.Go(func() { w.run(ctx) })
	}
	all.Wait()
}

// uploader is one phone after another.
func (f *fire) uploader(ctx context.Context) {
	var revisions sync.WaitGroup
	for ctx.Err() == nil {
		app, regions := pickApp()
		p := phone.New("p")
		keys := f.keysOf(p)
		report := pick(exposure.Confirmed, exposure.Likely, exposure.Likely, exposure.Self)
		described := describe(keys, report, regions)
		f.ledger.sent(described)
		if !f.send(ctx, p, app, report, keys) {
			continue
		}
		f.ledger.accepted(described)
		if report == exposure.Confirmed || rand.IntN(3) == 0 {
			continue
		}
		revisions.Go(func() { f.revise(ctx, p, app, keys, described) })
	}
	revisions.Wait()
}

// revise changes the diagnosis, soon enough to meet its own batch at times.
func (f *fire) revise(ctx context.Context, p *phone.Phone, app string, keys []exposure.Submitted, described []exposure.Exposure) {
	if !wait(ctx, rand.N(3*time.Second)) {
		return
	}
	to := pick(exposure.Confirmed, exposure.Revoked)
	f.ledger.revising(described, to)
	if f.send(ctx, p, app, to, keys) {
		f.ledger.revisionAccepted(described)
	}
}

// keysOf gives a phone keys of some of the last days, and at times one of today
// whose embargo ends in the middle of the fire, or only tomorrow.
func (f *fire) keysOf(p *phone.Phone) []exposure.Submitted {
	today := exposure.DayOf(f.Now())
	p.Carry(today-exposure.Day(rand.IntN(14)+1), today)
	keys := p.Keys(f.Now())
	last := len(keys) - 1
	switch rand.IntN(4) {
	case 0:
		keys[last].Period = 60 // until 10:00, so until noon
	case 1:
		// until midnight, so until two
	default:
		keys = keys[:last]
	}
	return keys
}

// describe is what the server should know of the keys.
func describe(keys []exposure.Submitted, report exposure.Report, regions []string) []exposure.Exposure {
	var described []exposure.Exposure
	for _, k := range keys {
		key, err := exposure.ParseKey(k.Text)
		if err != nil {
			panic(err)
		}
		described = append(described, exposure.Exposure{
			Key: key, Start: exposure.Interval(k.Start), Period: k.Period, Report: report, Regions: regions,
		})
	}
	return described
}

// send uploads as an app does, at times twice at once, and often again when no
// answer came. It tells whether the phone knows that its keys were taken.
//
// Whatever burns, no answer may be a refusal: the phone would never try again.
func (f *fire) send(ctx context.Context, p *phone.Phone, app string, report exposure.Report, keys []exposure.Submitted) bool {
	now := f.Now()
	d := phone.Diagnosis{Report: report, Onset: exposure.IntervalOf(now.Add(-96 * time.Hour)), Risk: 2, Traveler: rand.IntN(4) == 0}
	up, err := p.PrepareKeys(app, f.Authority, d, keys, now)
	if err != nil {
		f.t.Error(err)
		return false
	}
	if rand.IntN(4) == 0 {
		var twin errgroup.Group
		defer func() { _ = twin.Wait() }()
		twin.Go(func() error { f.attempt(ctx, phone.New("twin"), app, up); return nil })
	}
	for range 1 + rand.IntN(8) {
		if f.attempt(ctx, p, app, up) {
			if rand.IntN(8) == 0 {
				f.attempt(ctx, phone.New("late twin"), app, up)
			}
			return true
		}
	}
	return false
}

func (f *fire) attempt(ctx context.Context, p *phone.Phone, app string, up *phone.Upload) bool {
	a, err := p.Send(ctx, f.front.server(app), up)
	if err != nil {
		return false
	}
	if !a.Accepted() || a.Code != "" {
		f.t.Errorf("an upload that is in order got status %d, code %q: %s", a.Status, a.Code, a.Error)
		return false
	}
	return true
}

// killer keeps one instance of a service running, and ends it again and again.
func (f *fire) killer(ctx context.Context, service string) {
	for ctx.Err() == nil {
		p, err := f.Launch(ctx, service)
		if err != nil {
			// A service may give up at its start while the database is away.
			wait(ctx, 100*time.Millisecond)
			continue
		}
		wait(ctx, 300*time.Millisecond+rand.N(2*time.Second))
		if rand.IntN(5) == 0 {
			f.stops.Add(1)
			if err := p.Stop(); err != nil {
				f.t.Error(err)
			}
			continue
		}
		f.kills.Add(1)
		if err := p.Kill(); err != nil {
			f.t.Error(err)
		}
	}
}

// scheduler calls a job again and again. That a call fails is the point.
func (f *fire) scheduler(ctx context.Context, every time.Duration, call func(context.Context) error) {
	for wait(ctx, rand.N(2*every)) {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = call(limited)
		cancel()
	}
}

func (f *fire) createBatches(ctx context.Context) error {
	cut, err := f.CreateBatches(ctx)
	if err == nil && cut.Epochs > 0 {
		f.cuts.Add(1)
	}
	return err
}

func (f *fire) doWork(ctx context.Context) error {
	done, err := f.DoWork(ctx)
	f.batches.Add(int64(done.Batches))
	return err
}

func (f *fire) cleanUp(ctx context.Context) error {
	_, err := f.CleanupExposures(ctx)
	_, exportsErr := f.CleanupExports(ctx)
	return errors.Join(err, exportsErr)
}

// expireLeases lets all leases run out at once: those of the killed, and those
// of the living, as if each had slept for minutes.
func (f *fire) expireLeases(ctx context.Context) error {
	_, err := f.Store.Exec(ctx, `UPDATE lease SET held_until = '-infinity'`)
	_, batchErr := f.Store.Exec(ctx, `UPDATE export_batch SET lease_until = '-infinity' WHERE done_at IS NULL`)
	return errors.Join(err, batchErr)
}

// crasher ends PostgreSQL without a goodbye, and starts it again.
func (f *fire) crasher(ctx context.Context) {
	for wait(ctx, 4*time.Second+rand.N(6*time.Second)) {
		// Not ctx: the cluster must be up again when the fire is over.
		if err := f.CrashDatabase(context.Background()); err != nil {
			f.t.Error(err)
		}
		wait(ctx, 200*time.Millisecond+rand.N(time.Second))
		if err := f.RestartDatabase(context.Background()); err != nil {
			f.t.Error(err)
		}
		f.crashes.Add(1)
	}
}

// operator adds an export, changes one, and ends one.
func (f *fire) operator(ctx context.Context) {
	us, na, us2, ca := exportOf("us", "US"), exportOf("na", "US", "CA"), exportOf("us2", "US"), exportOf("ca", "CA")
	for _, change := range []func() []configuration.Export{
		func() []configuration.Export { return []configuration.Export{us, na, us2, ca} },
		func() []configuration.Export {
			na.MaxRecords, na.Region = 100, "CA"
			return []configuration.Export{us, na, us2, ca}
		},
		func() []configuration.Export {
			f.ended = f.Now()
			us2.Thru = &f.ended
			return []configuration.Export{us, na, us2, ca}
		},
	} {
		if !wait(ctx, *fireFor/5) {
			return
		}
		exports := change()
		for f.Apply(ctx, exports...) != nil && wait(ctx, 200*time.Millisecond) {
		}
		f.applies.Add(1)
	}
}

// drain lets what is left be published in peace.
func (f *fire) drain(ctx context.Context) {
	if err := f.RestartDatabase(ctx); err != nil {
		f.t.Fatal(err)
	}
	if err := f.Up(ctx); err != nil {
		f.t.Fatal(err)
	}
	// Connections from before the crash fail once each.
	for f.expireLeases(ctx) != nil && wait(ctx, 10*time.Millisecond) {
	}
	f.publish(ctx)
	for _, w := range f.watches {
		w.look(ctx)
	}
}

// publish seals, cuts and writes until there is nothing left to do.
func (f *fire) publish(ctx context.Context) {
	for quiet := 0; quiet < 2; {
		cut, err := f.CreateBatches(ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		done, err := f.DoWork(ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		quiet++
		if cut.Busy || cut.Epochs+cut.Batches+done.Batches+done.Indexes > 0 || done.More {
			quiet = 0
		}
	}
}

// checkOutput looks for what no service may ever say.
func (f *fire) checkOutput() {
	output, err := f.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, word := range []string{"DATA RACE", "panic", "goroutine "} {
		if i := bytes.Index(output, []byte(word)); i >= 0 {
			f.t.Errorf("a service printed %q:\n%s", word, output[max(0, i-200):min(len(output), i+3000)])
		}
	}
}

func (f *fire) report() {
	f.t.Logf("%d uploads of %d keys, %d revised; %d answers lost, %d requests broken off, %d met a dead instance",
		f.ledger.uploads, len(f.ledger.entries), f.ledger.revised, f.front.lost.Load(), f.front.broken.Load(), f.front.failures.Load())
	f.t.Logf("%d kills, %d stops, %d crashes of PostgreSQL, %d changes of configuration, %d epochs and %d batches seen",
		f.kills.Load(), f.stops.Load(), f.crashes.Load(), f.applies.Load(), f.cuts.Load(), f.batches.Load())
}

func pickApp() (app string, regions []string) {
	switch rand.IntN(4) {
	case 0:
		return system.AppCA, []string{"CA"}
	case 1:
		return system.AppBoth, []string{"CA", "US"}
	default:
		return system.AppUS, []string{"US"}
	}
}

func pick[T any](from ...T) T { return from[rand.IntN(len(from))] }

// wait tells whether ctx still goes on after d.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// watch reads the index of an export all the time, as no phone would, to see
// that it only ever grows, and that whatever it lists can be downloaded and
// breaks no rule of phones at that very moment, the embargo included.
type watch struct {
	t    *testing.T
	sys  *system.System
	feed phone.Feed
	seen []string
}

func newWatch(t *testing.T, sys *system.System, root string) *watch {
	t.Helper()
	feed, err := sys.Feed(root)
	if err != nil {
		t.Error(err)
	}
	return &watch{t: t, sys: sys, feed: feed}
}

func (w *watch) run(ctx context.Context) {
	for wait(ctx, 30*time.Millisecond) {
		w.look(context.WithoutCancel(ctx))
	}
}

func (w *watch) look(ctx context.Context) {
	if err := w.compare(ctx); err != nil {
		w.t.Errorf("%s: %v", w.feed.Index, err)
	}
}

func (w *watch) compare(ctx context.Context) error {
	listed, err := w.feed.List(ctx)
	if err != nil {
		return err
	}
	seen := w.seen
	w.seen = listed
	if len(listed) < len(seen) || !slices.Equal(listed[:len(seen)], seen) {
		return fmt.Errorf("it listed %d files and now %d, which do not begin with those", len(seen), len(listed))
	}
	for _, name := range listed[len(seen):] {
		if _, err := w.feed.Download(ctx, name, w.sys.Now()); err != nil {
			return err
		}
	}
	return nil
}
