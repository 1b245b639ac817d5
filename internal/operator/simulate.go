package operator

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

func simulateCommands() []command {
	return []command{{
		name: "simulate", short: "play phones: upload, download, verify and match",
		help: `
Each round is three phones: one falls ill, one has met it, one has not. The ill
ones upload; the others follow the index like deployed phones, with every rule
that those enforce, until all whom it concerns are warned and nobody else is, or
until --wait is over. The exit status is 1 if that did not happen.

The diagnosis is certified by a simulated authority: give the private key of
one that the configuration knows.

  enctl simulate --server http://localhost:8080/v1/publish --app org.example.app \
      --key ha.pem --kid v1 --issuer org.example.verification --audience org.example.keyserver \
      --index http://localhost:8000/us/index.txt \
      --public-key export.pub.pem --key-id 310 --key-version v1 --rounds 20 --wait 1h

Without --index it only uploads. An index may be a file:// address too.`,
		build: buildSimulate,
	}}
}

// simulateFlags are all that a simulation needs.
type simulateFlags struct {
	authority                authorityFlags
	trust                    trustFlags
	server, app, index, base *string
	rounds                   *int
	wait, every              *time.Duration
}

func newSimulateFlags(flags *flag.FlagSet) simulateFlags {
	return simulateFlags{
		authority: newAuthorityFlags(flags),
		trust:     newTrustFlags(flags),
		server:    flags.String("server", "", "`URL` of the publish endpoint"),
		app:       flags.String("app", "", "`id` of the app, as the configuration names it"),
		index:     flags.String("index", "", "`URL` of the index.txt that the phones follow"),
		base:      flags.String("base", "", "`URL` to which the names in the index are relative (default: two levels above the index)"),
		rounds:    flags.Int("rounds", 1, "how many phones fall ill"),
		wait:      flags.Duration("wait", 0, "how long to wait until all are warned; 0: one look"),
		every:     flags.Duration("every", 5*time.Second, "how often to look at the index"),
	}
}

func (f simulateFlags) check(args []string) error {
	if err := exactly(args); err != nil {
		return err
	}
	if *f.rounds < 1 || *f.every <= 0 {
		return usageError("--rounds and --every must be above 0")
	}
	if err := needFlags("server", *f.server, "app", *f.app); err != nil {
		return err
	}
	return f.authority.check()
}

// outcome tells how a simulation ended.
type outcome struct {
	Uploads  int     `json:"uploads"`
	Refused  int     `json:"refused"`
	Keys     int     `json:"keys"` // that the server inserted
	Files    int     `json:"files"`
	Met      int     `json:"met"`          // phones that met an ill one
	Warned   int     `json:"warned"`       // of them
	Wrongly  int     `json:"wrongly"`      // warned, and met nobody
	Slowest  float64 `json:"slowest"`      // upload, in seconds
	FirstBad string  `json:"firstRefusal"` // of the server
	followed bool
}

func (o outcome) good() bool {
	return o.Refused == 0 && o.Wrongly == 0 && (!o.followed || o.Warned == o.Met)
}

func (o outcome) write(w io.Writer) error {
	text := fmt.Sprintf("%d uploads, %d refused, %d keys inserted, the slowest took %.3f s\n", o.Uploads, o.Refused, o.Keys, o.Slowest)
	if o.FirstBad != "" {
		text += fmt.Sprintf("the first refusal: %s\n", o.FirstBad)
	}
	if o.followed {
		text += fmt.Sprintf("%d files downloaded and checked, %d of %d phones warned, %d wrongly\n", o.Files, o.Warned, o.Met, o.Wrongly)
	}
	_, err := io.WriteString(w, text)
	return err
}

func buildSimulate(flags *flag.FlagSet, s *Session) action {
	f := newSimulateFlags(flags)
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		sim, err := f.simulation(ctx, s)
		if err != nil {
			return err
		}
		if err := sim.run(ctx); err != nil {
			return err
		}
		if err := out.show(sim.outcome, sim.outcome.write); err != nil {
			return err
		}
		if !sim.outcome.good() {
			return exit(exitFailed)
		}
		return nil
	}
}

// trio is one round: who is ill, who met that one, who did not.
type trio struct {
	ill           *phone.Phone
	near, distant phone.Client
}

type simulation struct {
	session   *Session
	flags     simulateFlags
	authority phone.Authority
	diagnosis phone.Diagnosis
	server    phone.Server
	feed      phone.Feed
	trios     []*trio
	outcome   outcome
}

func (f simulateFlags) simulation(ctx context.Context, s *Session) (*simulation, error) {
	key, err := f.authority.signer(ctx)
	if err != nil {
		return nil, err
	}
	report, onset, err := f.authority.diagnosis()
	if err != nil {
		return nil, err
	}
	sim := &simulation{
		session: s, flags: f,
		authority: phone.Authority{
			Issuer: *f.authority.issuer, Audience: *f.authority.audience, KeyID: *f.authority.kid, Key: key, Lifetime: *f.authority.expires,
		},
		diagnosis: phone.Diagnosis{Report: report, Onset: onset, Risk: 2},
		server:    phone.Server{URL: *f.server, App: *f.app, Pause: time.Second},
		outcome:   outcome{followed: *f.index != ""},
	}
	if sim.outcome.followed {
		if sim.feed, err = f.feed(); err != nil {
			return nil, err
		}
	}
	sim.meet()
	return sim, nil
}

// feed finds the index and what its names are relative to.
func (f simulateFlags) feed() (phone.Feed, error) {
	trusted, err := f.trust.trusted()
	if err != nil {
		return phone.Feed{}, err
	}
	base := *f.base
	if base == "" {
		u, err := url.Parse(*f.index)
		if err != nil {
			return phone.Feed{}, usageError("--index must be a URL")
		}
		base = u.JoinPath("..", "..").String()
	}
	base = strings.TrimSuffix(base, "/") + "/"
	name, ok := strings.CutPrefix(*f.index, base)
	if !ok {
		return phone.Feed{}, usageError("--index must start with --base")
	}
	return phone.Feed{Base: base, Index: name, Trusted: trusted, HTTP: downloads()}, nil
}

// downloads is a client that reads folders too.
func downloads() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()             //nolint:forcetypeassert // it is one
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/"))) //nolint:gosec // the operator's own files, by the operator's own right
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// meet lets each ill phone meet its neighbour yesterday at noon: today's keys
// are under embargo.
func (sim *simulation) meet() {
	today := exposure.DayOf(sim.session.Now())
	noon := (today - 1).Start() + exposure.IntervalsPerDay/2
	for i := range *sim.flags.rounds {
		t := &trio{ill: phone.New(fmt.Sprintf("ill %d", i+1))}
		t.near = phone.Client{Phone: phone.New(fmt.Sprintf("near %d", i+1)), Feed: sim.feed}
		t.distant = phone.Client{Phone: phone.New(fmt.Sprintf("distant %d", i+1)), Feed: sim.feed}
		t.ill.Carry(today-5, today-1)
		t.distant.Phone.Carry(today-5, today-1)
		phone.Meet(noon, t.ill, t.near.Phone)
		sim.trios = append(sim.trios, t)
	}
	sim.outcome.Met = len(sim.trios)
}

func (sim *simulation) run(ctx context.Context) error {
	if err := sim.upload(ctx); err != nil || !sim.outcome.followed {
		return err
	}
	return sim.follow(ctx)
}

func (sim *simulation) upload(ctx context.Context) error {
	progress := sim.session.bar("uploading", len(sim.trios))
	defer progress.clear()
	for _, t := range sim.trios {
		upload, err := t.ill.Prepare(*sim.flags.app, sim.authority, sim.diagnosis, sim.session.Now())
		if err != nil {
			return err
		}
		began := time.Now()
		answer, err := t.ill.Send(ctx, sim.server, upload)
		if err != nil {
			return err
		}
		sim.count(answer, time.Since(began))
		progress.step()
	}
	return nil
}

func (sim *simulation) count(answer phone.Answer, took time.Duration) {
	o := &sim.outcome
	o.Uploads++
	o.Keys += answer.Inserted
	o.Slowest = max(o.Slowest, took.Seconds())
	if answer.Accepted() {
		return
	}
	o.Refused++
	if o.FirstBad == "" {
		o.FirstBad = fmt.Sprintf("status %d %s: %s", answer.Status, answer.Code, answer.Error)
	}
}

// follow polls until all who should be are warned, or the wait is over.
func (sim *simulation) follow(ctx context.Context) error {
	deadline := time.Now().Add(*sim.flags.wait)
	progress := sim.session.bar("warned", len(sim.trios))
	defer progress.clear()
	for {
		if err := sim.poll(ctx); err != nil {
			return err
		}
		for progress.done < sim.outcome.Warned {
			progress.step()
		}
		if sim.outcome.Warned == sim.outcome.Met || !time.Now().Add(*sim.flags.every).Before(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(*sim.flags.every):
		}
	}
}

// parallelPolls is how many phones download at the same time.
const parallelPolls = 4

func (sim *simulation) poll(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(parallelPolls)
	polled := make([]phone.Polled, 2*len(sim.trios))
	for i, t := range sim.trios {
		for j, client := range []*phone.Client{&t.near, &t.distant} {
			all.Go(func() (err error) {
				polled[2*i+j], err = client.Poll(ctx, sim.session.Now())
				return err
			})
		}
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("a phone cannot follow the index: %w", err)
	}
	sim.outcome.Warned, sim.outcome.Wrongly = 0, 0
	for i, t := range sim.trios {
		sim.outcome.Files += polled[2*i].Files + polled[2*i+1].Files
		sim.outcome.Warned += ones(t.near.Phone.Warned())
		sim.outcome.Wrongly += ones(t.distant.Phone.Warned())
	}
	return nil
}

func ones(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// fileURL is the URL of a file.
func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
