package imports_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/imports"
	"enkeyserver/internal/listing/listingtest"
	exportpb "enkeyserver/internal/pb/export"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/source/sourcetest"
	"enkeyserver/internal/store"
)

// TestMain keeps servers that are told to break off from telling it.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	m.Run()
}

const day = 24 * time.Hour

func settings() imports.Settings {
	return imports.Settings{MaxAge: 360 * time.Hour, MaxOnsetDistance: 14, Timeout: time.Minute, AtOnce: 4}
}

// border is our side of an agreement.
type border struct {
	*listingtest.Office
	t testing.TB
}

func newBorder(t testing.TB) border {
	t.Helper()
	return border{listingtest.New(t), t}
}

// agree configures the import of an authority.
func (b border) agree(name string, a *sourcetest.Authority, edits ...func(*store.ImportConfig)) {
	b.t.Helper()
	c := store.ImportConfig{
		Name: name, IndexURL: a.URL + "index.txt", RootURL: a.URL, Region: "MX", Traveler: true,
		ReportWhenMissing: exposure.Confirmed, Keys: []store.TrustedKey{sourcetest.Trusted(b.t, a.Signer)},
	}
	for _, edit := range edits {
		edit(&c)
	}
	keys, err := json.Marshal(c.Keys)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Must(`
		WITH n AS (
			INSERT INTO neighbour (kind, name) VALUES ('import', $1)
			ON CONFLICT (kind, name) DO UPDATE SET ended_at = NULL
			RETURNING origin
		)
		INSERT INTO public_import (origin, index_url, root_url, region, traveler, report_when_missing, onset_when_missing, keys)
		SELECT origin, $2, $3, $4, $5, $6, $7, $8 FROM n
		ON CONFLICT (origin) DO UPDATE SET keys = excluded.keys`,
		c.Name, c.IndexURL, c.RootURL, c.Region, c.Traveler, int16(c.ReportWhenMissing), c.OnsetWhenMissing, keys)
}

func (b border) service(client *remote.Client) *imports.Service {
	return imports.New(settings(), imports.Deps{Store: b.DB, Remote: client, Now: b.Now})
}

func (b border) schedule(s *imports.Service) imports.Scheduled {
	b.t.Helper()
	answer, err := s.Schedule(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return answer.(imports.Scheduled)
}

func (b border) run(s *imports.Service) imports.Imported {
	b.t.Helper()
	answer, err := s.Import(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return answer.(imports.Imported)
}

// stored is what we have of an import: of each key the report, and that of its
// revision.
func (b border) stored(name string) (keys, revisions map[exposure.Key]exposure.Report) {
	b.t.Helper()
	keys, revisions = map[exposure.Key]exposure.Report{}, map[exposure.Key]exposure.Report{}
	rows, err := b.Query(b.t.Context(), `
		SELECT e.key, e.event, e.report
		FROM   (SELECT key, event, report, origin FROM arrival UNION ALL SELECT key, event, report, origin FROM exposure) AS e
		JOIN   neighbour n USING (origin)
		WHERE  n.name = $1`, name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		var event, report int16
		if err := rows.Scan(&key, &event, &report); err != nil {
			b.t.Fatal(err)
		}
		into := keys
		if event == 1 {
			into = revisions
		}
		if _, twice := into[exposure.Key(key)]; twice {
			b.t.Fatal("a key is stored twice")
		}
		into[exposure.Key(key)] = exposure.Report(report)
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	return keys, revisions
}

// files gives what is known of the files of all imports, by name.
func (b border) files() map[string]string {
	b.t.Helper()
	type row struct{ File, Outcome string }
	files, err := database.All[row](b.t.Context(), b.DB, `SELECT file, outcome FROM import_file`)
	if err != nil {
		b.t.Fatal(err)
	}
	outcomes := map[string]string{}
	for _, f := range files {
		outcomes[f.File] = f.Outcome
	}
	return outcomes
}

type status struct {
	Attempted, Succeeded, Failed bool
	Failure                      string
}

func (b border) status(name string) status {
	b.t.Helper()
	s, ok, err := database.One[status](b.t.Context(), b.DB, `
		SELECT attempted_at IS NOT NULL AS attempted, succeeded_at IS NOT NULL AS succeeded, failed_at IS NOT NULL AS failed, failure
		FROM   neighbour
		WHERE  name = $1`, name)
	if err != nil || !ok {
		b.t.Fatalf("status of %s: %t, %v", name, ok, err)
	}
	return s
}

// newest is how far we are said to have all of an import.
func (b border) newest(name string) time.Time {
	b.t.Helper()
	all, err := b.Neighbours(b.t.Context())
	i := slices.IndexFunc(all, func(n store.Neighbour) bool { return n.Name == name })
	if err != nil || i < 0 {
		b.t.Fatalf("neighbour %s: %v", name, err)
	}
	return all[i].Newest
}

func reports(report exposure.Report, numbers ...int) map[exposure.Key]exposure.Report {
	want := map[exposure.Key]exposure.Report{}
	for _, n := range numbers {
		want[entest.Key(n)] = report
	}
	return want
}

func (b border) wantKeys(why, name string, want map[exposure.Key]exposure.Report) {
	b.t.Helper()
	got, _ := b.stored(name)
	if !maps.Equal(want, got) {
		b.t.Errorf("%s: %d keys of %s are stored, want these %d", why, len(got), name, len(want))
	}
}

func likely(e *exposure.Exposure) { e.Report = exposure.Likely }

// From the first index, through a revision, to a repeat of everything.
func TestTheStoryOfAnImport(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	s := b.service(a.Client())
	now := b.Now()

	first := a.Publish(now.Add(-8*time.Hour), entest.Exposures(0, 3, now, likely), nil)
	second := a.Publish(now.Add(-4*time.Hour), entest.Exposures(10, 2, now), nil)
	if diff := cmp.Diff(imports.Scheduled{Imports: 1, Listed: 2, Fresh: 2}, b.schedule(s)); diff != "" {
		t.Errorf("the first index (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(imports.Imported{Imports: 1, Files: 2, ForeignAdded: store.ForeignAdded{Inserted: 5}}, b.run(s)); diff != "" {
		t.Errorf("the first files (-want +got):\n%s", diff)
	}
	if got := b.status("mx"); got != (status{Attempted: true, Succeeded: true}) {
		t.Errorf("status %+v", got)
	}

	third := a.Publish(now, nil, entest.Exposures(0, 1, now, func(e *exposure.Exposure) { e.Report = exposure.Revoked }))
	b.schedule(s)
	if diff := cmp.Diff(imports.Imported{Imports: 1, Files: 1, ForeignAdded: store.ForeignAdded{Revised: 1}}, b.run(s)); diff != "" {
		t.Errorf("the revision (-want +got):\n%s", diff)
	}
	_, revisions := b.stored("mx")
	if diff := cmp.Diff(reports(exposure.Revoked, 0), revisions); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(imports.Scheduled{Imports: 1, Listed: 3}, b.schedule(s)); diff != "" {
		t.Errorf("a repeat (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(imports.Imported{Imports: 1}, b.run(s)); diff != "" {
		t.Errorf("a repeat (-want +got):\n%s", diff)
	}
	for _, name := range []string{first, second, third} {
		if a.Asked(name) != 1 {
			t.Errorf("%s was downloaded %d times, want once", name, a.Asked(name))
		}
	}

	// What is in no index any more is forgotten, and what is listed is not.
	a.List(second, third)
	b.Wait(3 * day)
	b.schedule(s)
	if diff := cmp.Diff(map[string]string{second: "imported", third: "imported"}, b.files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// The first index may list what nobody needs any more. All else is imported.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	now := b.Now()
	var young []int
	for ago := 24; ago >= 0; ago-- {
		end := now.Add(-time.Duration(ago) * day)
		a.Publish(end, entest.Exposures(ago, 1, end), nil)
		if ago < 15 { // the key of the file of that day ended half a day before it
			young = append(young, ago)
		}
	}
	s := b.service(a.Client())
	if diff := cmp.Diff(imports.Scheduled{Imports: 1, Listed: 25, Fresh: 16, Expired: 9}, b.schedule(s)); diff != "" {
		t.Errorf("the first index (-want +got):\n%s", diff)
	}
	if done := b.run(s); done.Files != 16 || done.Dropped["too old"] != 1 {
		t.Errorf("%+v, want 16 files, and one key that is too old", done)
	}
	b.wantKeys("all that is retained", "mx", reports(exposure.Confirmed, young...))
	if got := b.newest("mx"); !got.Equal(now) {
		t.Errorf("we are said to have all until %s, want %s", got, now)
	}
}

// What the configuration says stands with each key, and what the file says of
// its own region does not.
func TestKeysAreCompleted(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	days := int16(-2)
	b.agree("mx", a, func(c *store.ImportConfig) { c.ReportWhenMissing, c.OnsetWhenMissing = exposure.Likely, &days })
	now := b.Now()
	start := proto.Int32(int32(entest.DaysAgo(now, 2)))
	bare := func(n byte) *exportpb.TemporaryExposureKey {
		return &exportpb.TemporaryExposureKey{KeyData: slices.Repeat([]byte{n}, 16), RollingStartIntervalNumber: start}
	}
	full := bare(2)
	full.ReportType = exportpb.TemporaryExposureKey_SELF_REPORT.Enum()
	full.TransmissionRiskLevel, full.RollingPeriod, full.DaysSinceOnsetOfSymptoms = proto.Int32(7), proto.Int32(100), proto.Int32(0)
	broken, old, revoked := bare(3), bare(4), bare(5)
	broken.KeyData = make([]byte, 17)
	old.RollingStartIntervalNumber = proto.Int32(int32(entest.DaysAgo(now, 20)))
	revoked.ReportType = exportpb.TemporaryExposureKey_REVOKED.Enum()
	x := sourcetest.Message(now, bare(1), full, broken, old, revoked, bare(1))
	x.RevisedKeys = []*exportpb.TemporaryExposureKey{bare(2)} // to what?
	x.Region = proto.String("US")
	a.Put("a.zip", sourcetest.Pack(t, a.Signer, x))
	a.List("a.zip")
	s := b.service(a.Client())
	b.schedule(s)

	want := store.ForeignAdded{Inserted: 2, Dropped: map[string]int{"broken": 1, "known": 1, "report": 1, "revoked": 1, "too old": 1}}
	if diff := cmp.Diff(want, b.run(s).ForeignAdded); diff != "" {
		t.Errorf("what became of the keys (-want +got):\n%s", diff)
	}
	type row struct {
		N                    int
		Period, Risk, Report int16
		Onset                *int16
		Traveler             bool
		Regions              []string
	}
	got, err := database.All[row](t.Context(), b.DB, `
		SELECT get_byte(key, 0) AS n, period, risk, report, onset, traveler, regions FROM arrival ORDER BY key`)
	if err != nil {
		t.Fatal(err)
	}
	zero := int16(0)
	if diff := cmp.Diff([]row{
		{1, 144, 4, 2, &days, true, []string{"MX"}},
		{2, 100, 7, 3, &zero, true, []string{"MX"}},
	}, got); diff != "" {
		t.Errorf("what is stored (-want +got):\n%s", diff)
	}
}

// Every kind of bad file, between two good ones that it does not stop.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why    string
		fault  func(b border, a *sourcetest.Authority, good []byte) (file []byte, fault http.HandlerFunc)
		word   string // in the failure
		after  string // outcome when nothing ever changes
		stalls bool   // the run stops here: the server does not answer
	}{
		{"vanished", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, http.NotFound
		}, "404", "vanished", false},
		{"gone for good", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, sourcetest.Status(410)
		}, "410", "vanished", false},
		{"signed by a stranger", func(b border, a *sourcetest.Authority, _ []byte) ([]byte, http.HandlerFunc) {
			return a.File(b.Now(), sourcetest.NewSigner(b.t, "999", "v1"), entest.Exposures(10, 1, b.Now()), nil), nil
		}, "trusted key", "refused", false},
		{"signed by another key of the same name", func(b border, a *sourcetest.Authority, _ []byte) ([]byte, http.HandlerFunc) {
			return a.File(b.Now(), sourcetest.NewSigner(b.t, "334", "v1"), entest.Exposures(10, 1, b.Now()), nil), nil
		}, "does not verify", "refused", false},
		{"truncated at the source", func(_ border, _ *sourcetest.Authority, good []byte) ([]byte, http.HandlerFunc) {
			return good[:len(good)-10], nil
		}, "zip", "refused", false},
		{"a flipped bit", func(_ border, _ *sourcetest.Authority, good []byte) ([]byte, http.HandlerFunc) {
			bad := slices.Clone(good)
			bad[len(bad)/3] ^= 1
			return bad, nil
		}, "", "refused", false},
		{"a page in place of a file", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return []byte("<html>Welcome</html>"), nil
		}, "zip", "refused", false},
		{"a bomb", func(b border, _ *sourcetest.Authority, _ []byte) ([]byte, http.HandlerFunc) {
			return sourcetest.Bomb(b.t), nil
		}, "unpacks", "refused", false},
		{"a body without end", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(1<<40)) }
		}, "more than is read", "refused", false},
		{"from the future", func(b border, a *sourcetest.Authority, _ []byte) ([]byte, http.HandlerFunc) {
			return a.File(b.Now().Add(72*time.Hour), a.Signer, entest.Exposures(10, 1, b.Now()), nil), nil
		}, "yet to come", "imported", false},
		{"redirected to where nobody may look", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
			}
		}, "", "refused", false},
		{"an error of the server", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, sourcetest.Status(500)
		}, "500", "expired", true},
		{"cut on its way", func(_ border, _ *sourcetest.Authority, good []byte) ([]byte, http.HandlerFunc) {
			return nil, sourcetest.Cut(good)
		}, "cut", "expired", true},
		{"a drip", func(border, *sourcetest.Authority, []byte) ([]byte, http.HandlerFunc) {
			return nil, sourcetest.Drip
		}, "slow", "", true},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			b, a := newBorder(t), sourcetest.New(t)
			b.agree("mx", a)
			now := b.Now()
			a.Put("1.zip", a.File(now.Add(-8*time.Hour), a.Signer, entest.Exposures(0, 2, now), nil))
			good := a.File(now.Add(-4*time.Hour), a.Signer, entest.Exposures(10, 2, now), nil)
			bad, fault := tc.fault(b, a, good)
			a.Put("2.zip", bad)
			a.Break("2.zip", fault)
			a.Put("3.zip", a.File(now, a.Signer, entest.Exposures(20, 2, now), nil))
			a.List("1.zip", "2.zip", "3.zip")
			s := b.service(a.Client(func(s *remote.Settings) { s.Timeout = 3 * time.Second }))
			b.schedule(s)

			done := b.run(s)
			if done.Later != 1 || !strings.Contains(done.Failures["mx"], tc.word) {
				t.Errorf("%+v, want one file for later and a failure about %q", done, tc.word)
			}
			if tc.stalls != (done.Files == 1) {
				t.Errorf("%d files were imported at once, stalled: %t", done.Files, tc.stalls)
			}
			b.run(s)
			b.wantKeys("the good ones", "mx", reports(exposure.Confirmed, 0, 1, 20, 21))
			if got := b.status("mx"); got.Succeeded || !got.Failed || got.Failure == "" {
				t.Errorf("status %+v, want a failure and no success", got)
			}
			if got := b.newest("mx"); !got.Equal(now.Add(-8 * time.Hour)) {
				t.Errorf("we are said to have all until %s, want the end of the file before the bad one", got)
			}
			asked := a.Asked("2.zip")
			if b.run(s); a.Asked("2.zip") != asked {
				t.Error("the bad file was tried again at once")
			}

			if tc.after != "" {
				for range 30 {
					b.Wait(13 * time.Hour)
					b.run(s)
				}
				if diff := cmp.Diff(map[string]string{"1.zip": "imported", "2.zip": tc.after, "3.zip": "imported"}, b.files()); diff != "" {
					t.Errorf("nothing ever changes (-want +got):\n%s", diff)
				}
				return
			}
			a.Put("2.zip", good)
			a.Break("2.zip", nil)
			b.Wait(6 * time.Hour)
			b.run(s)
			b.wantKeys("mended", "mx", reports(exposure.Confirmed, 0, 1, 10, 11, 20, 21))
			if got := b.status("mx"); !got.Succeeded || got.Failure != "" {
				t.Errorf("mended: status %+v", got)
			}
		})
	}
}

// Files that were signed with a key that nobody had told us are not lost.
func TestKeyIsAddedLater(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	now := b.Now()
	old := a.Signer
	a.Signer = sourcetest.NewSigner(t, "334", "v2")
	a.Publish(now, entest.Exposures(0, 2, now), nil)
	s := b.service(a.Client())
	b.schedule(s)
	b.run(s)
	b.wantKeys("nobody told us of the key", "mx", nil)

	key := sourcetest.Trusted(t, a.Signer)
	key.From = now.Add(time.Hour)
	b.agree("mx", a, func(c *store.ImportConfig) { c.Keys = []store.TrustedKey{sourcetest.Trusted(t, old), key} })
	b.Wait(6 * time.Hour)
	b.run(s)
	b.wantKeys("the key was not to be used yet when the file was made", "mx", nil)

	key.From, key.Thru = now.Add(-time.Hour), now.Add(time.Hour)
	b.agree("mx", a, func(c *store.ImportConfig) { c.Keys = []store.TrustedKey{sourcetest.Trusted(t, old), key} })
	b.Wait(6 * time.Hour)
	b.run(s)
	b.wantKeys("it was good then, and is over now", "mx", reports(exposure.Confirmed, 0, 1))
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	good := sourcetest.Name(entest.Noon())
	for _, tc := range []struct {
		why, index string
		want       imports.Scheduled
		files      []string
		word       string // in the failure
	}{
		{"nothing yet", "", imports.Scheduled{}, nil, ""},
		{"line ends of all kinds", "\r\n" + good + "\r\nb.zip\tc.zip\n\n", imports.Scheduled{Listed: 3, Fresh: 3}, []string{good, "b.zip", "c.zip"}, ""},
		{"an order that is not that of the names", "c.zip\na.zip\nb.zip", imports.Scheduled{Listed: 3, Fresh: 3}, []string{"c.zip", "a.zip", "b.zip"}, ""},
		{"a file twice", "a.zip\nb.zip\na.zip", imports.Scheduled{Listed: 3, Fresh: 2}, []string{"a.zip", "b.zip"}, ""},
		{
			"a file that nobody needs", sourcetest.Name(entest.Noon().Add(-361*time.Hour)) + "\n" + good,
			imports.Scheduled{Listed: 2, Fresh: 1, Expired: 1},
			[]string{good},
			"",
		},
		{
			"entries that lead away", "https://evil.example/a.zip\n//evil.example/a.zip\n../../a.zip\n/a.zip\na.zip?x=1\n\x01.zip\n\xff.zip\n" + good,
			imports.Scheduled{Listed: 8, Fresh: 1, Unusable: 7},
			[]string{good},
			"7 entries",
		},
		{"more entries than are read", strings.Repeat("a.zip\n", 20_001), imports.Scheduled{}, nil, "20001 entries"},
		{"more than is read", strings.Repeat("x", 5<<20), imports.Scheduled{}, nil, "more than is read"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			b, a := newBorder(t), sourcetest.New(t)
			b.agree("mx", a)
			a.Put("index.txt", []byte(tc.index))
			tc.want.Imports = 1
			got := b.schedule(b.service(a.Client()))
			failure := got.Failures["mx"]
			if (failure == "") != (tc.word == "") || !strings.Contains(failure, tc.word) || b.status("mx").Failure != failure {
				t.Errorf("failure %q, and %q in the status; want one about %q", failure, b.status("mx").Failure, tc.word)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(imports.Scheduled{}, "Failures")); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			files, err := database.All[string](t.Context(), b.DB, `SELECT file FROM import_file ORDER BY number`)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.files, files); diff != "" {
				t.Errorf("files in their order (-want +got):\n%s", diff)
			}
		})
	}
}

// Outside of development nothing on a private network is read.
func TestPrivateAddress(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	a.Publish(b.Now(), entest.Exposures(0, 2, b.Now()), nil)
	s := b.service(a.Client(func(s *remote.Settings) { s.AllowPrivate = false }))
	if failure := b.schedule(s).Failures["mx"]; !strings.Contains(failure, "not public") || a.Asked("index.txt") != 0 {
		t.Errorf("failure %q, and %d questions; want one about the address, and none", failure, a.Asked("index.txt"))
	}
}

// One that fails does not stop the others, nor do all of them fail the job.
func TestImportsAreIndependent(t *testing.T) {
	t.Parallel()
	b, good, down, hung := newBorder(t), sourcetest.New(t), sourcetest.New(t), sourcetest.New(t)
	b.agree("down", down)
	b.agree("good", good)
	b.agree("hung", hung)
	b.agree("left", good)
	b.Must(`UPDATE neighbour SET ended_at = now() WHERE name = 'left'`)
	down.Break("index.txt", sourcetest.Status(503))
	hung.Break("index.txt", sourcetest.Drip)
	good.Publish(b.Now(), entest.Exposures(0, 2, b.Now()), nil)
	s := b.service(good.Client(func(s *remote.Settings) { s.Timeout = 3 * time.Second }))

	scheduled := b.schedule(s)
	if scheduled.Imports != 3 || scheduled.Fresh != 1 || len(scheduled.Failures) != 2 {
		t.Errorf("%+v, want three imports, a file and two failures", scheduled)
	}
	if done := b.run(s); done.Imports != 3 || done.Files != 1 || done.Failures != nil {
		t.Errorf("%+v, want three imports and a file", done)
	}
	b.wantKeys("good", "good", reports(exposure.Confirmed, 0, 1))
	if b.status("good").Failed || !b.status("down").Failed || !b.status("hung").Failed {
		t.Error("want the failure of two in their status")
	}
}

// An import that another run works on is left to it.
func TestLease(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	name := a.Publish(b.Now(), entest.Exposures(0, 2, b.Now()), nil)
	s := b.service(a.Client())
	b.schedule(s)
	body := a.Served(name)
	var second imports.Imported
	a.Break(name, func(w http.ResponseWriter, _ *http.Request) {
		second = b.run(s)
		_, _ = w.Write(body)
	})
	if first := b.run(s); first.Files != 1 {
		t.Errorf("%+v, want the file", first)
	}
	if diff := cmp.Diff(imports.Imported{Busy: 1}, second); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
}

// An import that is taken out of the configuration while a file is read stores
// nothing more.
func TestEndedMeanwhile(t *testing.T) {
	t.Parallel()
	b, a := newBorder(t), sourcetest.New(t)
	b.agree("mx", a)
	name := a.Publish(b.Now(), entest.Exposures(0, 2, b.Now()), nil)
	s := b.service(a.Client())
	b.schedule(s)
	body := a.Served(name)
	a.Break(name, func(w http.ResponseWriter, _ *http.Request) {
		b.Must(`UPDATE neighbour SET ended_at = now()`)
		_, _ = w.Write(body)
	})
	if _, err := s.Import(t.Context()); err == nil {
		t.Error("want an error: it will not be finished")
	}
	b.wantKeys("ended", "mx", nil)
	if done := b.run(s); done.Imports != 0 {
		t.Errorf("%+v, want nothing to do", done)
	}
}

// A revision may overtake its key, and a neighbour may revise its own keys only.
func TestRevisions(t *testing.T) {
	t.Parallel()
	b, mx, gt := newBorder(t), sourcetest.New(t), sourcetest.New(t)
	b.agree("mx", mx)
	b.agree("gt", gt)
	now := b.Now()
	revoked := func(e *exposure.Exposure) { e.Report = exposure.Revoked }
	b.Upload(entest.Exposure(50, now, likely))
	first := mx.Publish(now.Add(-time.Hour), entest.Exposures(0, 2, now, likely), nil)
	mx.Publish(now, nil, []exposure.Exposure{entest.Exposure(0, now, revoked), entest.Exposure(50, now, revoked)})
	mx.Break(first, sourcetest.Status(404))
	s := b.service(mx.Client())
	b.schedule(s)
	if done := b.run(s); done.Held != 1 || done.Revised != 0 || done.Dropped["ours"] != 1 {
		t.Errorf("%+v, want one revision that waits for its key, and ours left alone", done)
	}
	gt.Publish(now, nil, []exposure.Exposure{entest.Exposure(1, now, revoked)})
	mx.Break(first, nil)
	b.Wait(time.Hour)
	if done := b.run(s); done.Inserted != 2 || done.Revised != 1 {
		t.Errorf("%+v, want two keys, one with the revision that waited", done)
	}
	b.schedule(b.service(gt.Client()))
	if done := b.run(b.service(gt.Client())); done.Dropped["another's"] != 1 || done.Revised != 0 {
		t.Errorf("%+v, want the key of another neighbour left alone", done)
	}
}

// Whatever goes wrong and wherever the process is cut, once the faults stop each
// key of each good file is stored once.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			b, a := newBorder(t), sourcetest.New(t)
			b.agree("mx", a)
			want := map[exposure.Key]exposure.Report{}
			var names []string
			for i := range 6 {
				var all []exposure.Exposure
				for range 1 + r.IntN(40) {
					all = append(all, entest.Exposure(r.IntN(150), b.Now())) // some in several files
				}
				slices.SortFunc(all, exportfile.Compare)
				all = slices.CompactFunc(all, func(x, y exposure.Exposure) bool { return x.Key == y.Key })
				for _, e := range all {
					want[e.Key] = e.Report
				}
				names = append(names, a.Publish(b.Now().Add(time.Duration(i-6)*time.Hour), all, nil))
			}
			client := a.Client(func(s *remote.Settings) { s.Timeout = 10 * time.Second })
			for range 30 {
				faults := []http.HandlerFunc{nil, nil, nil, sourcetest.Status(500), sourcetest.Cut(a.Served(names[0])), answer([]byte("rubbish"))}
				name := names[r.IntN(len(names))]
				a.Break(name, faults[r.IntN(len(faults))])
				cutOff(t, b, client, r.IntN(30))
				a.Break(name, nil)
				if r.IntN(5) == 0 {
					b.Seal()
				}
				b.Wait(time.Duration(r.IntN(120)) * time.Minute)
			}
			s := b.service(client)
			for range 4 {
				b.Wait(6 * time.Hour)
				b.schedule(s)
				b.run(s)
			}
			b.wantKeys("in the end", "mx", want)
			if got := b.status("mx"); got.Failure != "" || !got.Succeeded {
				t.Errorf("status in the end: %+v", got)
			}
		})
	}
}

func answer(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

// cutOff runs both jobs, and cuts them off the n-th time that they look at the
// clock, which they do beside each statement.
func cutOff(t *testing.T, b border, client *remote.Client, n int) {
	t.Helper()
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	var looks atomic.Int64
	s := imports.New(settings(), imports.Deps{Store: b.DB, Remote: client, Now: func() time.Time {
		if looks.Add(1) == int64(n) {
			cut()
		}
		return b.Now()
	}})
	s.SetPageSize(7)
	_, first := s.Schedule(ctx)
	_, second := s.Import(ctx)
	if ctx.Err() == nil && (first != nil || second != nil) {
		t.Errorf("nothing was cut, and the jobs failed: %v, %v", first, second)
	}
}
