package rotation_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/revision"
	"enkeyserver/internal/rotation"
	"enkeyserver/internal/store"
)

// TestMain keeps the log of keys that fail on purpose out of the way.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	m.Run()
}

// Whatever the order in which keys turn over, instances start, idle, lose the
// database or the key manager, by clocks that differ: a token opens for as long
// as it can be of use, on every instance that is well. Later it is refused.
func TestNoTokenIsLost(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			for range 250 {
				w.step()
			}
			w.grow()
		})
	}
}

// world is a house with instances that are in different states.
type world struct {
	*house
	chance    *rand.Rand
	instances []*instance
	rotation  *shaky
	tokens    []sealedToken
}

type sealedToken struct {
	text string
	at   time.Time
}

// instance is one process of exposure.
type instance struct {
	*revision.Keyring
	house   *house
	skew    time.Duration // of its clock
	reads   *gate
	wrapper *shaky
	loaded  bool // its keyring has worked
}

// gate is a database whose keys cannot be read, though uploads can be stored.
type gate struct {
	*store.DB
	down atomic.Bool
}

func (g *gate) RevisionKeys(ctx context.Context) ([]store.RevisionKey, error) {
	if g.down.Load() {
		return nil, errDown
	}
	return g.DB.RevisionKeys(ctx)
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{house: newHouse(t), chance: rand.New(rand.NewPCG(seed, 1))}
	for range 3 {
		i := &instance{
			house: w.house, reads: &gate{DB: w.db}, wrapper: &shaky{Wrapper: w.wrapper.Wrapper},
			skew: time.Duration(w.chance.IntN(61)-30) * time.Minute,
		}
		i.restart()
		w.instances = append(w.instances, i)
	}
	w.rotation = &shaky{Wrapper: w.wrapper.Wrapper}
	return w
}

func (i *instance) clock() time.Time { return i.house.clock().Add(i.skew) }

func (i *instance) restart() {
	i.loaded = false
	i.Keyring = revision.NewKeyring(revision.KeyringDeps{
		Store: i.reads, Wrapping: revision.NewWrapping(i.wrapper, nil, []byte("house")), Now: i.clock, Retention: tokenLife,
	})
}

func (i *instance) well() bool { return !i.reads.down.Load() && !i.wrapper.down.Load() }

// mend lets an instance forget that it failed a moment ago, too, and may still
// be failing.
func (w *world) mend(i *instance) {
	i.reads.down.Store(false)
	i.wrapper.down.Store(false)
	for range 3 {
		w.wait(6 * time.Second)
		if i.Ready(w.t.Context()) == nil {
			i.loaded = true
			return
		}
	}
	w.t.Fatal("an instance that is well does not recover")
}

func (w *world) step() {
	i := w.instances[w.chance.IntN(len(w.instances))]
	switch n := w.chance.IntN(100); {
	case n < 25:
		w.pass()
	case n < 35:
		w.turn()
	case n < 40:
		w.turnBetween(i, w.instances[w.chance.IntN(len(w.instances))])
	case n < 65:
		w.upload(i)
	case n < 85:
		w.revise(i)
	case n < 88:
		i.reads.down.Store(true)
	case n < 91:
		i.wrapper.down.Store(true)
	case n < 93:
		i.restart()
	case n < 95:
		w.rotation.down.Store(true)
	default:
		w.rotation.down.Store(false)
		w.mend(i)
	}
}

// pass lets seconds go by, or days.
func (w *world) pass() {
	longest := []time.Duration{time.Minute, time.Hour, 6 * time.Hour, day, 4 * day}[w.chance.IntN(5)]
	w.wait(time.Duration(w.chance.Int64N(int64(longest))))
}

// turn is a call of the scheduler.
func (w *world) turn() {
	skew := time.Duration(w.chance.IntN(11)-5) * time.Minute
	_, err := w.rotator(func(d *rotation.Deps) {
		d.Wrapping = revision.NewWrapping(w.rotation, nil, []byte("house"))
		d.Now = func() time.Time { return w.clock().Add(skew) }
	}).RevisionKeys(w.t.Context())
	if down := w.rotation.down.Load(); (err != nil) != down {
		w.t.Fatalf("rotation: error %v, with a key manager that is down: %t", err, down)
	}
}

// turnBetween lets keys turn over when one instance has just read them. Another
// reads them afterwards, and a phone goes from this to that.
func (w *world) turnBetween(knows, learns *instance) {
	_ = knows.Ready(w.t.Context())
	w.turn()
	if learns.Ready(w.t.Context()) == nil {
		w.upload(learns)
		w.reviseOf(knows, w.tokens[len(w.tokens)-1:])
	}
}

// upload seals a token. An instance that has its keys goes on without the key
// manager.
func (w *world) upload(i *instance) {
	token, err := i.Seal(w.t.Context(), covered())
	if err != nil {
		if i.well() || i.loaded && !i.reads.down.Load() {
			w.t.Fatalf("an upload fails on an instance that is well (%t): %v", i.well(), err)
		}
		return
	}
	i.loaded = true
	w.tokens = append(w.tokens, sealedToken{token, w.clock()})
}

// revise opens a token that is young enough to be of use.
func (w *world) revise(i *instance) {
	var young []sealedToken
	for _, token := range w.tokens {
		if w.clock().Sub(token.at) <= tokenLife {
			young = append(young, token)
		}
	}
	w.reviseOf(i, young)
}

func (w *world) reviseOf(i *instance, young []sealedToken) {
	if len(young) == 0 {
		return
	}
	token := young[w.chance.IntN(len(young))]
	_, ok, err := i.Open(w.t.Context(), token.text)
	if ok || err != nil && !i.well() {
		return
	}
	w.t.Fatalf("a token that is %s old is refused on an instance that is well (%t): %v", w.clock().Sub(token.at), i.well(), err)
}

// grow mends everything and lets keys turn over until the last token is too
// old: none opens then, and no key is left that was there.
func (w *world) grow() {
	w.rotation.down.Store(false)
	for _, i := range w.instances {
		w.mend(i)
	}
	last := w.clock()
	for w.clock().Sub(last) < period+keyLife+2*day {
		w.turn()
		w.wait(6 * time.Hour)
	}
	for _, row := range w.rows() {
		if !row.CreatedAt.After(last) {
			w.t.Errorf("a key made %s ago is still there", w.clock().Sub(row.CreatedAt))
		}
	}
	for _, token := range w.tokens {
		for _, i := range w.instances {
			w.opens(i.Keyring, token.text, false)
		}
	}
}
