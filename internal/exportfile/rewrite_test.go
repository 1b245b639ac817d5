package exportfile_test

import (
	"testing"
	"time"

	"enkeyserver/internal/exportfile"
)

func TestParseRewrite(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why, text string
		ok        bool
	}{
		{"names stay", "", true},
		{"the form of our own files", "{start}-{end}-{number}.zip", true},
		{"a prefix", "nz-{name}.zip", true},
		{"a folder", "copies/{name}.zip", true},
		{"what start and end leave open is told apart when it happens", "{start}-{end}.zip", true},
		{"an unknown word", "{name}-{uuid}.zip", false},
		{"no zip: it could be the index", "{name}", false},
		{"one name for all files", "copy.zip", false},
		{"one name for all files of a start", "{start}.zip", false},
		{"above the root", "../{name}.zip", false},
		{"absolute", "/{name}.zip", false},
		{"another host", "https://example.org/{name}.zip", false},
		{"hidden", ".{name}.zip", false},
		{"hidden in a folder", "a/.b/{name}.zip", false},
		{"a space would be two entries", "{name} copy.zip", false},
		{"a brace that is left", "{name}}.zip", false},
		{"a line end", "{name}\n.zip", false},
	} {
		if _, err := exportfile.ParseRewrite(tc.text); (err == nil) != tc.ok {
			t.Errorf("%s: ParseRewrite(%q) gives error %v", tc.why, tc.text, err)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	meta := exportfile.Meta{Start: time.Unix(1604500000, 0), End: time.Unix(1604514400, 0)}
	for _, tc := range []struct {
		why, text, entry, want string // want "": refused
	}{
		{"the folder there is not ours", "", "export/us/1604500000-1604514400-00003.zip", "1604500000-1604514400-00003.zip"},
		{"no .zip there", "", "us/batch7", "batch7.zip"},
		{"header and number", "{start}-{end}-{number}.zip", "us/batch-00007.zip", "1604500000-1604514400-00007.zip"},
		{"no number", "{start}-{end}-{number}.zip", "us/batch.zip", ""},
		{"a number that is none", "{start}-{end}-{number}.zip", "us/batch-7b.zip", ""},
		{"hidden there", "", "us/.hidden.zip", ""},
		{"hidden once the zip is off", "", "us/..zip", ""},
		{"the folder may be other", "a/b/{name}.zip", "us/1.zip", "a/b/1.zip"},
		{"words in the name are only a name", "{name}.zip", "us/{start}.zip", "{start}.zip"},
	} {
		rewrite, err := exportfile.ParseRewrite(tc.text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rewrite.Name(tc.entry, meta)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: Name(%q) = %q, %v; want %q", tc.why, tc.entry, got, err, tc.want)
		}
	}
}
