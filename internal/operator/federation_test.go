package operator_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/database"
)

func TestFederationRestart(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if _, err := d.db.Exec(t.Context(), `INSERT INTO neighbour (kind, name, cursor) VALUES ('federation', 'ca', 'x'), ('import', 'mx', 'x')`); err != nil {
		t.Fatal(err)
	}
	if got := d.run("", "federation", "restart", "ca"); got.Status != 0 || !strings.Contains(got.Out, "asks ca from the beginning") {
		t.Errorf("got %+v", got)
	}
	for _, name := range []string{"mx", "nowhere"} {
		if got := d.run("", "federation", "restart", name); got.Status != 1 || !strings.Contains(got.Err, "no such neighbour to pull from") {
			t.Errorf("for %s: got %+v", name, got)
		}
	}
	left, err := database.All[string](t.Context(), d.db, `SELECT name FROM neighbour WHERE cursor IS NOT NULL`)
	if diff := cmp.Diff([]string{"mx"}, left); diff != "" || err != nil {
		t.Errorf("cursors that are left, %v (-want +got):\n%s", err, diff)
	}
}

func TestFederationStatus(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if got := d.run("", "federation", "status"); got.Status != 0 || !strings.Contains(got.Out, "no neighbours") {
		t.Errorf("without neighbours: got %+v", got)
	}
	for _, sql := range []string{
		`INSERT INTO neighbour (kind, name, cursor, cursor_at, newest_at, attempted_at, succeeded_at) VALUES
		 ('federation', 'ca', 'a secret place', '2020-11-05 11:59:00Z', '2020-11-05 11:30:00Z', '2020-11-05 11:59:00Z', '2020-11-05 10:00:00Z'),
		 ('federation', 'far ahead', 'x', '2020-11-05 11:00:00Z', '2220-01-01 00:00:00Z', '2020-11-05 11:00:00Z', NULL),
		 ('federation', 'new', NULL, NULL, NULL, NULL, NULL)`,
		`INSERT INTO neighbour (kind, name, ended_at) VALUES ('federation', 'gone', now())`,
		`INSERT INTO neighbour (kind, name, attempted_at, failed_at, failure) VALUES ('import', 'mx', '2020-11-05 11:00:00Z', '2020-11-05 11:00:01Z', 'its index is not there')`,
		`INSERT INTO neighbour_count SELECT origin, what, n FROM neighbour, (VALUES ('keys', 1200), ('too old', 7)) AS c(what, n) WHERE name = 'ca'`,
		`INSERT INTO mirror (name, index_url, root_url, bucket, root, rewrite, keys, succeeded_at) VALUES ('nz', '', '', 'mem://', 'nz', '', '[]', '2020-11-05 11:50:00Z')`,
	} {
		if _, err := d.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}

	const want = `NAME       KIND        LAST SUCCESS          LAG    CURSOR AGE  COUNTS
ca         federation  2020-11-05T10:00:00Z  30m0s  1m0s        keys 1200, too old 7
far ahead  federation  never                 0s     1h0m0s      
new        federation  never                 -      -           
mx         import      never                 -      -           
nz         mirror      2020-11-05T11:50:00Z  10m0s  -           files 0

mx, 2020-11-05T11:00:01Z: its index is not there
`
	if diff := cmp.Diff(answer{Out: want}, d.run("", "federation", "status")); diff != "" {
		t.Errorf("for people (-want +got):\n%s", diff)
	}

	got := d.run("", "federation", "status", "-o", "json", "ca")
	var standings []map[string]any
	if err := json.Unmarshal([]byte(got.Out), &standings); err != nil {
		t.Fatal(err, got)
	}
	wantJSON := []map[string]any{{
		"kind": "federation", "name": "ca", "attempted": "2020-11-05T11:59:00Z", "succeeded": "2020-11-05T10:00:00Z",
		"lagSeconds": (30 * time.Minute).Seconds(), "cursorAgeSeconds": 60.0, "counts": map[string]any{"keys": 1200.0, "too old": 7.0},
	}}
	if diff := cmp.Diff(wantJSON, standings); diff != "" {
		t.Errorf("for programs (-want +got):\n%s", diff)
	}
	if strings.Contains(got.Out, "secret") {
		t.Error("the cursor itself is shown")
	}
	if got := d.run("", "federation", "status", "nowhere"); got.Status != 1 || !strings.Contains(got.Err, `no neighbour "nowhere"`) {
		t.Errorf("for a name that is not there: got %+v", got)
	}
}
