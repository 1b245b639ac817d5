package exportfile_test

import (
	"testing"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
)

func TestObjectName(t *testing.T) {
	t.Parallel()
	start, end := time.Unix(1604563200, 0).UTC(), time.Unix(1604577600, 0).UTC()
	for _, tc := range []struct {
		why    string
		root   string
		number int
		want   string
	}{
		{"the first", "us", 1, "us/1604563200-1604577600-00001.zip"},
		{"five digits", "us", 99999, "us/1604563200-1604577600-99999.zip"},
		{"a root of two folders", "public/us", 12, "public/us/1604563200-1604577600-00012.zip"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			name := exportfile.ObjectName(tc.root, start, end, tc.number)
			if name != tc.want {
				t.Fatalf("name is %s, want %s", name, tc.want)
			}
			root, gotStart, gotEnd, number, err := exportfile.ParseObjectName(name)
			if err != nil || root != tc.root || !gotStart.Equal(start) || !gotEnd.Equal(end) || number != tc.number {
				t.Errorf("parsed as %s, %v, %v, %d, %v", root, gotStart, gotEnd, number, err)
			}
		})
	}
}

func TestParseObjectNameRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ why, name string }{
		{"nothing", ""},
		{"no root", "1604563200-1604577600-00001.zip"},
		{"an empty root", "/1604563200-1604577600-00001.zip"},
		{"four digits", "us/1604563200-1604577600-0001.zip"},
		{"six digits", "us/1604563200-1604577600-000001.zip"},
		{"a leading zero", "us/01604563200-1604577600-00001.zip"},
		{"a sign", "us/+1604563200-1604577600-00001.zip"},
		{"an index", "us/index.txt"},
		{"something behind", "us/1604563200-1604577600-00001.zip.bak"},
		{"a line end behind", "us/1604563200-1604577600-00001.zip\n"},
		{"more digits than seconds have", "us/99999999999999999999-1604577600-00001.zip"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if _, _, _, _, err := exportfile.ParseObjectName(tc.name); errs.KindOf(err) != errs.KindInvalid {
				t.Errorf("err = %v, want an invalid one", err)
			}
		})
	}
}

func TestIndexNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		exportfile.IndexText("us"):      "us/index.txt",
		exportfile.IndexJSON("us"):      "us/index.json",
		exportfile.IndexSignature("us"): "us/index.sig.json",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
