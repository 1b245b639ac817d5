package phone_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// cdn serves objects and notes what was asked for.
type cdn struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string][]byte
	asked   []string
}

func newCDN(t *testing.T) *cdn {
	t.Helper()
	c := &cdn{objects: map[string][]byte{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		name := strings.TrimPrefix(r.URL.Path, "/")
		c.asked = append(c.asked, name)
		object, ok := c.objects[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(object)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *cdn) put(name string, object []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[name] = object
}

func (c *cdn) list(names ...string) { c.put("us/index.txt", []byte(strings.Join(names, "\n")+"\n")) }

// asks gives the files that were asked for since the last call.
func (c *cdn) asks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

func file(t *testing.T, by phone.Authority, end time.Time, keys, revised []exposure.Exposure) []byte {
	t.Helper()
	var zip bytes.Buffer
	meta := exportfile.Meta{Start: end.Add(-time.Hour), End: end, Region: "US"}
	signers := []exportfile.Signer{{Key: by.Key, ID: "310", Version: "v1"}}
	if _, err := exportfile.Write(context.Background(), &zip, meta, signers, each(keys), each(revised)); err != nil {
		t.Fatal(err)
	}
	return zip.Bytes()
}

func each(all []exposure.Exposure) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func follow(c *cdn, signer phone.Authority, p *phone.Phone) *phone.Client {
	return &phone.Client{Phone: p, Feed: phone.Feed{
		Base:    c.URL + "/",
		Index:   "us/index.txt",
		Trusted: []exportfile.PublicKey{{ID: "310", Version: "v1", Key: signer.Key.Public().(*ecdsa.PublicKey)}},
	}}
}

// A phone goes on after the last entry that it has processed, and starts again
// when that has vanished: both are behaviour that the server must live with.
func TestPollGoesOnAfterTheLastEntry(t *testing.T) {
	t.Parallel()
	c, signer := newCDN(t), authority(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		c.put("us/"+name+".zip", file(t, signer, noon, nil, nil))
	}
	client := follow(c, signer, phone.New("p"))

	for _, step := range []struct {
		why    string
		listed []string
		want   []string
		again  bool
	}{
		{"all is new to a new phone", []string{"us/a.zip", "us/b.zip"}, []string{"us/a.zip", "us/b.zip"}, false},
		{"nothing is new", []string{"us/a.zip", "us/b.zip"}, nil, false},
		{"one is new", []string{"us/a.zip", "us/b.zip", "us/c.zip"}, []string{"us/c.zip"}, false},
		{"old ones are gone", []string{"us/c.zip", "us/d.zip"}, []string{"us/d.zip"}, false},
		{"the last one has vanished", []string{"us/a.zip", "us/b.zip"}, []string{"us/a.zip", "us/b.zip"}, true},
	} {
		c.list(step.listed...)
		polled, err := client.Poll(t.Context(), noon.Add(time.Hour))
		if err != nil {
			t.Fatalf("%s: %v", step.why, err)
		}
		if diff := cmp.Diff(append([]string{"us/index.txt"}, step.want...), c.asks()); diff != "" {
			t.Errorf("%s: asked for (-want +got):\n%s", step.why, diff)
		}
		if polled.Files != len(step.want) || polled.Again != step.again {
			t.Errorf("%s: %d files, again %t; want %d, %t", step.why, polled.Files, polled.Again, len(step.want), step.again)
		}
	}
}

func TestPollMatches(t *testing.T) {
	t.Parallel()
	c, signer := newCDN(t), authority(t)
	met := exposure.IntervalOf(noon)
	ill, near, far := phone.New("ill"), phone.New("near"), phone.New("far")
	phone.Meet(met, ill, near)
	phone.Meet(met, far, phone.New("somebody else"))
	clients := []*phone.Client{follow(c, signer, near), follow(c, signer, far)}
	later := noon.Add(48 * time.Hour)

	step := func(why string, want map[string]bool) {
		t.Helper()
		got := map[string]bool{}
		for _, client := range clients {
			if _, err := client.Poll(t.Context(), later); err != nil {
				t.Fatalf("%s: %v", why, err)
			}
			got[client.Phone.Name] = client.Phone.Warned()
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: warned %v, want %v", why, got, want)
		}
	}

	step("there is no index yet", map[string]bool{"near": false, "far": false})

	key := published(t, ill, met.Day(), func(e *exposure.Exposure) { e.Report = exposure.Likely })
	c.put("us/1.zip", file(t, signer, later.Add(-2*time.Hour), []exposure.Exposure{key}, nil))
	c.list("us/1.zip")
	step("a likely diagnosis", map[string]bool{"near": true, "far": false})

	key.Report = exposure.Revoked
	c.put("us/2.zip", file(t, signer, later.Add(-time.Hour), nil, []exposure.Exposure{key}))
	c.list("us/1.zip", "us/2.zip")
	step("withdrawn", map[string]bool{"near": false, "far": false})
}

// One file that a phone refuses keeps it from all that it downloads with it,
// now and at the next poll.
func TestPollTakesAllOrNothing(t *testing.T) {
	t.Parallel()
	signer, stranger := authority(t), authority(t)
	met := exposure.IntervalOf(noon)
	ill := phone.New("ill")
	ill.Broadcast(met)
	key := published(t, ill, met.Day())
	later := noon.Add(48 * time.Hour)
	good := file(t, signer, later, []exposure.Exposure{key}, nil)

	for _, tc := range []struct {
		why string
		bad []byte // nil: listed but not there
	}{
		{"a file is missing", nil},
		{"a file is cut off", good[:len(good)-10]},
		{"a stranger signed it", file(t, stranger, later, []exposure.Exposure{key}, nil)},
		{"it is no zip", []byte("<html>")},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			c := newCDN(t)
			near := phone.New("near")
			near.Hear(ill.Broadcast(met), met)
			client := follow(c, signer, near)
			c.put("us/1.zip", good)
			if tc.bad != nil {
				c.put("us/2.zip", tc.bad)
			}
			c.list("us/1.zip", "us/2.zip")
			for range 2 {
				if _, err := client.Poll(t.Context(), later); err == nil {
					t.Fatal("the poll succeeds")
				}
				if near.Warned() {
					t.Fatal("the phone used a file of a poll that failed")
				}
			}
			c.put("us/2.zip", good)
			if _, err := client.Poll(t.Context(), later); err != nil || !near.Warned() {
				t.Errorf("mended: warned %t, error %v", near.Warned(), err)
			}
		})
	}
}

func TestPollRefusesAKeyBeforeItsEmbargoEnds(t *testing.T) {
	t.Parallel()
	c, signer := newCDN(t), authority(t)
	ill := phone.New("ill")
	ill.Broadcast(exposure.IntervalOf(noon))
	key := published(t, ill, exposure.DayOf(noon))
	c.put("us/1.zip", file(t, signer, noon, []exposure.Exposure{key}, nil))
	c.list("us/1.zip")
	client := follow(c, signer, phone.New("p"))
	if _, err := client.Poll(t.Context(), key.Release().Add(-time.Minute)); err == nil {
		t.Error("a key that may still be broadcast is taken")
	}
	if _, err := client.Poll(t.Context(), key.Release()); err != nil {
		t.Error(err)
	}
}
