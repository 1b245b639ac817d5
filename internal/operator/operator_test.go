package operator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/operator"
	"enkeyserver/internal/store"
)

// desk is where an operator sits in a test.
type desk struct {
	t   *testing.T
	db  *store.DB // nil: there is no database
	url string
	now time.Time

	watched bool // somebody sits there
}

// newDesk has a database of its own.
func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, url: dbtest.URL(t), now: entest.Noon()}
	d.db = d.connect(t.Context())
	t.Cleanup(d.db.Close)
	return d
}

func (d *desk) connect(ctx context.Context) *store.DB {
	d.t.Helper()
	db, err := store.Open(ctx, database.Settings{URL: d.url})
	if err != nil {
		d.t.Fatal(err)
	}
	return db
}

// answer is what a command said, and how it ended.
type answer struct {
	Status   int
	Out, Err string
}

func (d *desk) run(stdin string, args ...string) answer {
	d.t.Helper()
	var out, errOut bytes.Buffer
	s := &operator.Session{
		In: strings.NewReader(stdin), Out: &out, Err: &errOut, Now: func() time.Time { return d.now }, Terminal: d.watched,
		Database: func(ctx context.Context) (*store.DB, error) { return d.connect(ctx), nil },
	}
	status := operator.Run(d.t.Context(), s, args)
	return answer{status, out.String(), errOut.String()}
}

// says expects a success and its words.
func (d *desk) says(want, stdin string, args ...string) {
	d.t.Helper()
	got := d.run(stdin, args...)
	if got.Status != 0 || got.Err != "" {
		d.t.Fatalf("enctl %q: status %d and %q", args, got.Status, got.Err)
	}
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got.Out); diff != "" {
		d.t.Errorf("enctl %q (-want +got):\n%s", args, diff)
	}
}

// must gives what a command that succeeds says.
func (d *desk) must(stdin string, args ...string) string {
	d.t.Helper()
	got := d.run(stdin, args...)
	if got.Status != 0 {
		d.t.Fatalf("enctl %q: status %d and %q", args, got.Status, got.Err)
	}
	return got.Out
}

// fails expects a status and a part of the error.
func (d *desk) fails(status int, want, stdin string, args ...string) {
	d.t.Helper()
	got := d.run(stdin, args...)
	if got.Status != status || !strings.Contains(got.Err, want) {
		d.t.Errorf("enctl %q: status %d and %q, want %d and %q", args, got.Status, got.Err, status, want)
	}
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return v
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: entest.Noon()}
	for _, tc := range []struct {
		why    string
		args   []string
		status int
		out    string // a part of it
		err    string
	}{
		{"nothing", nil, 2, "", "enctl looks after"},
		{"help", []string{"help"}, 0, "certificate sign", ""},
		{"as a flag", []string{"--help"}, 0, "certificate sign", ""},
		{"of a command", []string{"help", "export", "verify"}, 0, "usage: enctl export verify [flags] FILE...", ""},
		{"of a command, as a flag", []string{"why", "-h"}, 0, "usage: enctl why", ""},
		{"of nothing", []string{"help", "export"}, 2, "", `there is no command "export"`},
		{"no such command", []string{"export", "everything"}, 2, "", `there is no command "export everything"`},
		{"no such flag", []string{"get", "--all"}, 2, "", `-all: see "enctl help get"`},
		{"no such form", []string{"get", "-o", "xml"}, 2, "", "it must be yaml or json"},
		{"no file", []string{"apply"}, 2, "", "-f must name the configuration file"},
		{"too much", []string{"get", "everything"}, 2, "", "not 1"},
		{"too little", []string{"export", "inspect"}, 2, "", "1 arguments are needed (FILE), not 0"},
		{"flags may follow", []string{"keys", "public", "file:///none", "-o", "json"}, 1, "", "/none: no such file"},
		{"after two dashes there are no flags", []string{"keys", "public", "--", "-o"}, 1, "", "a key must be a URL"},
		{"a key that is none", []string{"why", "secret"}, 1, "", "a key must be base64 of 16 bytes"},
	} {
		got := d.run("", tc.args...)
		if got.Status != tc.status || !strings.Contains(got.Out, tc.out) || !strings.Contains(got.Err, tc.err) || (tc.err == "") != (got.Err == "") {
			t.Errorf("%s: status %d, %q and %q", tc.why, got.Status, got.Out, got.Err)
		}
		if strings.Contains(got.Err, "secret") {
			t.Errorf("%s: the error %q repeats the key", tc.why, got.Err)
		}
	}
}

// Every command explains itself, with an example, and can answer programs.
func TestHelp(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: entest.Noon()}
	overview := d.must("", "help")
	for line := range strings.Lines(overview) {
		if !strings.HasPrefix(line, "  ") {
			continue
		}
		name := strings.TrimSpace(line[:20])
		help := d.must("", append([]string{"help"}, strings.Fields(name)...)...)
		for _, want := range []string{"usage: enctl " + name, "\n  enctl " + name, "json (default"} {
			if !strings.Contains(help, want) {
				t.Errorf("the help of %q lacks %q:\n%s", name, want, help)
			}
		}
	}
}

func TestConfigurationCommands(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	const file = "../../docs/example.yaml"
	const difference = `
add health authority org.example.verification
    audience: org.example.keyserver
    name: Example Health
    statsAPI: true
    key v1: SHA-256 c5a42f7d4f0d10dbc0f10aa20ab63a1a0ba08c2ec3ee3a6efdabd8f1c1c5a9a7 from 2020-11-01T00:00:00Z
add app org.example.app
    regions: US
    healthAuthorities: org.example.verification
add signing key us-1
    key: file:///keys/export.pem
    id: 310
    version: v1
add export us
    bucket: file:///var/lib/en/bucket
    root: us
    region: US
    inputRegions: US
    travelers: own-region
    provenance: any
    period: 4h
    signingKeys: us-1
`
	want := strings.TrimPrefix(withFingerprint(t, difference), "\n")
	diff := d.run("", "diff", "-f", file)
	if d := cmp.Diff(answer{1, want, ""}, diff); d != "" {
		t.Errorf("diff (-want +got):\n%s", d)
	}
	d.says(want+"applied: 4 changes\n", "", "apply", "-f", file, "--as", "ann")
	d.says("no changes\n", "", "apply", "-f", file, "--prune")
	d.says("no changes\n", "", "diff", "-f", file, "--prune")
	d.says("no changes\n", d.must("", "get"), "diff", "-f", "-", "--prune")
	d.says("no changes\n", d.must("", "get", "-o", "json"), "apply", "--prune", "-f", "-")

	d.says(`
change export us
    period: 4h -> 30m
applied: 1 changes
`, strings.Replace(d.must("", "get"), "4h", "30m", 1), "apply", "-f", "-")

	type plan struct {
		Changes []struct {
			Action, Kind, Name string
			Fields             []struct{ Name, Old, New string }
		}
		Notes []string
	}
	ended := decode[plan](t, d.must("healthAuthorities: []", "apply", "-f", "-", "--prune", "-o", "json"))
	if len(ended.Changes) != 4 || ended.Changes[3].Action != "end" || ended.Changes[3].Fields[0].New != "2020-11-05T12:00:00Z" {
		t.Errorf("pruning says %+v", ended)
	}
	d.checkAudit()

	d.fails(2, "there is no field", "healthAuthority: []", "diff", "-f", "-")
	d.fails(1, "there is no field", "healthAuthority: []", "apply", "-f", "-")
	d.fails(1, "no such file", "", "apply", "-f", "none.yaml")
	moved := strings.NewReplacer("root: us", "root: eu", "File: ", "File: ../../docs/").Replace(string(readFile(t, file)))
	d.fails(1, "bucket and root never change", moved, "apply", "-f", "-")
}

// withFingerprint puts the fingerprint of the example's key where one is.
func withFingerprint(t *testing.T, text string) string {
	t.Helper()
	const placeholder = "c5a42f7d4f0d10dbc0f10aa20ab63a1a0ba08c2ec3ee3a6efdabd8f1c1c5a9a7"
	return strings.Replace(text, placeholder, sum(readFile(t, "../../docs/example-authority.pub.pem")), 1)
}

func (d *desk) checkAudit() {
	d.t.Helper()
	log, err := d.db.AuditLog(d.t.Context(), 100)
	if err != nil {
		d.t.Fatal(err)
	}
	if len(log) != 9 {
		d.t.Fatalf("the audit log has %d entries, want 9", len(log))
	}
	first, fifth := log[8], log[4]
	if first.Who != "ann" || first.Action != "add health authority org.example.verification" {
		d.t.Errorf("the first entry is %+v", first)
	}
	if fifth.Who == "" || fifth.Action != "change export us" || fifth.Detail != "period: 4h -> 30m" {
		d.t.Errorf("the fifth entry is %+v", fifth)
	}
}

func TestReindex(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.must("", "apply", "-f", "../../docs/example.yaml")
	d.says("the next run of a worker writes the index of us\n", "", "export", "reindex", "us")
	indexes, err := d.db.UnwrittenIndexes(t.Context(), d.now)
	if err != nil || len(indexes) != 1 {
		t.Errorf("%d indexes are to be written (error %v), want 1", len(indexes), err)
	}
	d.fails(1, "there is no export eu", "", "export", "reindex", "eu")
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
