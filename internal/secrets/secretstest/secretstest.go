// Package secretstest has fake managers of secrets, as real servers, and the
// suite that every manager passes.
package secretstest

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Manager is a manager of secrets in the hands of a test.
type Manager interface {
	// Env is the environment in which programs find it.
	Env() map[string]string

	// Reference refers to a secret, Field to one field of it.
	Reference(name string) string
	Field(name, field string) string

	// Put gives a secret a new value, PutFields one with fields.
	Put(tb testing.TB, name, value string)
	PutFields(tb testing.TB, name string, fields map[string]string)
}

// Server is a Manager behind a wire. All but Folder are.
type Server interface {
	Manager
	Disable(name string)
	Forbid(name string)
	Break(name string, fault Fault, times int)
	Mend(name string)
	Asked(name string) int
}

// The fakes keep their promises.
var (
	_ Server  = (*Google)(nil)
	_ Server  = (*AWS)(nil)
	_ Server  = (*Azure)(nil)
	_ Server  = (*Vault)(nil)
	_ Manager = (*Folder)(nil)
)

// Use puts what m's programs need into the environment of the test.
func Use(t *testing.T, m Manager) {
	t.Helper()
	for name, value := range m.Env() {
		t.Setenv(name, value)
	}
}

// Resolver is what the suite looks at.
type Resolver interface {
	Value(ctx context.Context, ref string) (string, error)
	Renewed(ctx context.Context, ref string) (string, error)
}

// TTL is how long values count as known in the suite.
const TTL = time.Hour

// The timeouts in the suite: one that a slow machine keeps, and one for those
// who will see it pass.
const (
	generous = 12 * time.Second
	short    = 600 * time.Millisecond
)

// bench is one test's own resolver, with a clock that the test turns.
type bench struct {
	Manager
	Resolver
	mu  sync.Mutex
	now time.Time
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) turn(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// Run holds a manager to the contract. open makes a new resolver in the
// environment, in which Use has put what it needs, with TTL and the given
// timeout and clock.
func Run(t *testing.T, m Manager, open func(t *testing.T, timeout time.Duration, now func() time.Time) Resolver) {
	tests := map[string]func(*testing.T, *bench){
		"values": testValues, "fields": testFields, "files": testFiles, "missing": testMissing,
		"rotated": testRotated, "ruined": testRuined,
	}
	if _, ok := m.(Server); ok {
		maps.Copy(tests, map[string]func(*testing.T, *bench){
			"refused": testRefused, "refused later": testRefusedLater, "faults": testFaults, "down": testDown,
			"down later": testDownLater, "asked once": testAskedOnce, "given up": testGivenUp,
		})
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{Manager: m, now: time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC)}
			b.Resolver = open(t, generous, b.clock)
			if strings.HasPrefix(name, "down") {
				b.Resolver = open(t, short, b.clock)
			}
			test(t, b)
		})
	}
}

func (b *bench) want(t *testing.T, why, ref, want string) {
	t.Helper()
	got, err := b.Value(t.Context(), ref)
	if err != nil || got != want {
		t.Errorf("%s: %d bytes (error %v), want the %d that were put", why, len(got), err, len(want))
	}
}

// await wants a value soon. After its life the last one may be given once more.
func (b *bench) await(t *testing.T, why, ref, want string) {
	t.Helper()
	got, err := b.Value(t.Context(), ref)
	for deadline := time.Now().Add(generous); (err != nil || got != want) && time.Now().Before(deadline); {
		b.turn(TTL)
		got, err = b.Value(t.Context(), ref)
	}
	if err != nil || got != want {
		t.Errorf("%s: %d bytes (error %v), want the %d that were put", why, len(got), err, len(want))
	}
}

// refuse wants an error that says this, on one line, without the value.
func (b *bench) refuse(t *testing.T, why, ref, say string) {
	t.Helper()
	got, err := b.Value(t.Context(), ref)
	if err == nil || got != "" || !strings.Contains(err.Error(), say) {
		t.Errorf("%s: %d bytes, error %v, want one that says %q", why, len(got), err, say)
		return
	}
	if text := err.Error(); strings.ContainsAny(text, "\n\r") || strings.Contains(text, "s3same") || len(text) > 500 {
		t.Errorf("%s: the error is long, or tells the secret: %q", why, text)
	}
}

const most = 64 << 10

func testValues(t *testing.T, b *bench) {
	for _, tc := range []struct{ why, name, value, want string }{
		{"text", "v-text", "s3same", "s3same"},
		{"signs that mean something elsewhere", "v-signs", ` '"\{}$%#?&=+é€😀`, ` '"\{}$%#?&=+é€😀`},
		{"several lines", "v-lines", "a\nb\n", "a\nb"},
		{"a newline that an editor added", "v-newline", "s3same\r\n", "s3same"},
		{"as long as allowed", "v-long", strings.Repeat("x", most-len(`{"value": ""}`)), strings.Repeat("x", most-len(`{"value": ""}`))},
	} {
		b.Put(t, tc.name, tc.value)
		b.want(t, tc.why, b.Reference(tc.name), tc.want)
	}
	for _, tc := range []struct{ why, name, value, say string }{
		{"empty", "v-empty", "", "is empty: give it a value"},
		{"a newline alone", "v-blank", "\n", "is empty: give it a value"},
		{"too long", "v-huge", "s3same" + strings.Repeat("x", most), "is longer than 64 KiB"},
		{"so long that nobody should read it", "v-flood", strings.Repeat("s3same", 1<<17), "is longer than 64 KiB"},
		{"a zero, which no variable can hold", "v-zero", "s3same\x00", "is no text: add target=file"},
	} {
		b.Put(t, tc.name, tc.value)
		b.refuse(t, tc.why, b.Reference(tc.name), tc.say)
	}
}

func testFields(t *testing.T, b *bench) {
	b.PutFields(t, "f-object", map[string]string{"user": "u", "password": "s3same ≠ \"x\"", "": "s3same"})
	b.want(t, "a field", b.Field("f-object", "password"), "s3same ≠ \"x\"")
	b.want(t, "another", b.Field("f-object", "user"), "u")
	b.refuse(t, "none of this name", b.Field("f-object", "pass"), "does not have the field that stands after #")
}

func testFiles(t *testing.T, b *bench) {
	const key = "-----BEGIN PRIVATE KEY-----\ns3same\n-----END PRIVATE KEY-----\n"
	b.Put(t, "f-key", key)
	ref := inFile(b.Reference("f-key"))
	path, err := b.Value(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != key {
		t.Errorf("the file holds %d bytes (error %v), want all %d", len(text), err, len(key))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is open to others: %v (error %v)", info, err)
	}
	b.want(t, "the same file again", ref, path)
	b.Put(t, "f-key", "another")
	if other, err := b.Renewed(t.Context(), ref); err == nil && other == path {
		b.turn(time.Minute)
		if other, err = b.Renewed(t.Context(), ref); err != nil || other == path {
			t.Errorf("another value is in the file %q (error %v), want another file", other, err)
		}
	}
}

// inFile adds target=file where it belongs.
func inFile(ref string) string {
	name, field, ok := strings.Cut(ref, "#")
	if name += "?target=file"; ok {
		name += "#" + field
	}
	return name
}

func testMissing(t *testing.T, b *bench) {
	b.refuse(t, "none of this name", b.Reference("m-none"), "there is no secret ")
	b.refuse(t, "again", b.Reference("m-none"), "create it, or correct the reference")
	b.Put(t, "m-none", "s3same")
	b.want(t, "made meanwhile: the failure is not remembered", b.Reference("m-none"), "s3same")
}

func testRotated(t *testing.T, b *bench) {
	ref := b.Reference("r-turned")
	b.Put(t, "r-turned", "old")
	b.want(t, "at first", ref, "old")
	b.Put(t, "r-turned", "new")
	b.turn(TTL - time.Second)
	b.want(t, "within its life", ref, "old")
	b.turn(time.Second)
	b.await(t, "after its life", ref, "new")

	b.Put(t, "r-turned", "newer")
	b.turn(time.Second)
	b.want(t, "again within its life", ref, "new")
	if got, err := b.Renewed(t.Context(), ref); err != nil || got != "newer" {
		t.Errorf("renewed: %q, %v", got, err)
	}
	b.want(t, "what was renewed is known to all", ref, "newer")
}

// What is no value does not replace one.
func testRuined(t *testing.T, b *bench) {
	for _, ruin := range []string{"", strings.Repeat("x", most+1)} {
		ref := b.Reference("r-ruined")
		b.Put(t, "r-ruined", "s3same")
		b.turn(TTL)
		b.want(t, "at first", ref, "s3same")
		if _, vault := b.Manager.(*Vault); vault && ruin == "" {
			continue // a secret with an empty field is a secret
		}
		b.Put(t, "r-ruined", ruin)
		b.turn(TTL)
		b.want(t, "after it was ruined", ref, "s3same")
	}
}

func (b *bench) server() Server { return b.Manager.(Server) }

func testRefused(t *testing.T, b *bench) {
	b.Put(t, "d-disabled", "s3same")
	b.server().Disable("d-disabled")
	b.refuse(t, "disabled", b.Reference("d-disabled"), "is disabled or deleted: enable it, or refer to another one")
	b.Put(t, "d-forbidden", "s3same")
	b.server().Forbid("d-forbidden")
	b.refuse(t, "forbidden", b.Reference("d-forbidden"), "does not let this service read secret ")
}

// A mistake at the manager does not stop who works already.
func testRefusedLater(t *testing.T, b *bench) {
	for name, refuse := range map[string]func(string){"l-disabled": b.server().Disable, "l-forbidden": b.server().Forbid} {
		ref := b.Reference(name)
		b.Put(t, name, "s3same")
		b.want(t, "at first", ref, "s3same")
		refuse(name)
		b.turn(TTL)
		b.want(t, "after it was "+name, ref, "s3same")
		if got, err := b.Renewed(t.Context(), ref); err != nil || got != "s3same" {
			t.Errorf("renewed after it was %s: %d bytes, %v", name, len(got), err)
		}
	}
}

func testFaults(t *testing.T, b *bench) {
	for fault, times := range map[Fault]int{Unavailable: 3, Cut: 3, Stalled: 1} {
		name := "t-" + string(fault)
		b.Put(t, name, "s3same")
		b.server().Break(name, fault, times)
		b.want(t, name, b.Reference(name), "s3same")
	}
}

func testDown(t *testing.T, b *bench) {
	b.Put(t, "n-down", "s3same")
	for _, fault := range []Fault{Unavailable, Stalled} {
		b.server().Break("n-down", fault, 1000)
		begun := time.Now()
		b.refuse(t, "while it is "+string(fault), b.Reference("n-down"), "could not be asked for secret ")
		if took := time.Since(begun); took > generous/2 {
			t.Errorf("while it is %s, it took %s to say so", fault, took)
		}
	}
	b.server().Mend("n-down")
	b.await(t, "when it is back", b.Reference("n-down"), "s3same")
}

func testDownLater(t *testing.T, b *bench) {
	ref := b.Reference("n-later")
	b.Put(t, "n-later", "old")
	b.await(t, "at first", ref, "old")
	b.Put(t, "n-later", "new")
	for _, fault := range []Fault{Unavailable, Stalled} {
		b.server().Break("n-later", fault, 1000)
		b.turn(TTL)
		b.want(t, "while it is "+string(fault), ref, "old")
		if got, err := b.Renewed(t.Context(), ref); err != nil || got != "old" {
			t.Errorf("renewed while it is %s: %d bytes, %v", fault, len(got), err)
		}
		asked := b.server().Asked("n-later")
		b.want(t, "at once again", ref, "old")
		if n := b.server().Asked("n-later") - asked; n > 0 {
			t.Errorf("while it is %s it was asked %d times more, and not left alone", fault, n)
		}
	}
	b.server().Mend("n-later")
	b.await(t, "when it is back", ref, "new")
}

func testAskedOnce(t *testing.T, b *bench) {
	b.Put(t, "o-once", "s3same")
	asked := b.server().Asked("o-once")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { b.want(t, "at once with others", b.Reference("o-once"), "s3same") })
	}
	all.Wait()
	if n := b.server().Asked("o-once") - asked; n != 1 {
		t.Errorf("50 at once asked the manager %d times", n)
	}
}

// Who gives up gets away, and the question goes on for the others.
func testGivenUp(t *testing.T, b *bench) {
	b.Put(t, "g-given-up", "s3same")
	b.server().Break("g-given-up", Stalled, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := b.Value(ctx, b.Reference("g-given-up"))
		ended <- err
	}()
	for deadline := time.Now().Add(generous); b.server().Asked("g-given-up") == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got error %v", err)
	}
	b.want(t, "for the next", b.Reference("g-given-up"), "s3same")
}
