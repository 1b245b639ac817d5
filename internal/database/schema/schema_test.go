package schema_test

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/database/schema"
	"enkeyserver/migrations"
)

// steps makes the files of numbered steps out of their up statements; each
// makes a table that its down statement drops.
func steps(up ...string) fs.FS {
	files := fstest.MapFS{}
	for i, sql := range up {
		n := string(rune('1' + i))
		files["00000"+n+"_step.up.sql"] = &fstest.MapFile{Data: []byte(sql)}
		files["00000"+n+"_step.down.sql"] = &fstest.MapFile{Data: []byte("DROP TABLE t" + n)}
	}
	return files
}

func open(t *testing.T, url string, files fs.FS, progress io.Writer) *schema.Migrator {
	t.Helper()
	m, err := schema.Open(t.Context(), database.Settings{URL: url}, files, progress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// tables lists what was made, without the library's own table.
func tables(t *testing.T, url string) []string {
	t.Helper()
	return ask(t, url, `
		SELECT   tablename::text
		FROM     pg_tables
		WHERE    schemaname = 'public' AND tablename <> 'schema_migrations'
		ORDER BY tablename`)
}

func ask(t *testing.T, url, sql string) []string {
	t.Helper()
	db, err := database.Open(t.Context(), database.Settings{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	got, err := database.All[string](t.Context(), db, sql)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func wantVersion(t *testing.T, m *schema.Migrator, want uint) {
	t.Helper()
	if got, err := m.Version(); err != nil || got != want {
		t.Errorf("version = %d, %v; want %d", got, err, want)
	}
}

// describe is all that the release's schema consists of.
const describe = `
	SELECT   format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
	FROM     information_schema.columns WHERE table_schema = 'public'
	UNION ALL
	SELECT   format('%s %s', conrelid::regclass, pg_get_constraintdef(oid))
	FROM     pg_constraint WHERE connamespace = 'public'::regnamespace
	UNION ALL
	SELECT   indexdef FROM pg_indexes WHERE schemaname = 'public'
	ORDER BY 1`

// Every step of the release can be taken back and taken again, and that leaves
// what taking it once left.
func TestReleaseRunsBothWays(t *testing.T) {
	t.Parallel()
	url := dbtest.Empty(t)
	m := open(t, url, migrations.Files, io.Discard)
	up, err := fs.Glob(migrations.Files, "*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	last := len(up)

	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, m, uint(last))
	want := ask(t, url, describe)
	for back := 1; back <= last; back++ {
		if err := m.Down(back); err != nil {
			t.Fatal(err)
		}
		wantVersion(t, m, uint(last-back))
		if err := m.Up(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ask(t, url, describe)); diff != "" {
			t.Errorf("the schema after %d steps back and up again (-want +got):\n%s", back, diff)
		}
	}

	if err := m.Down(last); err != nil {
		t.Fatal(err)
	}
	if left := tables(t, url); len(left) > 0 {
		t.Errorf("all the way down leaves %v", left)
	}
}

func TestReleaseIsNumberedPairs(t *testing.T) {
	t.Parallel()
	up, _ := fs.Glob(migrations.Files, "*.up.sql")
	down, _ := fs.Glob(migrations.Files, "*.down.sql")
	var want []string
	for _, name := range up {
		want = append(want, strings.Replace(name, ".up.", ".down.", 1))
	}
	if diff := cmp.Diff(want, down); diff != "" {
		t.Errorf("steps without their way back (-want +got):\n%s", diff)
	}
}

func TestUpTellsEachStepOnce(t *testing.T) {
	t.Parallel()
	var progress bytes.Buffer
	m := open(t, dbtest.Empty(t), steps("CREATE TABLE t1 ()", "CREATE TABLE t2 ()"), &progress)
	for range 2 { // the second finds nothing to do
		if err := m.Up(); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(progress.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "1/u step") || !strings.HasPrefix(lines[1], "2/u step") {
		t.Errorf("progress = %q, want a line for step 1 and one for step 2", lines)
	}
}

// A rollout starts as many migrations as it has instances.
func TestRunsAtOnceFollowOneAnother(t *testing.T) {
	t.Parallel()
	url := dbtest.Empty(t)
	files := steps("CREATE TABLE t1 (); SELECT pg_sleep(0.1)", "CREATE TABLE t2 ()")
	var told [4]bytes.Buffer
	var runs errgroup.Group
	for i := range told {
		runs.Go(func() error {
			m, err := schema.Open(t.Context(), database.Settings{URL: url}, files, &told[i])
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Up()
		})
	}
	if err := runs.Wait(); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i := range told {
		taken += strings.Count(told[i].String(), "\n")
	}
	if taken != 2 {
		t.Errorf("%d steps were taken by all runs together, want 2", taken)
	}
}

// A step that does not end well leaves nothing, and the next run takes it.
func TestAStepIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	const good = "CREATE TABLE t1 ()"
	for _, tc := range []struct {
		why    string
		broken string
		say    string // what the error must name
	}{
		{"a mistake in its second statement", "CREATE TABLE t2 ();\nCREATE TABLE t2 ();", "42P07"},
		{"its syntax names the line", "CREATE TABLE t2 ();\nCREATE NONSENSE;", "line 2: "},
		{"it was killed", "CREATE TABLE t2 ();\nSELECT pg_terminate_backend(pg_backend_pid())", ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Empty(t)
			m, err := schema.Open(t.Context(), database.Settings{URL: url}, steps(good, tc.broken), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			err = m.Up()
			_ = m.Close() // the connection may be gone
			if err == nil || !strings.Contains(err.Error(), tc.say) || strings.Contains(err.Error(), "CREATE TABLE") {
				t.Errorf("err = %q, want one that says %q and does not repeat the step", err, tc.say)
			}
			if diff := cmp.Diff([]string{"t1"}, tables(t, url)); diff != "" {
				t.Errorf("tables after the failure (-want +got):\n%s", diff)
			}
			m = open(t, url, steps(good, "CREATE TABLE t2 ()"), io.Discard)
			wantVersion(t, m, 1)
			if err := m.Up(); err != nil {
				t.Fatal(err)
			}
			wantVersion(t, m, 2)
		})
	}
}

func TestDownRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		steps int
		say   string
		left  uint
	}{
		{"nothing", 0, "1 or more", 2},
		{"less than nothing, which would be up", -1, "1 or more", 2},
		{"more than there is", 3, "1 steps more than there were", 0},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			m := open(t, dbtest.Empty(t), steps("CREATE TABLE t1 ()", "CREATE TABLE t2 ()"), io.Discard)
			if err := m.Up(); err != nil {
				t.Fatal(err)
			}
			if err := m.Down(tc.steps); err == nil || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("err = %v, want one that says %q", err, tc.say)
			}
			wantVersion(t, m, tc.left)
		})
	}
}

// The old release's migration may run once more while the new one rolls out.
func TestAnOlderProgramLeavesANewerSchemaAlone(t *testing.T) {
	t.Parallel()
	url := dbtest.Empty(t)
	if err := open(t, url, steps("CREATE TABLE t1 ()", "CREATE TABLE t2 ()"), io.Discard).Up(); err != nil {
		t.Fatal(err)
	}
	err := open(t, url, steps("CREATE TABLE t1 ()"), io.Discard).Up()
	if err == nil || !strings.Contains(err.Error(), "newer than this program") {
		t.Errorf("err = %v, want one that says so", err)
	}
	if diff := cmp.Diff([]string{"t1", "t2"}, tables(t, url)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	url := dbtest.Empty(t)
	files := steps("CREATE TABLE t1 ()", "CREATE TABLE t2 ()")
	for _, tc := range []struct {
		why  string
		args []string
		want string // the last line, or the error
	}{
		{"an empty database", []string{"version"}, "the schema is at version 0"},
		{"up is the default", nil, "the schema is at version 2"},
		{"up again", []string{"up"}, "the schema is at version 2"},
		{"down does not guess how far", []string{"down"}, "usage: migrate [up | down N | version]"},
		{"down by a word", []string{"down", "all"}, "down N: N must be a number of steps"},
		{"down by one", []string{"down", "1"}, "the schema is at version 1"},
		{"down by less than one", []string{"down", "-1"}, "schema.Down(-1): the number of steps must be 1 or more"},
		{"a word that is none", []string{"force"}, "usage: migrate [up | down N | version]"},
		{"too many words", []string{"up", "up"}, "usage: migrate [up | down N | version]"},
	} {
		var out bytes.Buffer
		err := schema.Command(t.Context(), database.Settings{URL: url}, files, &out, tc.args)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		got := lines[len(lines)-1]
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, got, tc.want)
		}
	}
}
