// Package blobtest holds every implementation of a bucket to the same contract.
package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
)

// Run checks one kind of bucket. Each call of open gives an empty one.
func Run(t *testing.T, open func(t *testing.T) blob.Bucket) {
	for name, check := range map[string]func(*testing.T, blob.Bucket){
		"Create":          testCreate,
		"CreateOnce":      testCreateOnce,
		"CreateRace":      testCreateRace,
		"Replace":         testReplace,
		"ReplaceRace":     testReplaceRace,
		"OpenStaysWhole":  testOpenStaysWhole,
		"Delete":          testDelete,
		"List":            testList,
		"Names":           testNames,
		"Size":            testSize,
		"Large":           testLarge,
		"BodyReadBefore":  testBodyReadBefore,
		"CreateAndDelete": testCreateAndDelete,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, open(t))
		})
	}
}

// Text makes an object of a text.
func Text(text string) blob.Object {
	return blob.Object{
		ContentType: "text/plain", CacheControl: "public, max-age=300",
		Size: int64(len(text)), Body: strings.NewReader(text),
	}
}

// Numbered makes an object whose body and attributes all tell one number, so
// that a reader notices when they do not belong together.
func Numbered(n int64) blob.Object {
	o := Text(strings.Repeat(fmt.Sprintf("%d\n", n), 1+int(n%7)))
	o.CacheControl = fmt.Sprintf("max-age=%d", n)
	return o
}

// ReadNumbered reads an object made by Numbered and gives its number, or an
// error when something does not belong together.
func ReadNumbered(ctx context.Context, b blob.Bucket, name string) (n int64, err error) {
	body, info, err := b.Open(ctx, name)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(body)
	if err := firstError(err, body.Close()); err != nil {
		return 0, err
	}
	want := Numbered(info.Sequence)
	if string(text) != textOf(want) || info.CacheControl != want.CacheControl || info.Size != want.Size {
		return 0, fmt.Errorf("sequence %d has %d bytes %.20q and says %d bytes, %q", info.Sequence, len(text), text, info.Size, info.CacheControl)
	}
	return info.Sequence, nil
}

func textOf(o blob.Object) string {
	text, _ := io.ReadAll(o.Body) // a reader of a string
	return string(text)
}

func firstError(errors ...error) error {
	for _, err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

func testCreate(t *testing.T, b blob.Bucket) {
	must(t, b.Create(t.Context(), "us/1.zip", Text("one")))
	expect(t, b, "us/1.zip", "one", blob.Info{
		Name: "us/1.zip", ContentType: "text/plain", CacheControl: "public, max-age=300", Size: 3,
	})
	must(t, b.Create(t.Context(), "empty", blob.Object{Body: strings.NewReader("")}))
	expect(t, b, "empty", "", blob.Info{Name: "empty", ContentType: "application/octet-stream"})
}

func testCreateOnce(t *testing.T, b blob.Bucket) {
	must(t, b.Create(t.Context(), "a", Text("first")))
	o := Text("second")
	o.ContentType = "text/other"
	wantKind(t, "creating it again", b.Create(t.Context(), "a", o), errs.KindConflict)
	expect(t, b, "a", "first", blob.Info{Name: "a", ContentType: "text/plain", CacheControl: "public, max-age=300", Size: 5})
}

// Many create one object: one wins, and what is there is whole and its own.
func testCreateRace(t *testing.T, b blob.Bucket) {
	var won sync.Map
	var all errgroup.Group
	for i := range 8 {
		all.Go(func() error {
			err := b.Create(t.Context(), "a", Text(fmt.Sprint(i)))
			if err == nil {
				won.Store(fmt.Sprint(i), true)
				return nil
			}
			if errs.KindOf(err) == errs.KindConflict {
				return nil
			}
			return err
		})
	}
	must(t, all.Wait())
	var winners []string
	won.Range(func(who, _ any) bool { winners = append(winners, who.(string)); return true })
	if len(winners) != 1 {
		t.Fatalf("%d creations succeeded, want 1", len(winners))
	}
	expect(t, b, "a", winners[0], blob.Info{Name: "a", ContentType: "text/plain", CacheControl: "public, max-age=300", Size: 1})
}

func testReplace(t *testing.T, b blob.Bucket) {
	for _, step := range []struct {
		why      string
		sequence int64
		want     errs.Kind
		stored   int64
	}{
		{"creates what is not there", 5, 0, 5},
		{"the same number is not newer", 5, errs.KindConflict, 5},
		{"an older writer loses", 4, errs.KindConflict, 5},
		{"a newer one wins", 6, 0, 6},
		{"numbers may have gaps", 1 << 40, 0, 1 << 40},
		{"still guarded after a gap", 7, errs.KindConflict, 1 << 40},
	} {
		err := b.Replace(t.Context(), "us/index.txt", step.sequence, Numbered(step.sequence))
		wantKind(t, step.why, err, step.want)
		n, err := ReadNumbered(t.Context(), b, "us/index.txt")
		if err != nil || n != step.stored {
			t.Fatalf("%s: sequence %d is stored (error %v), want %d", step.why, n, err, step.stored)
		}
	}
	must(t, b.Create(t.Context(), "us/made", Text("by Create")))
	must(t, b.Replace(t.Context(), "us/made", 1, Numbered(1)))
}

// Writers with stale numbers and readers meet: what a reader sees never goes
// back and never mixes two states.
func testReplaceRace(t *testing.T, b blob.Bucket) {
	const writers, writes = 4, 50
	must(t, b.Replace(t.Context(), "index", 1, Numbered(1)))
	var all errgroup.Group
	for w := range writers {
		all.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for range writes {
				n := random.Int64N(writers*writes) + 1
				err := b.Replace(t.Context(), "index", n, Numbered(n))
				if err != nil && errs.KindOf(err) != errs.KindConflict {
					return err
				}
				if err := notBelow(t.Context(), b, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, all.Wait())
}

// notBelow is true of a bucket once Replace with n has answered, whatever it
// answered.
func notBelow(ctx context.Context, b blob.Bucket, n int64) error {
	stored, err := ReadNumbered(ctx, b, "index")
	if err == nil && stored < n {
		return fmt.Errorf("sequence %d is stored after %d was", stored, n)
	}
	return err
}

func testOpenStaysWhole(t *testing.T, b blob.Bucket) {
	must(t, b.Replace(t.Context(), "a", 1, Text("old")))
	must(t, b.Create(t.Context(), "b", Text("gone")))
	first, _, err := b.Open(t.Context(), "a")
	must(t, err)
	second, _, err := b.Open(t.Context(), "b")
	must(t, err)
	must(t, b.Replace(t.Context(), "a", 2, Text("new")))
	must(t, b.Delete(t.Context(), "b"))
	for want, body := range map[string]io.ReadCloser{"old": first, "gone": second} {
		got, err := io.ReadAll(body)
		if err != nil || string(got) != want {
			t.Errorf("what was opened reads as %q (error %v), want %q", got, err, want)
		}
		must(t, body.Close())
	}
}

func testDelete(t *testing.T, b blob.Bucket) {
	must(t, b.Delete(t.Context(), "never/there"))
	must(t, b.Replace(t.Context(), "us/1", 7, Text("one")))
	must(t, b.Create(t.Context(), "us/2", Text("two")))
	must(t, b.Delete(t.Context(), "us/1"))
	must(t, b.Delete(t.Context(), "us/1"))
	_, _, err := b.Open(t.Context(), "us/1")
	wantKind(t, "reading what was deleted", err, errs.KindNotFound)
	expectNames(t, b, "", "us/2")
	must(t, b.Delete(t.Context(), "us")) // a folder is no object
	expectNames(t, b, "", "us/2")
}

func testCreateAndDelete(t *testing.T, b blob.Bucket) {
	for _, text := range []string{"first", "second"} {
		must(t, b.Create(t.Context(), "a/b", Text(text)))
		expect(t, b, "a/b", text, blob.Info{
			Name: "a/b", ContentType: "text/plain", CacheControl: "public, max-age=300", Size: int64(len(text)),
		})
		must(t, b.Delete(t.Context(), "a/b"))
	}
}

func testList(t *testing.T, b blob.Bucket) {
	expectNames(t, b, "")
	expectNames(t, b, "us/")
	for _, name := range []string{"us/b", "us/a", "us.zip", "usa/a", "de/x/y", "de/x.z", "de/x-z"} {
		must(t, b.Create(t.Context(), name, Text(name)))
	}
	for _, tc := range []struct {
		why, prefix string
		want        []string
	}{
		{"all, by the bytes of the whole name", "", []string{"de/x-z", "de/x.z", "de/x/y", "us.zip", "us/a", "us/b", "usa/a"}},
		{"a folder", "us/", []string{"us/a", "us/b"}},
		{"a prefix need not be a folder", "us", []string{"us.zip", "us/a", "us/b", "usa/a"}},
		{"a prefix may be a whole name", "de/x.z", []string{"de/x.z"}},
		{"nothing", "fr/", nil},
		{"no name can start so", "../", nil},
		{"nor so", "/", nil},
	} {
		t.Run(tc.why, func(t *testing.T) { expectNames(t, b, tc.prefix, tc.want...) })
	}
	for entry, err := range b.List(t.Context(), "us/a") {
		must(t, err)
		if entry.Size != 4 || time.Since(entry.ModTime).Abs() > time.Hour {
			t.Errorf("List tells %d bytes and the time %s, want 4 bytes and about now", entry.Size, entry.ModTime)
		}
		break // leaving early is allowed
	}
}

func testNames(t *testing.T, b blob.Bucket) {
	for _, name := range []string{"", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/..", ".a", "a/.b", "a\\b", "a\x00", "\xff"} {
		wantKind(t, fmt.Sprintf("creating %q", name), b.Create(t.Context(), name, Text("x")), errs.KindInvalid)
		wantKind(t, fmt.Sprintf("replacing %q", name), b.Replace(t.Context(), name, 1, Text("x")), errs.KindInvalid)
		wantKind(t, fmt.Sprintf("deleting %q", name), b.Delete(t.Context(), name), errs.KindInvalid)
		_, _, err := b.Open(t.Context(), name)
		wantKind(t, fmt.Sprintf("opening %q", name), err, errs.KindInvalid)
	}
	for _, name := range []string{"a b", "a..b", "ü", "%2e", "a?b=c#d", "x.json", "a:b"} {
		must(t, b.Create(t.Context(), name, Text(name)))
		expect(t, b, name, name, blob.Info{
			Name: name, ContentType: "text/plain", CacheControl: "public, max-age=300", Size: int64(len(name)),
		})
	}
	_, _, err := b.Open(t.Context(), "a b/c")
	wantKind(t, "opening below an object", err, errs.KindNotFound)
}

// An object is whole or not there, also when its body breaks.
func testSize(t *testing.T, b blob.Bucket) {
	for _, size := range []int64{2, 4} {
		o := Text("abc")
		o.Size = size
		if b.Create(t.Context(), "a", o) == nil || b.Replace(t.Context(), "a", 1, o) == nil {
			t.Errorf("an object of 3 bytes was stored as one of %d", size)
		}
	}
	o := Text("abc")
	o.Body = broken{o.Body}
	if b.Create(t.Context(), "a", o) == nil || b.Replace(t.Context(), "a", 1, o) == nil {
		t.Error("an object was stored though its body could not be read")
	}
	expectNames(t, b, "")
}

type broken struct{ io.ReadSeeker }

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func testLarge(t *testing.T, b blob.Bucket) {
	want := make([]byte, 20<<20)
	random := rand.NewChaCha8([32]byte{})
	random.Read(want) //nolint:errcheck // it never fails
	o := blob.Object{ContentType: "application/zip", Size: int64(len(want)), Body: bytes.NewReader(want)}
	must(t, b.Create(t.Context(), "large.zip", o))
	body, info, err := b.Open(t.Context(), "large.zip")
	must(t, err)
	got, err := io.ReadAll(body)
	must(t, firstError(err, body.Close()))
	if info.Size != int64(len(want)) || !bytes.Equal(got, want) {
		t.Errorf("a large object comes back changed: %d bytes, said to be %d", len(got), info.Size)
	}
}

// Whoever has hashed or sent the body before need not rewind it.
func testBodyReadBefore(t *testing.T, b blob.Bucket) {
	o := Text("text")
	_, err := io.ReadAll(o.Body)
	must(t, err)
	must(t, b.Create(t.Context(), "a", o))
	must(t, b.Replace(t.Context(), "b", 1, o))
	for _, name := range []string{"a", "b"} {
		body, _, err := b.Open(t.Context(), name)
		must(t, err)
		got, err := io.ReadAll(body)
		must(t, firstError(err, body.Close()))
		if string(got) != "text" {
			t.Errorf("object %s is %q, want %q", name, got, "text")
		}
	}
}

var ignoreTime = cmpopts.IgnoreFields(blob.Info{}, "ModTime")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind expects a failure of a kind, or, for the zero kind, none.
func wantKind(t *testing.T, what string, err error, want errs.Kind) {
	t.Helper()
	if want == 0 && err == nil {
		return
	}
	if want == 0 || err == nil || errs.KindOf(err) != want {
		t.Errorf("%s: error %v, want one of kind %d", what, err, want)
	}
}

func expect(t *testing.T, b blob.Bucket, name, want string, wantInfo blob.Info) {
	t.Helper()
	body, info, err := b.Open(t.Context(), name)
	must(t, err)
	got, err := io.ReadAll(body)
	must(t, firstError(err, body.Close()))
	if string(got) != want {
		t.Errorf("object %s is %q, want %q", name, got, want)
	}
	if diff := cmp.Diff(wantInfo, info, ignoreTime); diff != "" {
		t.Errorf("attributes of %s (-want +got):\n%s", name, diff)
	}
	if info.ModTime.IsZero() {
		t.Errorf("object %s has no time", name)
	}
}

func expectNames(t *testing.T, b blob.Bucket, prefix string, want ...string) {
	t.Helper()
	var got []string
	for entry, err := range b.List(t.Context(), prefix) {
		must(t, err)
		got = append(got, entry.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects with prefix %q (-want +got):\n%s", prefix, diff)
	}
}
