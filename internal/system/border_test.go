package system_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/system"
)

// borderFor is how long TestBorder lets two countries exchange keys under fire.
var borderFor = flag.Duration("border", 20*time.Second, "how long TestBorder lets two countries burn")

// country is one of two complete servers that are neighbours. Its phones are
// those of all apps: what crosses the border is decided by regions alone.
type country struct {
	*fire
	name   string // under which the other knows it
	region string
	gate   *gate
	secret string // file with what it shows the issuer

	syncs, failures atomic.Int64
}

// Two complete servers federate both ways over TLS with tokens of one issuer,
// while phones upload and revise on both sides, and exposures, batchers,
// workers, pullers and the servers they pull from are killed again and again,
// and connections are cut. After that each side has exactly the keys of the
// other's region, once, with their last state, and publishes what its exports
// ask for; nothing comes back to where it came from.
func TestBorder(t *testing.T) {
	if testing.Short() {
		t.Skip("it burns for 20 seconds; run without -short")
	}
	us, ca := border(t)
	ctx, cancel := context.WithTimeout(t.Context(), *borderFor)
	defer cancel()
	var both sync.WaitGroup
	for _, c := range []*country{us, ca} {
		both.Go(func() { c.burn(ctx) })
	}
	both.Wait()
	settle(t.Context(), us, ca)
	for _, c := range []*country{us, ca} {
		c.report()
		t.Logf("%s: %d calls of /sync, %d of them failed; %d connections cut", c.name, c.syncs.Load(), c.failures.Load(), c.gate.cut.Load())
		c.checkOutput()
		c.check(t.Context())
	}
	crossed(t, us, ca)
	crossed(t, ca, us)
}

// border starts both countries, and tells each of the other.
func border(t *testing.T) (us, ca *country) {
	t.Helper()
	noon := time.Now().UTC().Truncate(24 * time.Hour).Add((24 + 12) * time.Hour)
	start := time.Now()
	clock := noon.Add(-*borderFor / 2)
	issuer := federationtest.NewIssuer(t, func() time.Time { return clock.Add(time.Since(start)) })
	us, ca = newCountry(t, "us", "US", clock, issuer), newCountry(t, "ca", "CA", clock, issuer)
	us.meet(ca, issuer)
	ca.meet(us, issuer)
	return us, ca
}

func newCountry(t *testing.T, name, region string, clock time.Time, issuer *federationtest.Issuer) *country {
	t.Helper()
	folder := t.TempDir()
	cert, key := issuer.CA.Files(t, folder, name)
	c := &country{name: name, region: region, secret: filepath.Join(folder, "secret")}
	issuer.AddClient(name+"-puller", "the secret of "+name)
	if err := os.WriteFile(c.secret, []byte("the secret of "+name), 0o600); err != nil {
		t.Fatal(err)
	}
	own := exportOf("own", "US", "CA")
	own.Provenance = "local"
	c.fire = lightWith(t, []string{"us", "na", "ca", "own"}, system.Options{
		Clock:   clock,
		Exports: []configuration.Export{exportOf("us", "US"), exportOf("na", "US", "CA"), exportOf("ca", "CA"), own},
		Environment: map[string]string{
			"FEDERATION_TLS_CERT":      cert,
			"FEDERATION_TLS_KEY":       key,
			"FEDERATION_TOKEN_CA_FILE": issuer.CA.File(t),
			"FEDERATION_PAGE_KEYS":     "50", // so that a kill meets the middle of things
			"REMOTE_CA_FILE":           issuer.CA.File(t),
			"REMOTE_ALLOW_PRIVATE":     "true",
		},
	})
	c.gate = newGate(t, c.System)
	return c
}

// meet writes the agreement with a neighbour into the configuration. Nobody asks
// for local provenance alone: what came from here must not come back all the
// same.
func (c *country) meet(other *country, issuer *federationtest.Issuer) {
	c.t.Helper()
	err := c.Amend(c.t.Context(), func(f *configuration.File) {
		f.Federation = &configuration.Federation{
			Pull: []configuration.Pull{{
				Name: other.name, Server: other.gate.Addr(), Audience: other.name + ".federation",
				TLS: configuration.TLS{CA: issuer.CA.PEM()}, IncludeRegions: []string{other.region},
				Token: configuration.Token{ClientCredentials: &configuration.ClientCredentials{
					TokenURL: issuer.TokenURL(), ClientID: c.name + "-puller", ClientSecret: "secret://file/" + c.secret,
				}},
			}},
			Allow: []configuration.Allow{{
				Name: other.name, Issuer: issuer.URL(), Subject: other.name + "-puller", Audience: c.name + ".federation",
				IncludeRegions: []string{c.region},
			}},
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// burn lets everybody loose until ctx ends.
func (c *country) burn(ctx context.Context) {
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { c.uploader(ctx) })
	}
	for _, service := range []string{
		system.Exposure, system.Batcher, system.Worker,
		system.FederationOut, system.FederationOut, system.FederationIn, system.FederationIn,
	} {
		all.Go(func() { c.killer(ctx, service) })
	}
	all.Go(func() { c.scheduler(ctx, 200*time.Millisecond, c.createBatches) })
	all.Go(func() { c.scheduler(ctx, 200*time.Millisecond, c.doWork) })
	for range 2 {
		all.Go(func() { c.scheduler(ctx, 200*time.Millisecond, c.sync) })
	}
	all.Go(func() { c.scheduler(ctx, 700*time.Millisecond, c.expireLeases) })
	all.Wait()
}

func (c *country) sync(ctx context.Context) error {
	c.syncs.Add(1)
	_, err := c.Sync(ctx)
	if err != nil {
		c.failures.Add(1)
	}
	return err
}

// settle lets what is left cross the border and be published, in peace.
func settle(ctx context.Context, countries ...*country) {
	for _, c := range countries {
		c.gate.calm.Store(true)
		c.drain(ctx)
		for _, service := range []string{system.FederationOut, system.FederationIn} {
			if _, err := c.Launch(ctx, service); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	for quiet := 0; quiet < 2; quiet++ {
		for _, c := range countries {
			pulled, err := c.Sync(ctx)
			if err != nil {
				c.t.Fatal(err)
			}
			for _, n := range pulled.Neighbours {
				if n.Received > 0 || !n.Complete {
					quiet = -1
				}
			}
			c.publish(ctx)
		}
	}
}

// crossed checks that one country has of the other what it should, and nothing
// else.
func crossed(t *testing.T, from, to *country) {
	t.Helper()
	there, here := from.histories(), to.histories()
	var keys, revoked int
	for key, h := range here {
		if h.first.Origin == 0 || h.first.Padding { // padding is company for what came, made here
			continue
		}
		if why := misplaced(there[key], h, from.region); why != "" {
			t.Errorf("%s has a key of %s that it should not have: %s", to.name, from.name, why)
		}
		keys++
	}
	for key, h := range there {
		if h.first.Padding || h.first.Origin != 0 || !slices.Contains(h.first.Regions, from.region) {
			continue
		}
		got, last := here[key], h.last()
		switch {
		case last == exposure.Revoked && got == nil: // it was withdrawn before it crossed
		case got == nil:
			t.Errorf("a key of %s (%s) did not reach %s", from.name, h.describe(), to.name)
		case got.last() != last:
			t.Errorf("a key of %s (%s) is in %s as %s", from.name, h.describe(), to.name, got.describe())
		case last == exposure.Revoked:
			revoked++
		}
	}
	t.Logf("%d keys crossed from %s to %s, %d of them were withdrawn after that", keys, from.name, to.name, revoked)
	if keys == 0 {
		t.Error("nothing crossed the border")
	}
}

// misplaced says what is wrong with a key that came from elsewhere.
func misplaced(there, here *history, region string) string {
	switch {
	case there == nil:
		return "it is not there"
	case there.first.Padding:
		return "it is padding"
	case there.first.Origin != 0:
		return "it was not theirs"
	case !slices.Equal(here.first.Regions, []string{region}):
		return fmt.Sprintf("its regions are %v", here.first.Regions)
	case here.first.Traveler != there.first.Traveler:
		return "it is a traveller's on one side only"
	case here.first.StartInterval != there.first.StartInterval || here.first.Period != there.first.Period:
		return "its start or period is another"
	}
	return ""
}

// last is the report that counts in the end.
func (h *history) last() exposure.Report {
	if h.revised != nil {
		return h.revised.Report
	}
	return h.first.Report
}

func (c *country) histories() map[exposure.Key]*history {
	c.t.Helper()
	tr := &truth{t: c.t, histories: map[exposure.Key]*history{}}
	if err := tr.readLog(c.t.Context(), c.Store.DB); err != nil {
		c.t.Fatal(err)
	}
	return tr.histories
}

// gate is the address of a country's federation servers, whichever of them runs.
// It cuts a connection now and then.
type gate struct {
	net.Listener
	sys  *system.System
	calm atomic.Bool
	cut  atomic.Int64
}

func newGate(t *testing.T, sys *system.System) *gate {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: listener, sys: sys}
	t.Cleanup(func() { _ = g.Close() })
	go func() {
		for {
			conn, err := g.Accept()
			if err != nil {
				return
			}
			go g.pass(conn)
		}
	}()
	return g
}

// Addr is where the neighbour finds it.
func (g *gate) Addr() string { return g.Listener.Addr().String() }

func (g *gate) pass(conn net.Conn) {
	defer conn.Close()
	p, err := g.sys.Some(system.FederationOut)
	if err != nil {
		return
	}
	u, err := url.Parse(p.URL())
	if err != nil {
		return
	}
	inside, err := net.Dial("tcp", u.Host)
	if err != nil {
		return
	}
	defer inside.Close()
	if !g.calm.Load() && rand.IntN(4) == 0 {
		timer := time.AfterFunc(rand.N(300*time.Millisecond), func() {
			g.cut.Add(1)
			_ = conn.Close()
		})
		defer timer.Stop()
	}
	go func() {
		_, _ = io.Copy(inside, conn)
		_ = inside.Close()
	}()
	_, _ = io.Copy(conn, inside)
}
