package source_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/source"
	"enkeyserver/internal/store"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why, root, entry, want string // want "": refused
	}{
		{"below the root", "https://keys.example.org/", "mx/1-2-00001.zip", "https://keys.example.org/mx/1-2-00001.zip"},
		{"a root without its slash", "https://keys.example.org/a", "1.zip", "https://keys.example.org/a/1.zip"},
		{"a root with a port", "https://keys.example.org:8443/a/", "1.zip", "https://keys.example.org:8443/a/1.zip"},
		{"a root that needs its query", "https://keys.example.org/a/?sv=1", "1.zip", "https://keys.example.org/a/1.zip?sv=1"},
		{"letters that must be written otherwise", "https://keys.example.org/", "méxico/1+2.zip", "https://keys.example.org/m%C3%A9xico/1+2.zip"},
		{"another scheme", "https://keys.example.org/", "http://keys.example.org/1.zip", ""},
		{"a scheme without a host", "https://keys.example.org/", "file:1.zip", ""},
		{"another host", "https://keys.example.org/", "//evil.example/1.zip", ""},
		{"from the root of the host", "https://keys.example.org/a/", "/1.zip", ""},
		{"up", "https://keys.example.org/a/", "../1.zip", ""},
		{"up, in the middle", "https://keys.example.org/a/", "b/../../1.zip", ""},
		{"up, in disguise", "https://keys.example.org/a/", "%2e%2e/1.zip", ""},
		{"another's path separator", "https://keys.example.org/a/", `..\1.zip`, ""},
		{"a query", "https://keys.example.org/a/", "1.zip?delete=all", ""},
		{"a fragment", "https://keys.example.org/a/", "1.zip#2", ""},
		{"a control character", "https://keys.example.org/a/", "1\x00.zip", ""},
		{"text that reads the other way round", "https://keys.example.org/a/", "1\u202epiz.", ""},
		{"nothing", "https://keys.example.org/a/", "", ""},
	} {
		got, err := source.Address(tc.root, tc.entry)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: Address(%q, %q) = %q, %v; want %q", tc.why, tc.root, tc.entry, got, err, tc.want)
		}
	}
}

func TestEndedAt(t *testing.T) {
	t.Parallel()
	end := time.Unix(1604577600, 0).UTC()
	for _, tc := range []struct {
		why, entry string
		want       time.Time // zero: it does not tell
	}{
		{"the usual name", "mx/1604563200-1604577600-00001.zip", end},
		{"without a folder", "1604563200-1604577600-00001.zip", end},
		{"deep", "a/b/c/1604563200-1604577600-00001.zip", end},
		{"a name of its own", "mx/2020-11-05.zip", time.Time{}},
		{"milliseconds", "mx/1604563200000-1604577600000-00001.zip", time.Time{}},
	} {
		got, ok := source.EndedAt(tc.entry)
		if !got.Equal(tc.want) || ok == tc.want.IsZero() {
			t.Errorf("%s: EndedAt(%q) = %s, %t; want %s", tc.why, tc.entry, got, ok, tc.want)
		}
	}
}

const publicPEM = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
`

func TestTrusted(t *testing.T) {
	t.Parallel()
	end := time.Unix(1604577600, 0)
	key := func(version string, from, thru time.Duration) store.TrustedKey {
		k := store.TrustedKey{ID: "334", Version: version, PublicKey: publicPEM}
		if from != 0 {
			k.From = end.Add(from)
		}
		if thru != 0 {
			k.Thru = end.Add(thru)
		}
		return k
	}
	trusted, err := source.Trusted([]store.TrustedKey{
		key("always", 0, 0),
		key("old", 0, -time.Hour),
		key("until-then", 0, -time.Nanosecond),
		key("not-yet", time.Hour, 0),
		key("then", -time.Hour, time.Hour),
	}, end)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range trusted {
		got = append(got, k.Version)
	}
	if diff := cmp.Diff([]string{"always", "then"}, got); diff != "" {
		t.Errorf("trusted (-want +got):\n%s", diff)
	}
	if _, err := source.Trusted([]store.TrustedKey{{ID: "334", PublicKey: "none"}}, end); err == nil {
		t.Error("a key that cannot be read is no error")
	}
}

func TestCheckTimes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1604577600, 0)
	for after, ok := range map[time.Duration]bool{-30 * 24 * time.Hour: true, 47 * time.Hour: true, 49 * time.Hour: false} {
		if err := source.CheckTimes(exportfile.Meta{End: now.Add(after)}, now); (err == nil) != ok {
			t.Errorf("a file that ends %s from now: error %v", after, err)
		}
	}
}
