package system

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// Counts sums a story up.
type Counts struct {
	Phones    int
	Uploads   int // accepted, revisions included
	Refused   int // uploads that had to be
	Chaff     int
	Keys      int // uploaded
	Epochs    int64
	Files     int
	Bytes     int64
	Downloads int64 // bytes, of all phones
	Warned    int   // phones, at any time
	NotWarned int   // phones that never were
	Withdrawn int   // phones whose warning was taken back
	Forgotten int64 // keys, revisions and padding in the database
}

// story is a few weeks in the life of a system. Every scene says what it does
// and checks what came of it; the first expectation that is off ends it.
type story struct {
	*System
	out    io.Writer
	counts Counts

	crowd   []*phone.Phone
	clients map[*phone.Phone]*phone.Client
	anna    *phone.Phone // tests positive
	boris   *phone.Phone // is thought to be ill, and is
	clara   *phone.Phone // is thought to be ill, and is not
	david   *phone.Phone // met people on the very day of his test
	near    map[*phone.Phone][]*phone.Phone
	between *phone.Phone // sat with Anna and with Clara
	sent    map[*phone.Phone][]exposure.Submitted
	warned  map[*phone.Phone]bool // at any time

	flaky *losesAnswers
}

// Tell plays the story of a few phones, from their meetings until everything
// is forgotten, on a system of its own, and checks every step.
func Tell(ctx context.Context, out io.Writer, o Options, phones int) (_ Counts, err error) {
	defer errs.Wrap(&err, "the story")
	o.Clock = time.Now().UTC().Truncate(24 * time.Hour).Add((24 + 10) * time.Hour)
	o.Exports = []configuration.Export{ExportOf("us", 4*time.Hour, "US")}
	fmt.Fprintln(out, "Starting a private PostgreSQL and the services ...")
	s, err := New(ctx, o)
	if err != nil {
		return Counts{}, err
	}
	st := &story{System: s, out: out}
	err = st.play(ctx, phones)
	if closing := s.Close(); err == nil {
		err = closing
	}
	return st.counts, err
}

func (st *story) play(ctx context.Context, phones int) error {
	if err := st.Up(ctx); err != nil {
		return err
	}
	if err := st.tick(ctx); err != nil {
		return err
	}
	st.meet(phones)
	for _, scene := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"Two weeks of meetings: phones exchange identifiers, and no server hears of it", st.sceneMeetings},
		{"Anna tests positive and uploads; the network loses the answer", st.sceneAnna},
		{"Everybody's phone sends chaff, so that an upload tells nobody anything", st.sceneChaff},
		{"A forged certificate, and a stranger who sends Anna's keys", st.sceneRefused},
		{"Boris and Clara are thought to be ill; David met people only today", st.sceneLikely},
		{"Four hours later the server seals, pads, signs and publishes; phones look", st.scenePublished},
		{"A laboratory confirms Boris, and clears Clara", st.sceneRevised},
		{"The next night: today's keys may go out, since no phone would believe a replay", st.sceneEmbargo},
		{"Eighteen days after that: everything is forgotten", st.sceneForgotten},
	} {
		fmt.Fprintf(st.out, "\n%s  %s\n", st.Now().Format("Mon 2 Jan 15:04"), scene.title)
		if err := scene.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", scene.title, err)
		}
	}
	st.sumUp()
	return nil
}

// meet casts the story: three contacts each for four index persons, one who met
// two of them, and strangers who met each other only.
func (st *story) meet(phones int) {
	named := func(name string) *phone.Phone {
		p := phone.New(name)
		st.crowd = append(st.crowd, p)
		return p
	}
	st.anna, st.boris, st.clara, st.david = named("Anna"), named("Boris"), named("Clara"), named("David")
	st.near, st.sent = map[*phone.Phone][]*phone.Phone{}, map[*phone.Phone][]exposure.Submitted{}
	st.warned = map[*phone.Phone]bool{}
	for _, ill := range []*phone.Phone{st.anna, st.boris, st.clara, st.david} {
		for i := range 3 {
			st.near[ill] = append(st.near[ill], named(fmt.Sprintf("contact %d of %s", i+1, ill.Name)))
		}
	}
	st.between = named("the one who met Anna and Clara")
	st.near[st.anna] = append(st.near[st.anna], st.between)
	st.near[st.clara] = append(st.near[st.clara], st.between)
	for len(st.crowd) < phones {
		named(fmt.Sprintf("stranger %d", len(st.crowd)))
	}
	st.counts.Phones = len(st.crowd)
}

func (st *story) sceneMeetings(ctx context.Context) error {
	now := st.Now()
	today := exposure.DayOf(now)
	for _, p := range st.crowd {
		p.Carry(today-14, today)
	}
	for ill, contacts := range st.near {
		met := exposure.IntervalOf(now) - 2*exposure.IntervalsPerDay
		if ill == st.david {
			met = exposure.IntervalOf(now) - 3
		}
		for _, contact := range contacts {
			for at := met; at < met+3; at++ {
				phone.Meet(at, ill, contact)
			}
		}
	}
	phone.Meet(exposure.IntervalOf(now)-exposure.IntervalsPerDay, st.strangers()...)
	if err := st.followFeed(); err != nil {
		return err
	}
	stock, err := st.Stock(ctx)
	if err != nil {
		return err
	}
	return st.expect(stock == Stock{Epochs: stock.Epochs} && len(st.warnedNow()) == 0,
		"%d phones carry %d days of keys; the database holds nothing", len(st.crowd), 15)
}

func (st *story) strangers() []*phone.Phone { return st.crowd[4+4*3+1:] }

func (st *story) followFeed() error {
	feed, err := st.Feed("us")
	if err != nil {
		return err
	}
	st.clients = map[*phone.Phone]*phone.Client{}
	for _, p := range st.crowd {
		st.clients[p] = &phone.Client{Phone: p, Feed: feed}
	}
	return nil
}

func (st *story) sceneAnna(ctx context.Context) error {
	st.flaky = &losesAnswers{}
	st.flaky.lose.Store(1)
	a, err := st.upload(ctx, st.anna, exposure.Confirmed, &http.Client{Transport: st.flaky})
	if err != nil {
		return err
	}
	if err := st.expect(a.Tries == 2 && st.flaky.lost.Load() == 1,
		"the app sent the same again, and the server took it for what it is: a retry"); err != nil {
		return err
	}
	return st.expectStock(ctx, func(s Stock) bool { return s.Arrivals == 15 && s.Receipts == 1 },
		"15 keys wait, once; one receipt, tied to none of them")
}

func (st *story) sceneChaff(ctx context.Context) error {
	before, err := st.Stock(ctx)
	if err != nil {
		return err
	}
	server, err := st.Server(AppUS)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(20)
	refused := atomic.Int32{}
	for _, p := range st.crowd {
		group.Go(func() error {
			a, err := p.Chaff(ctx, server, st.Now())
			if a.Status != http.StatusOK || len(a.Padding) < 1024 {
				refused.Add(1)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	st.counts.Chaff = len(st.crowd)
	if err := st.expect(refused.Load() == 0, "%d phones got a padded 200 for nothing", len(st.crowd)); err != nil {
		return err
	}
	return st.expectStock(ctx, func(s Stock) bool { return s == before }, "chaff left no trace in the database")
}

func (st *story) sceneRefused(ctx context.Context) error {
	forger, err := st.Authority.Forged()
	if err != nil {
		return err
	}
	stranger := phone.New("a stranger")
	stranger.Carry(exposure.DayOf(st.Now())-3, exposure.DayOf(st.Now())-1)
	if err := st.expectRefusal(ctx, stranger, forger, stranger.Keys(st.Now()),
		401, "health_authority_verification_certificate_invalid"); err != nil {
		return err
	}
	// Whoever knows Anna's keys, from a published file, and has a diagnosis of
	// his own still has no token for them.
	return st.expectRefusal(ctx, stranger, st.Authority, st.anna.Keys(st.Now()), 400, "missing_revision_token")
}

func (st *story) expectRefusal(ctx context.Context, p *phone.Phone, by phone.Authority, keys []exposure.Submitted, status int, code string) error {
	server, err := st.Server(AppUS)
	if err != nil {
		return err
	}
	up, err := p.PrepareKeys(AppUS, by, diagnosis(exposure.Likely, st.Now()), keys, st.Now())
	if err != nil {
		return err
	}
	a, err := p.Send(ctx, server, up)
	if err != nil {
		return err
	}
	st.counts.Refused++
	return st.expect(a.Status == status && a.Code == code, "refused with %d %s", a.Status, a.Code)
}

func (st *story) sceneLikely(ctx context.Context) error {
	for _, u := range []struct {
		who    *phone.Phone
		report exposure.Report
	}{{st.boris, exposure.Likely}, {st.clara, exposure.Likely}, {st.david, exposure.Confirmed}} {
		if _, err := st.upload(ctx, u.who, u.report, nil); err != nil {
			return err
		}
	}
	return st.expectStock(ctx, func(s Stock) bool { return s.Arrivals == 4*15 && s.Receipts == 4 },
		"60 keys wait, four of them under the embargo until tomorrow")
}

func (st *story) scenePublished(ctx context.Context) error {
	if err := st.later(ctx, 4*time.Hour); err != nil {
		return err
	}
	published, err := st.tickAndAudit(ctx)
	if err != nil {
		return err
	}
	if err := st.expect(len(published.Files) == 1 && len(published.Files[0].Keys) >= 1000,
		"one file, signed with both keys, in which 56 real keys hide"); err != nil {
		return err
	}
	for _, ill := range []*phone.Phone{st.anna, st.boris, st.clara, st.david} {
		if err := st.expectPublished(published, ill, 14); err != nil {
			return err
		}
	}
	if err := st.expectStock(ctx, func(s Stock) bool { return s.Arrivals == 4 && s.Exposures == 56 && s.Facts == 0 },
		"only the four keys of today still wait"); err != nil {
		return err
	}
	return st.expectWarned(ctx, st.anna, st.boris, st.clara)
}

func (st *story) sceneRevised(ctx context.Context) error {
	if _, err := st.upload(ctx, st.boris, exposure.Confirmed, nil); err != nil {
		return err
	}
	if _, err := st.upload(ctx, st.clara, exposure.Revoked, nil); err != nil {
		return err
	}
	if err := st.later(ctx, 4*time.Hour); err != nil {
		return err
	}
	published, err := st.tickAndAudit(ctx)
	if err != nil {
		return err
	}
	last := published.Files[len(published.Files)-1]
	if err := st.expect(len(published.Files) == 2 && len(last.Keys) == 0 && len(last.Revised) >= 100,
		"a second file, with nothing but %d revised keys, most of them company", len(last.Revised)); err != nil {
		return err
	}
	if err := st.expectWarned(ctx, st.anna, st.boris); err != nil {
		return err
	}
	for _, contact := range st.near[st.boris] {
		for _, m := range contact.Warnings() {
			if err := st.expectQuietly(m.Exposure.Report == exposure.Confirmed, "%s still reads %s", contact.Name, m.Exposure.Report); err != nil {
				return err
			}
		}
	}
	return st.expect(st.between.Warned(), "the contacts of Clara alone are free; the one who also met Anna is not")
}

func (st *story) sceneEmbargo(ctx context.Context) error {
	if err := st.expectQuietly(!anyWarned(st.near[st.david]), "a contact of David was warned before the embargo ended"); err != nil {
		return err
	}
	tomorrow := exposure.DayOf(st.Now()) + 1
	if err := st.later(ctx, tomorrow.Time().Add(3*time.Hour).Sub(st.Now())); err != nil {
		return err
	}
	published, err := st.tickAndAudit(ctx)
	if err != nil {
		return err
	}
	if err := st.expectStock(ctx, func(s Stock) bool { return s.Arrivals == 0 }, "nothing waits any more"); err != nil {
		return err
	}
	for _, ill := range []*phone.Phone{st.anna, st.boris, st.david} {
		if err := st.expectPublished(published, ill, 15); err != nil {
			return err
		}
	}
	today, _ := st.clara.Key(tomorrow - 1)
	first, revised := published.Find(today)
	if err := st.expect(first == nil && revised == nil,
		"Clara's key of that day was withdrawn before anybody saw it, and nobody ever will"); err != nil {
		return err
	}
	return st.expectWarned(ctx, st.anna, st.boris, st.david)
}

func (st *story) sceneForgotten(ctx context.Context) error {
	before, err := st.Stock(ctx)
	if err != nil {
		return err
	}
	published, err := st.Audit(ctx, "us")
	if err != nil {
		return err
	}
	st.counts.Epochs, st.counts.Files, st.counts.Bytes = before.Epochs, len(published.Files), published.Bytes()
	if err := st.later(ctx, 18*24*time.Hour); err != nil {
		return err
	}
	if err := st.forgetKeys(ctx, before); err != nil {
		return err
	}
	return st.forgetFiles(ctx, published)
}

func (st *story) forgetKeys(ctx context.Context, before Stock) error {
	forgotten, err := st.CleanupExposures(ctx)
	if err != nil {
		return err
	}
	if err := st.expect(forgotten.Days >= 15 && forgotten.Receipts == before.Receipts,
		"%d days of keys, %d receipts and %d counts of uploads are gone", forgotten.Days, forgotten.Receipts, forgotten.Counts); err != nil {
		return err
	}
	st.counts.Forgotten = before.Exposures + before.Padding
	return st.expectStock(ctx, func(s Stock) bool { return s == Stock{Epochs: s.Epochs} },
		"the database holds nothing about anybody")
}

// forgetFiles watches the order: out of the index first, and out of the bucket
// when no cached index can list it any more.
func (st *story) forgetFiles(ctx context.Context, published Published) error {
	removed, err := st.CleanupExports(ctx)
	if err != nil {
		return err
	}
	files := len(published.Files)
	if err := st.expect(int(removed.Delisted) == files && removed.Deleted == 0, "%d files are out of the index", removed.Delisted); err != nil {
		return err
	}
	if err := st.expectObjects(ctx, published, http.StatusOK, "but still there, for phones that have read it before"); err != nil {
		return err
	}
	if err := st.later(ctx, 2*time.Hour); err != nil {
		return err
	}
	if removed, err = st.CleanupExports(ctx); err != nil {
		return err
	}
	if err := st.expect(removed.Deleted == files, "two hours later %d files are out of the bucket", removed.Deleted); err != nil {
		return err
	}
	if err := st.expectObjects(ctx, published, http.StatusNotFound, "nobody can download them"); err != nil {
		return err
	}
	now := st.Now()
	for _, p := range st.crowd {
		p.Forget(now)
	}
	return st.expectWarned(ctx)
}

func (st *story) sumUp() {
	c := &st.counts
	c.Warned = len(st.warned)
	c.NotWarned = c.Phones - c.Warned
	fmt.Fprintf(st.out, "\n%s\n", strings.Repeat("-", 60))
	for _, row := range []struct {
		what string
		n    any
	}{
		{"phones", c.Phones},
		{"uploads", c.Uploads},
		{"refused", c.Refused},
		{"chaff", c.Chaff},
		{"keys uploaded", c.Keys},
		{"epochs", c.Epochs},
		{"files", c.Files},
		{"bytes published", c.Bytes},
		{"bytes downloaded", c.Downloads},
		{"warned", c.Warned},
		{"not warned", c.NotWarned},
		{"warnings withdrawn", c.Withdrawn},
		{"rows forgotten", c.Forgotten},
	} {
		fmt.Fprintf(st.out, "%-20s %10v\n", row.what, row.n)
	}
}
