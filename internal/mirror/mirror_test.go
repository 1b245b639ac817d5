package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/listing/listingtest"
	"enkeyserver/internal/mirror"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/source/sourcetest"
	"enkeyserver/internal/store"
)

// TestMain keeps servers that are told to break off from telling it.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	m.Run()
}

const (
	day    = 24 * time.Hour
	bucket = "mem://mirrors"
)

// house is where a mirror stands.
type house struct {
	*listingtest.Office
	t      *testing.T
	source *sourcetest.Authority
	seen   []string // what the index listed when it was last looked at
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return &house{Office: listingtest.New(t), t: t, source: sourcetest.New(t)}
}

// hang configures the mirror nz of the source.
func (h *house) hang(edits ...func(*store.MirrorConfig)) {
	h.t.Helper()
	c := store.MirrorConfig{
		Name: "nz", IndexURL: h.source.URL + "index.txt", RootURL: h.source.URL, Bucket: bucket, Root: "nz",
		Keys: []store.TrustedKey{sourcetest.Trusted(h.t, h.source.Signer)},
	}
	for _, edit := range edits {
		edit(&c)
	}
	keys, err := json.Marshal(c.Keys)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Must(`
		INSERT INTO mirror (name, index_url, root_url, bucket, root, rewrite, keys)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (name) DO UPDATE SET rewrite = excluded.rewrite, keys = excluded.keys, ended_at = NULL`,
		c.Name, c.IndexURL, c.RootURL, c.Bucket, c.Root, c.Rewrite, keys)
}

func noKeys(c *store.MirrorConfig) { c.Keys = []store.TrustedKey{} }

func renamed(rewrite string) func(*store.MirrorConfig) {
	return func(c *store.MirrorConfig) { c.Rewrite = rewrite }
}

func (h *house) service(now func() time.Time) *mirror.Service {
	return mirror.New(mirror.Settings{TTL: 14 * day, Grace: time.Hour, Timeout: time.Minute, AtOnce: 4}, mirror.Deps{
		Store: h.DB, Buckets: h, Now: now,
		Remote: h.source.Client(func(s *remote.Settings) { s.Timeout = 3 * time.Second }),
	})
}

func (h *house) run() mirror.Mirrored {
	h.t.Helper()
	answer, err := h.service(h.Now).Mirror(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return answer.(mirror.Mirrored)
}

// publish makes a file at the source that ends so long before now.
func (h *house) publish(ago time.Duration, first, count int) string {
	h.t.Helper()
	end := h.Now().Add(-ago)
	return h.source.Publish(end, entest.Exposures(first, count, end, func(e *exposure.Exposure) { e.Start = entest.DaysAgo(end, 2) }), nil)
}

// here is the name of a copy.
func here(names ...string) (objects []string) {
	for _, name := range names {
		objects = append(objects, "nz/"+name[strings.LastIndex(name, "/")+1:])
	}
	return objects
}

// look downloads what our index lists, as all phones together would, and fails
// the test unless each file is there, good, served as it should be and alone
// with its times, and the list is the one of the last look, less old entries and
// plus new ones at its end.
func (h *house) look() []string {
	h.t.Helper()
	b, err := h.Bucket(h.t.Context(), bucket)
	if err != nil {
		h.t.Fatal(err)
	}
	text, info := h.read(b, "nz/index.txt")
	if info.Name != "" && (info.ContentType != exportfile.ContentTypeText || info.CacheControl != exportfile.CacheIndex) {
		h.t.Fatalf("the index is served as %s, %s", info.ContentType, info.CacheControl)
	}
	listed, err := exportfile.ParseIndexText(text)
	if err != nil {
		h.t.Fatal(err)
	}
	times := map[exportfile.Meta]string{}
	for _, name := range listed {
		content, info := h.read(b, name)
		if info.ContentType != exportfile.ContentTypeZip || info.CacheControl != exportfile.CacheFile {
			h.t.Fatalf("%s is served as %s, %s", name, info.ContentType, info.CacheControl)
		}
		c, err := exportfile.CheckUnsigned(bytes.NewReader(content), int64(len(content)), h.Now())
		if err != nil {
			h.t.Fatalf("%s: %v", name, err)
		}
		if other, taken := times[c.Meta]; taken {
			h.t.Fatalf("%s and %s have the same times", name, other)
		}
		times[c.Meta] = name
	}
	kept := h.seen
	for len(kept) > 0 && !slices.Contains(listed, kept[0]) {
		kept = kept[1:]
	}
	if len(listed) < len(kept) || !slices.Equal(kept, listed[:len(kept)]) {
		h.t.Fatalf("the index lost or inserted entries: %v became %v", h.seen, listed)
	}
	h.seen = listed
	return listed
}

func (h *house) read(b blob.Bucket, name string) ([]byte, blob.Info) {
	h.t.Helper()
	body, info, err := b.Open(h.t.Context(), name)
	if errs.KindOf(err) == errs.KindNotFound && strings.HasSuffix(name, "index.txt") {
		return nil, blob.Info{}
	}
	if err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		h.t.Fatal(err)
	}
	return content, info
}

func (h *house) wantListed(why string, want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.look()); diff != "" {
		h.t.Errorf("%s: listed (-want +got):\n%s", why, diff)
	}
}

// zips counts the files in the bucket, listed or not.
func (h *house) zips() (n int) {
	h.t.Helper()
	for name := range h.Objects(bucket) {
		if strings.HasSuffix(name, ".zip") {
			n++
		}
	}
	return n
}

type status struct {
	Succeeded bool
	Failure   string
}

func (h *house) status() status {
	h.t.Helper()
	s, ok, err := database.One[status](h.t.Context(), h.DB, `
		SELECT succeeded_at IS NOT NULL AS succeeded, failure FROM mirror WHERE attempted_at IS NOT NULL`)
	if err != nil || !ok {
		h.t.Fatalf("status: %t, %v", ok, err)
	}
	return s
}

// The life of a mirror's file: copied, listed, out of the index a day after it
// left the source's, out of the bucket an hour after that.
func TestTheStoryOfAMirror(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	first, second := h.publish(8*time.Hour, 0, 3), h.publish(4*time.Hour, 10, 3)

	step := func(why string, wait time.Duration, want mirror.Mirrored, stored int, listed ...string) {
		t.Helper()
		h.Wait(wait)
		want.Mirrors = 1
		if diff := cmp.Diff(want, h.run()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", why, diff)
		}
		h.wantListed(why, here(listed...)...)
		if h.zips() != stored {
			t.Errorf("%s: the bucket holds %d files, want %d", why, h.zips(), stored)
		}
	}
	step("all that there is", 0, mirror.Mirrored{Copied: 2, Indexes: 1}, 2, first, second)
	step("a repeat", 0, mirror.Mirrored{}, 2, first, second)
	if got := h.status(); got != (status{Succeeded: true}) {
		t.Errorf("status %+v", got)
	}
	copied := h.Objects(bucket)[here(first)[0]]
	if !bytes.Equal(copied, h.source.Served(first)) {
		t.Error("the copy differs from the file")
	}
	third := h.publish(0, 20, 3)
	step("one more", 0, mirror.Mirrored{Copied: 1, Indexes: 1}, 3, first, second, third)

	h.source.List(second, third)
	h.source.Remove(first)
	step("gone at the source, for a moment or for good", 0, mirror.Mirrored{}, 3, first, second, third)
	step("almost a day", 23*time.Hour, mirror.Mirrored{}, 3, first, second, third)
	step("for good", 2*time.Hour, mirror.Mirrored{Dropped: 1, Indexes: 1}, 3, second, third)
	step("caches may still list it", 59*time.Minute, mirror.Mirrored{}, 3, second, third)
	step("no cache lists it", 2*time.Minute, mirror.Mirrored{Deleted: 1}, 2, second, third)
	step("a repeat of the end", 0, mirror.Mirrored{}, 2, second, third)
	for _, name := range []string{first, second, third} {
		if h.source.Asked(name) != 1 {
			t.Errorf("%s was downloaded %d times, want once", name, h.source.Asked(name))
		}
	}
}

// A mirror that has ended runs empty as its files grow old.
func TestEnded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	old, young := h.publish(10*day, 0, 2), h.publish(0, 10, 2)
	h.run()
	h.Must(`UPDATE mirror SET ended_at = now()`)
	h.publish(0, 20, 2)
	asked := h.source.Asked("index.txt")

	h.run()
	h.wantListed("as it was", here(old, young)...)
	h.Wait(5 * day)
	h.run()
	h.wantListed("old ones leave", here(young)...)
	h.Wait(10 * day)
	h.run()
	h.Wait(2 * time.Hour)
	h.run()
	if h.wantListed("all are old", []string{}...); h.zips() != 0 {
		t.Errorf("%d files are left, want none", h.zips())
	}
	if done := h.run(); done.Mirrors != 0 || h.source.Asked("index.txt") != asked {
		t.Errorf("%+v, and the source was asked again: want nothing more to do", done)
	}

	// It may come back: what was listed before comes behind everything else.
	h.hang()
	h.source.Put("index.txt", nil)
	back := h.publish(0, 30, 2)
	h.run()
	h.wantListed("back", here(back)...)
}

// Files that would blind phones are never listed, nor is anything after them,
// and all goes on when they are mended or gone.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		spoil func(h *house, good []byte) (file []byte, fault http.HandlerFunc)
		word  string
	}{
		{"vanished, and listed still", func(*house, []byte) ([]byte, http.HandlerFunc) { return nil, http.NotFound }, "404"},
		{"signed by a stranger", func(h *house, _ []byte) ([]byte, http.HandlerFunc) {
			return h.source.File(h.Now(), sourcetest.NewSigner(h.t, "999", "v1"), entest.Exposures(10, 1, h.Now()), nil), nil
		}, "trusted key"},
		{"signed again, with another key of the name", func(h *house, _ []byte) ([]byte, http.HandlerFunc) {
			return h.source.File(h.Now(), sourcetest.NewSigner(h.t, "334", "v1"), entest.Exposures(10, 1, h.Now()), nil), nil
		}, "does not verify"},
		{"truncated", func(_ *house, good []byte) ([]byte, http.HandlerFunc) { return good[:len(good)/2], nil }, "zip"},
		{"a page in its place", func(*house, []byte) ([]byte, http.HandlerFunc) { return []byte("<html>"), nil }, "zip"},
		{"a bomb", func(h *house, _ []byte) ([]byte, http.HandlerFunc) { return sourcetest.Bomb(h.t), nil }, "unpacks"},
		{"a key that is still broadcast", func(h *house, _ []byte) ([]byte, http.HandlerFunc) {
			x := entest.Exposure(10, h.Now(), func(e *exposure.Exposure) { e.Start = entest.DaysAgo(h.Now(), 0) })
			return h.source.File(h.Now(), h.source.Signer, []exposure.Exposure{x}, nil), nil
		}, "must not be published"},
		{"the times of another file", func(h *house, _ []byte) ([]byte, http.HandlerFunc) {
			return h.source.File(h.Now().Add(-8*time.Hour), h.source.Signer, entest.Exposures(10, 1, h.Now()), nil), nil
		}, "by which phones tell files apart"},
		{"the server fails", func(*house, []byte) ([]byte, http.HandlerFunc) { return nil, sourcetest.Status(500) }, "500"},
		{"a drip", func(*house, []byte) ([]byte, http.HandlerFunc) { return nil, sourcetest.Drip }, "slow"},
		{"cut on its way", func(_ *house, good []byte) ([]byte, http.HandlerFunc) { return nil, sourcetest.Cut(good) }, "cut"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.hang()
			first := h.publish(8*time.Hour, 0, 2)
			second := h.publish(4*time.Hour, 10, 2)
			third := h.publish(0, 20, 2)
			good := h.source.Served(second)
			bad, fault := tc.spoil(h, good)
			h.source.Put(second, bad)
			h.source.Break(second, fault)

			done := h.run()
			if done.Copied != 1 || !strings.Contains(done.Failures["nz"], tc.word) {
				t.Errorf("%+v, want one copy and a failure about %q", done, tc.word)
			}
			h.wantListed("up to the bad one", here(first)...)
			if got := h.status(); got.Succeeded || !strings.Contains(got.Failure, tc.word) {
				t.Errorf("status %+v, want the failure", got)
			}

			h.source.Put(second, good)
			h.source.Break(second, nil)
			h.run()
			h.wantListed("mended", here(first, second, third)...)
			if got := h.status(); !got.Succeeded || got.Failure != "" {
				t.Errorf("status %+v, want success", got)
			}
		})
	}
}

// A bad file that the source takes back is passed over; should it return, it
// comes after what was listed meanwhile.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	first, second, third := h.publish(8*time.Hour, 0, 2), h.publish(4*time.Hour, 10, 2), h.publish(0, 20, 2)
	h.source.Break(second, http.NotFound)
	h.run()
	h.wantListed("it is listed there", here(first)...)
	h.source.List(first, third)
	h.run()
	h.wantListed("it is not listed there any more", here(first, third)...)
	h.source.Break(second, nil)
	h.source.List(first, second, third)
	h.run()
	h.wantListed("it is back", here(first, third, second)...)
}

// Without keys in the configuration every signer will do, and every other rule
// holds.
func TestWithoutKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang(noKeys)
	h.source.Signer = sourcetest.NewSigner(t, "999", "v7")
	name := h.publish(0, 0, 2)
	h.run()
	h.wantListed("signed by somebody", here(name)...)
}

// What the source's index says for a while wipes nothing out.
func TestIndexes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		index func(first, second string) string
		fails bool
	}{
		{"empty", func(string, string) string { return "" }, false},
		{"shorter", func(_, second string) string { return second }, false},
		{"the other way round", func(first, second string) string { return second + "\n" + first }, false},
		{"a page", func(string, string) string { return "<html><body>Sorry</body></html>" }, true},
		{"words", func(string, string) string { return "temporarily unavailable" }, true},
		{"no text", func(string, string) string { return "\xff\xfe" }, true},
		{"an entry twice", func(first, _ string) string { return first + "\n" + first }, true},
		{"another host", func(first, second string) string {
			return first + "\n" + second + "\nhttps://evil.example/1.zip"
		}, true},
		{"up", func(first, second string) string { return first + "\n" + second + "\n../../1.zip" }, true},
		{"our own index", func(first, second string) string { return first + "\n" + second + "\nindex.txt" }, true},
		{"more than is read", func(first, _ string) string { return strings.Repeat(first+"\n", 200_000) }, true},
		{"very many", func(first, second string) string {
			var b strings.Builder
			fmt.Fprintf(&b, "%s\n%s\n", first, second)
			for i := range 20_000 {
				fmt.Fprintf(&b, "%d.zip\n", i)
			}
			return b.String()
		}, true},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.hang()
			first, second := h.publish(4*time.Hour, 0, 2), h.publish(0, 10, 2)
			h.run()
			good := h.source.Served("index.txt")
			h.source.Put("index.txt", []byte(tc.index(first, second)))
			for range 2 {
				h.Wait(11 * time.Hour)
				if done := h.run(); (done.Failures != nil) != tc.fails {
					t.Errorf("failures %v", done.Failures)
				}
				h.wantListed("while it lasts", here(first, second)...)
			}
			h.source.Put("index.txt", good)
			h.Wait(2 * time.Hour)
			third := h.publish(0, 20, 2)
			if done := h.run(); done.Failures != nil {
				t.Errorf("failures afterwards: %v", done.Failures)
			}
			h.wantListed("afterwards", here(first, second, third)...)
			files, _, err := database.One[int](t.Context(), h.DB, `SELECT count(*) FROM mirror_file`)
			if err != nil || files != 3 {
				t.Errorf("%d files are remembered (%v), want 3", files, err)
			}
		})
	}
}

// When the source has lost its files for long, and finds them again, phones get
// them again, under names that never stood for anything else.
func TestBackAfterLong(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	first, second := h.publish(4*time.Hour, 0, 2), h.publish(0, 10, 2)
	h.run()
	good := h.source.Served("index.txt")
	h.source.Put("index.txt", nil)
	h.run()
	h.Wait(25 * time.Hour)
	h.run()
	h.wantListed("dropped", []string{}...)
	h.Wait(2 * time.Hour)
	h.run()
	if h.zips() != 0 {
		t.Fatalf("%d files are left in the bucket", h.zips())
	}

	h.source.Put("index.txt", good)
	other := h.source.File(h.Now(), h.source.Signer, entest.Exposures(50, 2, h.Now()), nil)
	was := h.source.Served(second)
	h.source.Put(second, other)
	if done := h.run(); !strings.Contains(done.Failures["nz"], "other bytes") {
		t.Errorf("%+v, want that other bytes are refused", done)
	}
	h.wantListed("up to what changed", here(first)...)
	h.source.Put(second, was)
	h.run()
	h.wantListed("all are back", here(first, second)...)
}

func TestRenaming(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang(renamed("copies/{start}-{end}-{number}.zip"))
	end := h.Now()
	h.source.Put("batch-00007.zip", h.source.File(end, h.source.Signer, entest.Exposures(0, 2, end), nil))
	h.source.List("batch-00007.zip")
	h.run()
	renamedTo := fmt.Sprintf("nz/copies/%d-%d-00007.zip", end.Add(-4*time.Hour).Unix(), end.Unix())
	h.wantListed("renamed", renamedTo)

	h.hang()
	h.Wait(time.Hour)
	h.source.Put("b/x.zip", h.source.File(end.Add(time.Hour), h.source.Signer, entest.Exposures(10, 2, end), nil))
	h.source.Put("c/x.zip", h.source.File(end.Add(2*time.Hour), h.source.Signer, entest.Exposures(20, 2, end), nil))
	h.source.List("batch-00007.zip", "b/x.zip", "c/x.zip")
	if done := h.run(); !strings.Contains(done.Failures["nz"], "another file has") {
		t.Errorf("%+v, want that the second of a name is refused", done)
	}
	h.wantListed("what was renamed stays so", renamedTo, "nz/x.zip")

	h.hang(renamed("{name}"))
	if done := h.run(); !strings.Contains(done.Failures["nz"], "must end with .zip") {
		t.Errorf("%+v, want that the rewrite is refused", done)
	}
	h.wantListed("a rewrite that makes no names takes none away", renamedTo, "nz/x.zip")
}

// What somebody else put into the bucket stays as it is, and what somebody took
// out of it is not listed.
func TestOthersInTheBucket(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	first, second := h.publish(4*time.Hour, 0, 2), h.publish(0, 10, 2)
	b, err := h.Bucket(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	theirs := blob.Object{Size: 5, Body: strings.NewReader("other")}
	if err := b.Create(t.Context(), here(second)[0], theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := h.service(h.Now).Mirror(t.Context()); err == nil || !strings.Contains(err.Error(), "did not write") {
		t.Errorf("error %v, want one about an object that is not ours", err)
	}
	if got := string(h.Objects(bucket)[here(second)[0]]); got != "other" {
		t.Errorf("the object is %q now", got)
	}

	if err := b.Delete(t.Context(), here(second)[0]); err != nil {
		t.Fatal(err)
	}
	h.run()
	h.wantListed("the place is free", here(first, second)...)
	if err := b.Delete(t.Context(), here(first)[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := h.service(h.Now).Mirror(t.Context()); err == nil || !strings.Contains(err.Error(), "1 files are no longer in bucket") {
		t.Errorf("error %v, want one about a file that is missing", err)
	}
	h.wantListed("one is missing", here(second)...)
}

// A source that signs anew what a killed run had brought into the bucket does
// not stop the mirror.
func TestSignedAnewMeanwhile(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	name := h.publish(0, 0, 2)
	before := h.source.Served(name)
	b, err := h.Bucket(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	h.SetBucket(bucket, listingtest.Tap{Bucket: b, After: func(context.Context, string) error { return errKilled }})
	if _, err := h.service(h.Now).Mirror(t.Context()); !errors.Is(err, errKilled) {
		t.Fatalf("error %v, want that of the bucket", err)
	}
	h.SetBucket(bucket, b)
	h.publish(0, 0, 2) // the same, but for the signature
	h.source.List(name)
	if done := h.run(); done.Adopted != 1 {
		t.Errorf("%+v, want the object to be adopted", done)
	}
	h.wantListed("adopted", here(name)...)
	if !bytes.Equal(h.Objects(bucket)[here(name)[0]], before) {
		t.Error("the object was changed")
	}
}

var errKilled = errors.New("killed")

// A mirror that another run works on is left to it.
func TestLease(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.hang()
	name := h.publish(0, 0, 2)
	body := h.source.Served(name)
	var second mirror.Mirrored
	h.source.Break(name, func(w http.ResponseWriter, _ *http.Request) {
		second = h.run()
		_, _ = w.Write(body)
	})
	h.run()
	if diff := cmp.Diff(mirror.Mirrored{Busy: 1}, second); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
	h.wantListed("by the first", here(name)...)
}

// Cut off at any touch of the bucket or look at the clock, with faults at the
// source: our index is good for phones at any time and a beginning of the
// source's, and all of it in the end.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 2))
			h := newHouse(t)
			h.hang()
			inner, err := h.Bucket(t.Context(), bucket)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for i := range 40 {
				if i%6 == 0 {
					names = append(names, h.publish(0, 10*i, 1+r.IntN(5)))
				}
				name := names[r.IntN(len(names))]
				faults := []http.HandlerFunc{nil, nil, http.NotFound, sourcetest.Status(503), sourcetest.Cut(h.source.Served(name))}
				h.source.Break(name, faults[r.IntN(len(faults))])
				if r.IntN(6) == 0 {
					h.source.Break("index.txt", []http.HandlerFunc{sourcetest.Status(500), say(""), say("sorry")}[r.IntN(3)])
				}
				h.cutOff(inner, r.IntN(40))
				h.source.Break(name, nil)
				h.source.Break("index.txt", nil)
				if listed := h.look(); !slices.Equal(listed, here(names[:len(listed)]...)) {
					t.Fatalf("%v is listed, which is no beginning of %v", listed, names)
				}
				h.Wait(time.Duration(1+r.IntN(40)) * time.Minute)
			}
			h.run()
			h.wantListed("in the end", here(names...)...)
			if got := h.status(); !got.Succeeded || got.Failure != "" || h.zips() != len(names) {
				t.Errorf("in the end: status %+v, %d files", got, h.zips())
			}
		})
	}
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// cutOff runs the job and cuts it off at the n-th step.
func (h *house) cutOff(inner blob.Bucket, n int) {
	h.t.Helper()
	ctx, cut := context.WithCancel(h.t.Context())
	defer cut()
	var steps atomic.Int64
	step := func() error {
		if steps.Add(1) < int64(n) {
			return nil
		}
		cut()
		return errKilled
	}
	touch := func(context.Context, string) error { return step() }
	h.SetBucket(bucket, listingtest.Tap{Bucket: inner, Before: touch, After: touch})
	_, err := h.service(func() time.Time {
		_ = step() // the clock cannot fail
		return h.Now()
	}).Mirror(ctx)
	h.SetBucket(bucket, inner)
	if ctx.Err() == nil && err != nil {
		h.t.Errorf("nothing was cut, and the job failed: %v", err)
	}
	// The lease of a run that is killed runs out.
	h.Must(`UPDATE lease SET held_until = '-infinity'`)
}
