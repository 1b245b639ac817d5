package system

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// expect says what has just been seen, or fails with it.
func (st *story) expect(ok bool, format string, args ...any) error {
	if err := st.expectQuietly(ok, "expected: "+format, args...); err != nil {
		return err
	}
	fmt.Fprintf(st.out, "    ok  "+format+"\n", args...)
	return nil
}

func (st *story) expectQuietly(ok bool, format string, args ...any) error {
	if !ok {
		return fmt.Errorf(format, args...)
	}
	return nil
}

func (st *story) expectStock(ctx context.Context, want func(Stock) bool, what string) error {
	stock, err := st.Stock(ctx)
	if err != nil {
		return err
	}
	if !want(stock) {
		return fmt.Errorf("expected: %s; the database holds %+v", what, stock)
	}
	return st.expect(true, "%s", what)
}

// expectPublished looks for the keys of a phone in the files.
func (st *story) expectPublished(p Published, who *phone.Phone, want int) error {
	got := 0
	for _, k := range st.sent[who] {
		key, err := exposure.ParseKey(k.Text)
		if err != nil {
			return err
		}
		if first, _ := p.Find(key); first != nil {
			got++
		}
	}
	return st.expectQuietly(got == want, "%d keys of %s are published, want %d", got, who.Name, want)
}

func (st *story) expectObjects(ctx context.Context, published Published, status int, format string, args ...any) error {
	feed, err := st.Feed(published.Root)
	if err != nil {
		return err
	}
	for _, f := range published.Files {
		_, got, err := feed.Get(ctx, f.Name)
		if err != nil {
			return err
		}
		if err := st.expectQuietly(got == status, "GET %s answers %d, want %d", f.Name, got, status); err != nil {
			return err
		}
	}
	return st.expect(true, format, args...)
}

// expectWarned lets every phone look, and compares who is warned with who met
// one of these people.
func (st *story) expectWarned(ctx context.Context, ill ...*phone.Phone) error {
	if err := st.poll(ctx); err != nil {
		return err
	}
	want := map[*phone.Phone]bool{}
	for _, who := range ill {
		for _, contact := range st.near[who] {
			want[contact] = true
		}
	}
	withdrawn := 0
	for _, p := range st.crowd {
		if p.Warned() != want[p] {
			return fmt.Errorf("%s is warned: %t, want %t", p.Name, p.Warned(), want[p])
		}
		if st.warned[p] && !want[p] {
			withdrawn++
		}
		if want[p] {
			st.warned[p] = true
		}
	}
	if len(ill) > 0 {
		st.counts.Withdrawn = max(st.counts.Withdrawn, withdrawn)
	}
	if len(ill) == 0 {
		return st.expect(true, "no phone remembers a warning")
	}
	return st.expect(true, "%d phones are warned, %d are not: exactly those who met %s", len(want), len(st.crowd)-len(want), names(ill))
}

func names(people []*phone.Phone) string {
	var text strings.Builder
	for i, p := range people {
		switch {
		case i == 0:
		case i == len(people)-1:
			text.WriteString(" or ")
		default:
			text.WriteString(", ")
		}
		text.WriteString(p.Name)
	}
	return text.String()
}

func (st *story) warnedNow() []*phone.Phone {
	return slices.DeleteFunc(slices.Clone(st.crowd), func(p *phone.Phone) bool { return !p.Warned() })
}

func anyWarned(phones []*phone.Phone) bool {
	return slices.ContainsFunc(phones, (*phone.Phone).Warned)
}

// poll lets every phone download what is new to it.
func (st *story) poll(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(4)
	var mu sync.Mutex
	for _, p := range st.crowd {
		group.Go(func() error {
			polled, err := st.clients[p].Poll(ctx, st.Now())
			mu.Lock()
			defer mu.Unlock()
			st.counts.Downloads += polled.Bytes
			return err
		})
	}
	return group.Wait()
}

// later lets time pass: the services are stopped and started with a clock that
// has moved on.
func (st *story) later(ctx context.Context, d time.Duration) error {
	if err := st.Down(); err != nil {
		return err
	}
	st.Travel(d)
	if err := st.Up(ctx); err != nil {
		return err
	}
	fmt.Fprintf(st.out, "    ..  it is %s now\n", st.Now().Format("Mon 2 Jan 15:04"))
	return nil
}

// tick is what the scheduler does: seal and cut, then work until all is done.
func (st *story) tick(ctx context.Context) error {
	cut, err := st.CreateBatches(ctx)
	if err != nil {
		return err
	}
	done, err := st.DoWork(ctx)
	if err != nil {
		return err
	}
	return st.expectQuietly(done.Batches == cut.Batches && !done.More, "%d batches were cut and %d done", cut.Batches, done.Batches)
}

func (st *story) tickAndAudit(ctx context.Context) (Published, error) {
	if err := st.tick(ctx); err != nil {
		return Published{}, err
	}
	return st.Audit(ctx, "us")
}

// upload sends all keys of a phone with a diagnosis, and checks the answer.
func (st *story) upload(ctx context.Context, who *phone.Phone, report exposure.Report, with *http.Client) (_ phone.Answer, err error) {
	defer errs.Wrap(&err, "upload(%s)", who.Name)
	server, err := st.Server(AppUS)
	if err != nil {
		return phone.Answer{}, err
	}
	server.HTTP = with
	up, err := who.Prepare(AppUS, st.Authority, diagnosis(report, st.Now()), st.Now())
	if err != nil {
		return phone.Answer{}, err
	}
	a, err := who.Send(ctx, server, up)
	if err != nil {
		return a, err
	}
	st.counts.Uploads++
	if up.Token == "" {
		st.counts.Keys += len(up.Keys)
		st.sent[who] = up.Keys
	}
	return a, st.expect(a.Accepted() && a.Code == "", "%s uploads %d keys, %s: accepted", who.Name, len(up.Keys), report)
}

// diagnosis is one whose symptoms began four days ago.
func diagnosis(report exposure.Report, now time.Time) phone.Diagnosis {
	return phone.Diagnosis{Report: report, Onset: exposure.IntervalOf(now.Add(-4 * 24 * time.Hour)), Risk: 3}
}

// losesAnswers is a network that brings requests there, and some answers not
// back.
type losesAnswers struct {
	lose atomic.Int32 // how many of the next answers
	lost atomic.Int32
}

// RoundTrip is http.RoundTripper.
func (l *losesAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || l.lose.Add(-1) < 0 {
		return resp, err
	}
	l.lost.Add(1)
	_ = resp.Body.Close()
	return nil, fmt.Errorf("the network lost the answer")
}
