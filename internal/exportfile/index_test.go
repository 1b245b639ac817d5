package exportfile_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
)

func index() exportfile.Index {
	return exportfile.Index{
		Sequence: 7,
		Time:     now,
		Files: []exportfile.IndexEntry{
			{Name: "us/1604563200-1604577600-00001.zip", Size: 1000, SHA256: bytes.Repeat([]byte{1}, 32), FirstEpoch: 1, LastEpoch: 4},
			{Name: "us/1604577600-1604592000-00001.zip", Size: 2000, SHA256: bytes.Repeat([]byte{0xab}, 32), FirstEpoch: 5, LastEpoch: 5},
		},
	}
}

func TestIndexText(t *testing.T) {
	t.Parallel()
	text := index().Text()
	const want = "us/1604563200-1604577600-00001.zip\nus/1604577600-1604592000-00001.zip"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("index.txt (-want +got):\n%s", diff)
	}
	names, err := exportfile.ParseIndexText(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), names); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	if got := (exportfile.Index{}).Text(); len(got) != 0 {
		t.Errorf("an empty index is %q, want nothing", got)
	}
}

func TestParseIndexText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why, text string
		want      []string
		refused   bool
	}{
		{"nothing", "", []string{}, false},
		{"one", "us/1.zip", []string{"us/1.zip"}, false},
		{"a line end behind the last", "us/1.zip\nus/2.zip\n", []string{"us/1.zip", "us/2.zip"}, false},
		{"line ends of Windows and empty lines", "us/1.zip\r\n\r\nus/2.zip", []string{"us/1.zip", "us/2.zip"}, false},
		{"blanks and tabs split, as on phones", "us/1.zip us/2.zip\tus/3.zip", []string{"us/1.zip", "us/2.zip", "us/3.zip"}, false},
		{"the order stays", "us/2.zip\nus/1.zip", []string{"us/2.zip", "us/1.zip"}, false},

		{"twice", "us/1.zip\nus/1.zip", nil, true},
		{"absolute", "/us/1.zip", nil, true},
		{"out of its folder", "../other/1.zip", nil, true},
		{"out of its folder, later", "us/../../1.zip", nil, true},
		{"the same folder", "./us/1.zip", nil, true},
		{"an empty part", "us//1.zip", nil, true},
		{"another server", "https://example.org/us/1.zip", nil, true},
		{"another server, without its scheme", "//example.org/us/1.zip", nil, true},
		{"a folder", "us/", nil, true},
		{"a query", "us/1.zip?a=b", nil, true},
		{"dots in disguise", "us/%2e%2e/1.zip", nil, true},
		{"backslashes", `us\1.zip`, nil, true},
		{"a zero", "us/1\x00.zip", nil, true},
		{"a direction mark", "us/1\u202e.zip", nil, true},
		{"no text", "us/\xff.zip", nil, true},
		{"a page instead of an index", "<!DOCTYPE html><html>not found</html>", nil, true},
		{"a name without end", strings.Repeat("a", 2000), nil, true},
		{"names without end", strings.Repeat("a ", 100_001), nil, true},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := exportfile.ParseIndexText([]byte(tc.text))
			if tc.refused {
				checkBroken(t, err, "index")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIndexJSON(t *testing.T) {
	t.Parallel()
	data, err := index().JSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"sequence":7,"time":"2020-11-05T12:00:00Z","files":[` +
		`{"name":"us/1604563200-1604577600-00001.zip","size":1000,"sha256":"` + strings.Repeat("01", 32) + `","firstEpoch":1,"lastEpoch":4},` +
		`{"name":"us/1604577600-1604592000-00001.zip","size":2000,"sha256":"` + strings.Repeat("ab", 32) + `","firstEpoch":5,"lastEpoch":5}]}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("index.json (-want +got):\n%s", diff)
	}
	got, err := exportfile.ParseIndexJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(index(), got); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

// An index whose files have all gone is a list all the same.
func TestIndexJSONEmpty(t *testing.T) {
	t.Parallel()
	data, err := exportfile.Index{Sequence: 9, Time: now}.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"sequence":9,"time":"2020-11-05T12:00:00Z","files":[]}`, string(data)); diff != "" {
		t.Errorf("index.json (-want +got):\n%s", diff)
	}
}

// The same index says the same, wherever the clock of its maker stands.
func TestIndexJSONInUTC(t *testing.T) {
	t.Parallel()
	x := index()
	x.Time = x.Time.In(time.FixedZone("elsewhere", 3600))
	data, err := x.JSON()
	if err != nil || !strings.Contains(string(data), `"2020-11-05T12:00:00Z"`) {
		t.Errorf("index.json is %s, %v", data, err)
	}
}

// What JSON refuses to write it refuses to read, too.
func TestIndexRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*exportfile.Index)
	}{
		{"a negative sequence", func(x *exportfile.Index) { x.Sequence = -1 }},
		{"no time", func(x *exportfile.Index) { x.Time = time.Time{} }},
		{"no name", func(x *exportfile.Index) { x.Files[0].Name = "" }},
		{"a name that phones would split", func(x *exportfile.Index) { x.Files[0].Name = "us/a b.zip" }},
		{"a name outside", func(x *exportfile.Index) { x.Files[0].Name = "../us.zip" }},
		{"twice", func(x *exportfile.Index) { x.Files[1].Name = x.Files[0].Name }},
		{"no size", func(x *exportfile.Index) { x.Files[0].Size = 0 }},
		{"no hash", func(x *exportfile.Index) { x.Files[0].SHA256 = nil }},
		{"half a hash", func(x *exportfile.Index) { x.Files[0].SHA256 = make([]byte, 16) }},
		{"epochs the wrong way round", func(x *exportfile.Index) { x.Files[0].FirstEpoch = 9 }},
		{"an epoch before the first", func(x *exportfile.Index) { x.Files[0].FirstEpoch = -1 }},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			x := index()
			tc.edit(&x)
			if _, err := x.JSON(); errs.KindOf(err) != errs.Internal || errs.CodeOf(err) != "index" {
				t.Errorf("JSON: err = %v, want an internal one with code index", err)
			}
			_, err := exportfile.ParseIndexJSON(loosely(t, x))
			checkBroken(t, err, "index")
		})
	}
	for _, text := range []string{"", "null?", "[]", "{}", `{"sequence":1.5}`, `{"files":[{"sha256":"zz"}]}`, "{} {}"} {
		_, err := exportfile.ParseIndexJSON([]byte(text))
		checkBroken(t, err, "index")
	}
}

// loosely writes an index as it stands.
func loosely(t *testing.T, x exportfile.Index) []byte {
	t.Helper()
	var files []map[string]any
	for _, f := range x.Files {
		files = append(files, map[string]any{
			"name": f.Name, "size": f.Size, "sha256": hexOf(f.SHA256), "firstEpoch": f.FirstEpoch, "lastEpoch": f.LastEpoch,
		})
	}
	data, err := json.Marshal(map[string]any{"sequence": x.Sequence, "time": x.Time, "files": files})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A later server may say more of a file.
func TestParseIndexJSONSkipsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	data := []byte(`{"sequence":1,"time":"2020-11-05T12:00:00Z","files":[],"more":{"to":"come"}}`)
	if _, err := exportfile.ParseIndexJSON(data); err != nil {
		t.Error(err)
	}
}
