package configuration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

const example = "../../docs/example.yaml"

func noon() time.Time { return time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC) }

func TestExample(t *testing.T) {
	t.Parallel()
	got, err := configuration.Read(example)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile("../../docs/example-authority.pub.pem")
	if err != nil {
		t.Fatal(err)
	}
	want := store.Configuration{
		Authorities: []store.AuthorityConfig{{
			Issuer: "org.example.verification", Audience: "org.example.keyserver", Name: "Example Health", StatsAPI: true,
			Keys: []store.AuthorityKeyConfig{{Version: "v1", PublicKey: string(pem), From: time.Date(2020, 11, 1, 0, 0, 0, 0, time.UTC)}},
		}},
		Apps: []store.AppConfig{{
			AppID: "org.example.app", Regions: []string{"US"}, Authorities: []string{"org.example.verification"},
		}},
		SigningKeys: []store.SigningKeyConfig{{Name: "us-1", KeyURL: "file:///keys/export.pem", KeyID: "310", KeyVersion: "v1"}},
		Exports: []store.ExportConfig{{
			Name: "us", Bucket: "file:///var/lib/en/bucket", Root: "us", Region: "US", InputRegions: []string{"US"},
			Travelers: store.TravelersOwnRegion, Provenance: store.ProvenanceAny, Period: 4 * time.Hour, SigningKeys: []string{"us-1"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example means (-want +got):\n%s", diff)
	}
}

// edited is the example with one text replaced by another.
func edited(t *testing.T, old, replacement string) []byte {
	t.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("the example does not hold %q", old)
	}
	return []byte(strings.Replace(string(text), old, replacement, 1))
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := keys.PublicPEM(p384.Public())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "p384.pem")
	if err := os.WriteFile(elsewhere, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	const secondKey = "  - {name: us-2, key: 'file:///keys/2.pem', id: '310', version: v2}\n"
	secondExport := func(fields string) string {
		return "exports:\n  - {name: two, bucket: 'file:///b', root: r, region: US, inputRegions: [US], period: 1h" + fields + "}\n"
	}
	for _, tc := range []struct{ why, old, replacement, want string }{
		{"a misspelled field", "statsAPI: true", "statsApi: true", `line 19: there is no field "statsApi" here`},
		{"a misspelled section", "signingKeys:\n", "signingkeys:\n", `there is no field "signingkeys" here`},
		{"a field twice", "root: us", "root: us\n    root: eu", `mapping key "root" already defined`},
		{"a wrong type", "backfill: false", "backfill: perhaps", "line 52: cannot unmarshal !!str `perhaps` into bool"},
		{"a period without a unit", "period: 4h", "period: 4", "missing unit in duration"},
		{"no period", "period: 4h", "period: 0s", "line 43: export us: period must be a whole number of seconds above 0"},
		{"a period that is too fine", "period: 4h", "period: 1500ms", "period must be a whole number of seconds above 0"},
		{"a negative period", "period: 4h", "period: -4h", "period must be a whole number of seconds above 0"},
		{"no issuer", "issuer: org.example.verification", `issuer: ""`, "line 11: health authority number 1: issuer must be set"},
		{"no audience", "audience: org.example.keyserver", "audience: ''", "audience must be set"},
		{"no public key", "publicKeyFile: example-authority.pub.pem", "publicKeyFile: ''", "key v1: give either publicKey or publicKeyFile"},
		{"two public keys", "publicKeyFile: example-authority.pub.pem", "publicKeyFile: a\n        publicKey: b", "give either publicKey or publicKeyFile"},
		{"a public key that is not there", "example-authority.pub.pem", "none.pem", "none.pem: no such file"},
		{"a public key that is none", "publicKeyFile: example-authority.pub.pem", "publicKey: text", "must be PEM"},
		{"a public key on another curve", "example-authority.pub.pem", elsewhere, "must be ECDSA on the curve P-256"},
		{"an authority's key with a version", "- id: v1", "- version: 2\n        id: v1", "has no version"},
		{"a window that never opens", "from: 2020-11-01T00:00:00Z          #", "from: 2020-11-01\n        thru: 2020-11-01 #", "key v1: from must be before thru"},
		{"a JWKS without TLS", `jwksURI: ""`, "jwksURI: http://example.org", "jwksURI must be an https:// address"},
		{"an app twice, though spelled otherwise", "authorizedApps:\n", "authorizedApps:\n  - {id: ORG.example.APP}\n", "line 24: app org.example.app: id org.example.app is used a second time"},
		{"a region in lower case", "regions: [US]  ", "regions: [us]  ", `regions: "us" must be two or more upper-case letters`},
		{"a region of one letter", "region: US  ", "region: U  ", `region: "U" must be two or more upper-case letters`},
		{"a region twice", "inputRegions: [US]", "inputRegions: [US, US]", "inputRegions names US twice"},
		{"no input region", "inputRegions: [US]", "inputRegions: []", "inputRegions must name a region"},
		{"in and out", "excludeRegions: []", "excludeRegions: [US]", "US is both in inputRegions and in excludeRegions"},
		{"a rule for travellers that is none", "travelers: own-region", "travelers: some", "travelers must be include, own-region or exclude"},
		{"an id that phones cannot look up", `id: "310"`, `id: "310-a"`, "line 34: signing key us-1: id and version must consist of letters, digits and underscores"},
		{"an empty version", "version: v1", `version: ""`, "id and version must consist of"},
		{"a signing key twice", "signingKeys:\n", "signingKeys:\n" + strings.Replace(secondKey, "us-2", "us-1", 1), "name us-1 is used a second time"},
		{"two signing keys that phones cannot tell apart", "signingKeys:\n", "signingKeys:\n" + strings.Replace(secondKey, "v2", "v1", 1), "pair of id and version 310-v1 is used a second time"},
		{"a key of no release", "file:///keys/export.pem", "floppy:///a", `keys of the kind "floppy" are not supported`},
		{"a key by its path alone", "file:///keys/export.pem", "/keys/export.pem", "a key must be a URL"},
		{"a bucket of no release", "file:///var/lib/en/bucket", "tape://x", `there are no buckets of the kind "tape"`},
		{"the same bucket spelled otherwise", "file:///var/lib/en/bucket", "file:///var/lib/en/bucket/", "without a slash at its end"},
		{"a root out of the bucket", "root: us", "root: ../us", "root must be a relative path"},
		{"a root with white space: the index is split on it", "root: us", "root: u s", "root must be a relative path"},
		{"no root", "root: us", "root: ''", "root must be a relative path"},
		{"a hidden root", "root: us", "root: a/.us", "root must be a relative path"},
		{"an export twice", "exports:\n", strings.Replace(secondExport(""), "two", "us", 1), "name us is used a second time"},
		{"two exports in one place", "exports:\n", strings.NewReplacer("///b", "///var/lib/en/bucket", "root: r", "root: us").Replace(secondExport("")), "pair of bucket and root"},
		{"more signatures than phones read", "exports:\n", secondExport(", signingKeys: [a, b, c, d, e, f, g, h, i, j, k]"), "names 11 keys, phones read at most 10"},
		{"a window of an export", "exports:\n", secondExport(", from: 2021-01-01, thru: 2020-01-01"), "from must be before thru"},
		{"less than no records", "maxRecords: 0", "maxRecords: -1", "maxRecords must be 0"},
		{"a misspelled field of federation", "exports:\n", "federation: {alow: []}\nexports:\n", `there is no field "alow" here`},
		{"a rule for provenance that is none", "travelers: own-region", "provenance: some", "provenance must be any or local"},
		{"a second document", "exports:\n", "---\nexports:\n", "second document"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := configuration.Parse(edited(t, tc.old, tc.replacement), "../../docs")
			if err == nil {
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %q, want it to say %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "configuration.") {
				t.Errorf("the error %q speaks of our types", err)
			}
		})
	}
	if _, err := configuration.Parse(nil, "."); err == nil {
		t.Error("an empty file is accepted: with --prune it would remove everything")
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ why, old, replacement string }{
		{"empty sections of what comes later", "exports:\n", "federation: {pull: [], allow: []}\nimports: []\nmirrors: []\nexports:\n"},
		{"an id that looks like a number", `id: "310"`, "id: 310"},
		{"Norway", "inputRegions: [US]", "inputRegions: [US, NO]"},
		{"a part of a country", "inputRegions: [US]", "inputRegions: [US-CA]"},
		{"travellers' keys of any region", "inputRegions: [US]", "travelers: include\n    inputRegions: []"},
		{"a root of several parts", "root: us", "root: europe/de"},
	} {
		text := edited(t, tc.old, tc.replacement)
		if tc.why == "travellers' keys of any region" {
			text = []byte(strings.Replace(string(text), "    travelers: own-region", "", 1))
		}
		if _, err := configuration.Parse(text, "../../docs"); err != nil {
			t.Errorf("%s: %v", tc.why, err)
		}
	}
}

// All that is wrong is told at once.
func TestParseTellsEverything(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("root: us", "root: ''", "statsAPI: true", "jwksuri: x").Replace(string(edited(t, "period: 4h", "period: 0s")))
	_, err := configuration.Parse([]byte(strings.Replace(text, "jwksuri: x", "", 1)), "../../docs")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("the error is %q, want two lines", err)
	}
}

// wanted is a small configuration that a test changes.
func wanted(edits ...func(*store.Configuration)) store.Configuration {
	c := store.Configuration{
		Authorities: []store.AuthorityConfig{{Issuer: "ha", Audience: "aud", Keys: []store.AuthorityKeyConfig{{Version: "v1", PublicKey: "PEM"}}}},
		Apps:        []store.AppConfig{{AppID: "app", Regions: []string{"US"}, Authorities: []string{"ha"}}},
		SigningKeys: []store.SigningKeyConfig{{Name: "k", KeyURL: "file:///k", KeyID: "310", KeyVersion: "v1"}},
		Exports: []store.ExportConfig{{
			Name: "us", Bucket: "mem://", Root: "us", Region: "US", InputRegions: []string{"US"}, ExcludeRegions: []string{},
			Travelers: store.TravelersOwnRegion, Provenance: store.ProvenanceAny, Period: 4 * time.Hour, SigningKeys: []string{"k"}, Unfinished: true,
		}},
	}
	for _, edit := range edits {
		edit(&c)
	}
	return c
}

func ended(c *store.Configuration) { c.Exports[0].Thru = noon().Add(-time.Hour) }

func finished(c *store.Configuration) { c.Exports[0].Unfinished = false }

func withoutExport(c *store.Configuration) { c.Exports = nil }

func withoutKey(c *store.Configuration) { c.SigningKeys = nil }

func withoutAll(c *store.Configuration) { *c = store.Configuration{} }

func TestNewPlan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why             string
		current, wanted store.Configuration
		others          configuration.Others
		want            string
	}{
		{"the same", wanted(), wanted(), configuration.RemoveOthers, "no changes\n"},
		{"all is new", wanted(withoutAll), wanted(), configuration.KeepOthers, `
add health authority ha
    audience: aud
    key v1: SHA-256 FINGERPRINT
add app app
    regions: US
    healthAuthorities: ha
add signing key k
    key: file:///k
    id: 310
    version: v1
add export us
    bucket: mem://
    root: us
    region: US
    inputRegions: US
    travelers: own-region
    provenance: any
    period: 4h
    signingKeys: k
`},
		{"what the file lacks stays", wanted(), wanted(withoutAll), configuration.KeepOthers, "no changes\n"},
		{"or goes, and exports end", wanted(finished), wanted(withoutAll), configuration.RemoveOthers, `
remove health authority ha
    audience: aud
    key v1: SHA-256 FINGERPRINT
remove app app
    regions: US
    healthAuthorities: ha
remove signing key k
    key: file:///k
    id: 310
    version: v1
end export us
    thru: (none) -> 2020-11-05T12:00:00Z
`},
		{"the last batch of an export that ends is still to be signed", wanted(), wanted(withoutExport, withoutKey), configuration.RemoveOthers, `
end export us
    thru: (none) -> 2020-11-05T12:00:00Z
note: signing key k is kept: export us has ended and still signs with it
`},
		{"an export that ended has files", wanted(ended), wanted(withoutExport, withoutKey), configuration.RemoveOthers, `
note: signing key k is kept: export us has ended and still signs with it
no changes
`},
		{"until it has none", wanted(ended, finished), wanted(withoutExport, withoutKey), configuration.RemoveOthers, `
remove signing key k
    key: file:///k
    id: 310
    version: v1
`},
		{"it ended, and comes back", wanted(ended), wanted(), configuration.RemoveOthers, `
revive export us
    thru: 2020-11-05T11:00:00Z -> (none)
`},
		{"it ended as the file says", wanted(ended), wanted(ended), configuration.RemoveOthers, "no changes\n"},
		{"fields", wanted(), wanted(func(c *store.Configuration) {
			c.Authorities[0].Keys = append(c.Authorities[0].Keys, store.AuthorityKeyConfig{Version: "v2", PublicKey: "PEM", From: noon()})
			c.Authorities[0].Keys[0].Thru = noon()
			c.Apps[0].SkipCertificate = true
			c.Exports[0].Period = 90 * time.Minute
			c.Exports[0].ExcludeRegions = []string{"CA", "MX"}
			c.Exports[0].MaxRecords = 5
		}), configuration.KeepOthers, `
change health authority ha
    key v1: SHA-256 FINGERPRINT -> SHA-256 FINGERPRINT thru 2020-11-05T12:00:00Z
    key v2: (none) -> SHA-256 FINGERPRINT from 2020-11-05T12:00:00Z
change app app
    skipCertificate: (none) -> true
change export us
    excludeRegions: (none) -> CA MX
    period: 4h -> 1h30m
    maxRecords: (none) -> 5
note: app app uploads without a certificate: anybody can warn people, use it for development only
`},
		{"what is allowed and perhaps not meant", wanted(withoutAll), store.Configuration{
			Authorities: []store.AuthorityConfig{{Issuer: "ha"}},
			Apps:        []store.AppConfig{{AppID: "app"}},
			Exports:     []store.ExportConfig{{Name: "us", Bucket: "mem://", Root: "us", Period: time.Hour}},
		}, configuration.KeepOthers, `
add health authority ha
add app app
add export us
    bucket: mem://
    root: us
    period: 1h
note: health authority ha has no key: every certificate of it is refused
note: app app has no region: its uploads fail
note: app app has no health authority: its uploads are refused
note: export us has no signing key: no file is made for it
`},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			plan, err := configuration.NewPlan(tc.current, tc.wanted, tc.others, noon())
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			if err := plan.Write(&got); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(strings.TrimPrefix(tc.want, "\n"),
				"FINGERPRINT", fingerprint)
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("the plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why     string
		current store.Configuration
		edit    func(*store.Configuration)
		others  configuration.Others
		want    string
	}{
		{
			"a root that moves", wanted(), func(c *store.Configuration) { c.Exports[0].Root = "eu" }, configuration.KeepOthers,
			"export us: its bucket and root never change, they are mem:// and us",
		},
		{
			"a bucket that moves, of an export that has ended", wanted(ended), func(c *store.Configuration) { c.Exports[0].Bucket = "mem://x" }, configuration.KeepOthers,
			"export us: its bucket and root never change",
		},
		{
			"the place of an export that has ended", wanted(ended), func(c *store.Configuration) { c.Exports[0].Name = "eu" }, configuration.RemoveOthers,
			"export eu: bucket mem:// and root us belong to the export us for ever",
		},
		{
			"an authority that is not there", wanted(withoutAll), func(c *store.Configuration) { c.Authorities = nil }, configuration.KeepOthers,
			"app app: there is no health authority ha",
		},
		{
			"one that would be removed", wanted(), func(c *store.Configuration) { c.Authorities = nil }, configuration.RemoveOthers,
			"app app: there is no health authority ha",
		},
		{
			"a signing key that is not there", wanted(withoutAll), withoutKey, configuration.KeepOthers,
			"export us: there is no signing key k",
		},
		{
			"one that would be removed", wanted(), withoutKey, configuration.RemoveOthers,
			"export us: there is no signing key k",
		},
	} {
		_, err := configuration.NewPlan(tc.current, wanted(tc.edit), tc.others, noon())
		if errs.KindOf(err) != errs.KindInvalid || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.why, err, tc.want)
		}
	}
	// Only in the database is good enough when nothing is removed.
	if _, err := configuration.NewPlan(wanted(), wanted(withoutKey), configuration.KeepOthers, noon()); err != nil {
		t.Errorf("a key that is in the database only: %v", err)
	}
}

func names(changes []configuration.Change) (all []string) {
	for _, c := range changes {
		all = append(all, string(c.Action)+" "+c.Kind+" "+c.Name)
	}
	slices.Sort(all)
	return all
}
