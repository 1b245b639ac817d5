package configuration_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/store"
)

const fingerprint = "384fb9a44fabe158be2757b9b8d8f67029f2280fcc1776ab2a53103e6f0c582d" // SHA-256 of "PEM"

// operator applies configurations to a database of its own.
type operator struct {
	*store.DB
	t   *testing.T
	now time.Time
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	return &operator{DB: &store.DB{DB: dbtest.New(t)}, t: t, now: noon()}
}

func (o *operator) read(edit ...string) store.Configuration {
	o.t.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		o.t.Fatal(err)
	}
	c, err := configuration.Parse([]byte(strings.NewReplacer(edit...).Replace(string(text))), "../../docs")
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// apply gives what was changed.
func (o *operator) apply(c store.Configuration, others configuration.Others) (changed []string) {
	o.t.Helper()
	order := configuration.Order{Wanted: c, Others: others, Who: "ann", Now: o.now}
	err := configuration.Apply(o.t.Context(), o.DB, order, func(p configuration.Plan) error {
		changed = names(p.Changes)
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return changed
}

func (o *operator) configuration() store.Configuration {
	o.t.Helper()
	c, err := o.Configuration(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, why string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", why, diff)
	}
}

// The life of a configuration, from an empty database to one that was pruned and
// came back.
func TestApply(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	all := o.read()

	expect(t, "first", o.apply(all, configuration.KeepOthers),
		"add app org.example.app", "add export us", "add health authority org.example.verification", "add signing key us-1")
	expect(t, "again", o.apply(all, configuration.RemoveOthers))
	if diff := cmp.Diff(all, o.configuration(), equalEmpty); diff != "" {
		t.Errorf("the database says (-want +got):\n%s", diff)
	}

	expect(t, "edited", o.apply(o.read("period: 4h", "period: 2h", "regions: [US]  ", "regions: [US, CA]  "), configuration.KeepOthers),
		"change app org.example.app", "change export us")
	expect(t, "back again", o.apply(all, configuration.KeepOthers),
		"change app org.example.app", "change export us")

	expect(t, "pruned", o.apply(store.Configuration{}, configuration.RemoveOthers),
		"end export us", "remove app org.example.app", "remove health authority org.example.verification", "remove signing key us-1")
	expect(t, "pruned twice", o.apply(store.Configuration{}, configuration.RemoveOthers))
	c := o.configuration()
	if len(c.Exports) != 1 || !c.Exports[0].Thru.Equal(o.now) || len(c.Authorities)+len(c.Apps)+len(c.SigningKeys) != 0 {
		t.Errorf("pruned, the database says %+v", c)
	}

	o.now = o.now.Add(time.Hour)
	expect(t, "revived", o.apply(all, configuration.RemoveOthers),
		"add app org.example.app", "add health authority org.example.verification", "add signing key us-1", "revive export us")
	if diff := cmp.Diff(all, o.configuration(), equalEmpty); diff != "" {
		t.Errorf("revived, the database says (-want +got):\n%s", diff)
	}
	o.checkAudit(4 + 2 + 2 + 4 + 4)
}

func (o *operator) checkAudit(want int) {
	o.t.Helper()
	log, err := o.AuditLog(o.t.Context(), 100)
	if err != nil {
		o.t.Fatal(err)
	}
	if len(log) != want {
		o.t.Fatalf("the audit log has %d entries, want %d", len(log), want)
	}
	newest := store.AuditEntry{
		At: noon().Add(time.Hour), Who: "ann", Action: "revive export us",
		Detail: "thru: 2020-11-05T12:00:00Z -> (none); signingKeys: (none) -> us-1",
	}
	log[0].At = log[0].At.UTC()
	if diff := cmp.Diff(newest, log[0]); diff != "" {
		o.t.Errorf("the newest entry (-want +got):\n%s", diff)
	}
}

// What somebody does not want to be done is not done, and not recorded.
func TestApplyIsWhole(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	stop := errors.New("stop")
	order := configuration.Order{Wanted: o.read(), Others: configuration.KeepOthers, Who: "ann", Now: o.now}
	err := configuration.Apply(t.Context(), o.DB, order, func(configuration.Plan) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want the one of show", err)
	}
	if diff := cmp.Diff(store.Configuration{}, o.configuration(), equalEmpty); diff != "" {
		t.Errorf("the database says (-want +got):\n%s", diff)
	}
}

// Operators who apply at the same moment follow one another: each change is
// made, and recorded, once.
func TestApplyAtOnce(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	var mu sync.Mutex
	var changed []string
	var all errgroup.Group
	order := configuration.Order{Wanted: o.read(), Others: configuration.KeepOthers, Who: "ann", Now: o.now}
	for range 6 {
		all.Go(func() error {
			return configuration.Apply(t.Context(), o.DB, order, func(p configuration.Plan) error {
				mu.Lock()
				defer mu.Unlock()
				changed = append(changed, names(p.Changes)...)
				return nil
			})
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(changed)
	expect(t, "all together", changed,
		"add app org.example.app", "add export us", "add health authority org.example.verification", "add signing key us-1")
}

// The file that is written from the database changes nothing, in both forms.
func TestFileOf(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	c := o.read(
		"inputRegions: [US]", "inputRegions: [NO, US]\n    from: 2020-11-01\n    thru: 2030-01-02T03:04:05Z",
		"maxRecords: 0", "maxRecords: 1000",
		"period: 4h", "period: 1h30m",
		"skipRevisionToken: false", "skipRevisionToken: true",
		`version: v1`, "version: '007'")
	past := c.Exports[0]
	past.Name, past.Root, past.From, past.Thru = "past", "past", time.Time{}, o.now.Add(-time.Hour)
	c.Exports = append([]store.ExportConfig{past}, c.Exports...)
	o.apply(c, configuration.KeepOthers)

	f, err := configuration.FileOf(o.configuration(), o.now)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Exports) != 1 {
		t.Errorf("%d exports are written, want the one that has not ended", len(f.Exports))
	}
	for form, write := range map[string]func() ([]byte, error){"YAML": f.YAML, "JSON": f.JSON} {
		text, err := write()
		if err != nil {
			t.Fatal(err)
		}
		back, err := configuration.Parse(text, t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v\n%s", form, err, text)
		}
		plan, err := configuration.Diff(t.Context(), o.DB, back, configuration.RemoveOthers, o.now)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, form, names(plan.Changes))
	}
}

// What services read is what was applied.
func TestAdmissionAfterApply(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.apply(o.read("org.example.app", "ORG.Example.App"), configuration.KeepOthers)
	admission, err := o.Admission(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	app := admission.Apps["org.example.app"]
	if !slices.Equal(app.Authorities, []string{"org.example.verification"}) || !slices.Equal(app.Regions, []string{"US"}) {
		t.Errorf("services see the app as %+v", app)
	}
	if a := admission.Authorities["org.example.verification"]; len(a.Keys) != 1 || !a.StatsAPI {
		t.Errorf("services see the authority as %+v", a)
	}
}

var equalEmpty = cmp.Options{
	cmp.Transformer("unfinished", func(x store.ExportConfig) map[string]any {
		return map[string]any{
			"name": x.Name, "bucket": x.Bucket, "root": x.Root, "region": x.Region, "input": strings.Join(x.InputRegions, " "),
			"exclude": strings.Join(x.ExcludeRegions, " "), "travelers": x.Travelers, "period": x.Period, "from": x.From, "thru": x.Thru,
			"backfill": x.Backfill, "keys": strings.Join(x.SigningKeys, " "), "max": x.MaxRecords,
		}
	}),
	cmp.Comparer(slices.Equal[[]string]),
}
