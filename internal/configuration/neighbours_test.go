package configuration_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/store"
)

// neighbours is every field of the sections about neighbours, indented as it
// stands in a file.
const neighbours = `
federation:
  pull:
    - name: ca
      server: federation.example.ca:443
      tls: {certFile: /tls/us.pem, keyFile: /tls/us.key}
      audience: ca.federation
      includeRegions: [CA, GB]
      excludeRegions: [MX]
      onlyTravelers: true
      onlyLocalProvenance: true
      token: {google: true}
    - name: gb
      server: federation.example.uk:8443
      includeRegions: [GB]
      token: {clientCredentials: {tokenURL: "https://idp.example.uk/token", clientID: us, clientSecret: "secret://gb"}}
    - {name: mx, server: "mx:443", includeRegions: [MX], token: {file: /var/run/secrets/token}}
  allow:
    - {name: ca, issuer: "https://idp.example.ca", subject: ca-puller, audience: us.federation, includeRegions: [US], excludeRegions: [CA]}
imports:
  - name: ch
    index: https://www.example.ch/index.txt
    root: https://www.example.ch/
    region: CH
    traveler: true
    reportWhenMissing: likely
    onsetWhenMissing: 0
    keys: [{id: "228", version: v1, publicKeyFile: example-authority.pub.pem, from: 2020-11-01T00:00:00Z}]
mirrors:
  - name: nz
    index: https://www.example.nz/index.txt
    root: https://www.example.nz/
    bucket: file:///var/lib/en/bucket
    to: nz
    keys: [{id: "530", version: v1, publicKeyFile: example-authority.pub.pem}]
`

func withNeighbours(t *testing.T, old, replacement string) (store.Configuration, error) {
	t.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(neighbours, old) {
		t.Fatalf("the sections do not hold %q", old)
	}
	return configuration.Parse([]byte(string(text)+strings.Replace(neighbours, old, replacement, 1)), "../../docs")
}

// What is applied is there, can be written as a file, and that file changes
// nothing.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	wanted, err := withNeighbours(t, "", "")
	if err != nil {
		t.Fatal(err)
	}
	changed := o.apply(wanted, configuration.RemoveOthers)
	for _, want := range []string{
		"add federation pull ca", "add federation pull gb", "add federation pull mx", "add federation allow ca", "add import ch", "add mirror nz",
	} {
		if !slices.Contains(changed, want) {
			t.Errorf("applying did %q, not %q", changed, want)
		}
	}
	if diff := cmp.Diff(wanted, o.configuration(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the database says (-want +got):\n%s", diff)
	}

	file, err := configuration.FileOf(o.configuration(), o.now)
	if err != nil {
		t.Fatal(err)
	}
	text, err := file.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := configuration.Parse(text, t.TempDir())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	expect(t, "its own file", o.apply(again, configuration.RemoveOthers))
}

// A neighbour that is left out ends and may come back, under the origin that
// stands with its keys; a mirror's place is its own for ever.
func TestNeighboursLeave(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	wanted, err := withNeighbours(t, "", "")
	if err != nil {
		t.Fatal(err)
	}
	o.apply(wanted, configuration.KeepOthers)
	before := o.origins()

	expect(t, "without prune nothing goes", o.apply(o.read(), configuration.KeepOthers))
	expect(t, "with prune all go", o.apply(o.read(), configuration.RemoveOthers),
		"remove federation allow ca", "remove federation pull ca", "remove federation pull gb", "remove federation pull mx",
		"remove import ch", "remove mirror nz")
	expect(t, "once", o.apply(o.read(), configuration.RemoveOthers))

	moved, err := withNeighbours(t, "name: nz", "name: nz2")
	if err != nil {
		t.Fatal(err)
	}
	_, err = configuration.Diff(t.Context(), o.DB, moved, configuration.KeepOthers, o.now)
	if err == nil || !strings.Contains(err.Error(), "belong to the mirror nz for ever") {
		t.Errorf("a mirror in the place of one that has ended: %v", err)
	}

	if got := o.apply(wanted, configuration.KeepOthers); len(got) != 6 {
		t.Errorf("coming back changes %q", got)
	}
	if diff := cmp.Diff(before, o.origins()); diff != "" {
		t.Errorf("origins (-before +after):\n%s", diff)
	}
}

func (o *operator) origins() map[string]int {
	o.t.Helper()
	rows, err := o.Query(o.t.Context(), `SELECT name, origin FROM neighbour`)
	if err != nil {
		o.t.Fatal(err)
	}
	defer rows.Close()
	origins := map[string]int{}
	for rows.Next() {
		var name string
		var origin int
		if err := rows.Scan(&name, &origin); err != nil {
			o.t.Fatal(err)
		}
		origins[name] = origin
	}
	if err := rows.Err(); err != nil {
		o.t.Fatal(err)
	}
	return origins
}

func TestParseRefusesNeighbours(t *testing.T) {
	t.Parallel()
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ why, old, replacement, want string }{
		{"a server without a port", "federation.example.ca:443", "federation.example.ca", "federation pull ca: server must be a host with a port"},
		{"a server by its address", "federation.example.ca:443", "https://federation.example.ca", "server must be a host with a port"},
		{"half a certificate", "certFile: /tls/us.pem, ", "", "certFile and keyFile belong together"},
		{"an authority that is none", "tls: {certFile", "tls: {caFile: " + junk + ", certFile", "must hold certificates in PEM and nothing else"},
		{"an authority that is not there", "tls: {certFile", "tls: {caFile: none.pem, certFile", "none.pem: no such file"},
		{"all regions", "includeRegions: [CA, GB]", "includeRegions: []", "includeRegions must name the regions"},
		{"a region in lower case", "includeRegions: [CA, GB]", "includeRegions: [ca]", `includeRegions: "ca" must be`},
		{"no token", "token: {google: true}", "token: {}", "token must be one of"},
		{"two tokens", "token: {google: true}", "token: {google: true, file: /a}", "token must be one of"},
		{"a token file beside the configuration", "file: /var/run/secrets/token", "file: token", "file must be an absolute path"},
		{"a token for nobody", "audience: ca.federation", "audience: ''", "audience must be set"},
		{"a secret in the open", `"secret://gb"`, `"hunter2"`, "clientSecret must be a secret:// reference"},
		{"an allowance without a subject", "subject: ca-puller", "subject: ''", "line 73: federation allow ca: subject must be set"},
		{"an allowance without an audience", "audience: us.federation", "audience: ''", "audience must be set"},
		{"an allowance without an issuer", `issuer: "https://idp.example.ca"`, "issuer: ''", "issuer must be an https:// address"},
		{"an allowance of everything", "includeRegions: [US]", "includeRegions: []", "includeRegions must name the regions"},
		{"two names for one caller", "  allow:\n", "  allow:\n    - {name: c2, issuer: \"https://idp.example.ca\", subject: ca-puller, audience: us.federation, includeRegions: [US]}\n", "is used a second time"},
		{"an index that is no address", "index: https://www.example.ch/index.txt", "index: index.txt", "import ch: index must be an https:// address"},
		{"an address with a password", "root: https://www.example.ch/", "root: https://a:b@www.example.ch/", "root must be an https:// address"},
		{"files of anybody", "keys: [{id: \"228\", version: v1, publicKeyFile: example-authority.pub.pem, from: 2020-11-01T00:00:00Z}]", "keys: []", "keys must name the keys"},
		{"nobody to warn", "reportWhenMissing: likely", "reportWhenMissing: negative", "reportWhenMissing must be"},
		{"an onset out of bounds", "onsetWhenMissing: 0", "onsetWhenMissing: 15", "onsetWhenMissing must be -14..14"},
		{"a mirror out of its bucket", "to: nz", "to: ../nz", "root must be a relative path"},
		{"a rule for names that is none", "    to: nz", "    to: nz\n    rewrite: \"{day}\"", "rewrite: "},
		{"a misspelled field", "allow:", "alow:", `there is no field "alow" here`},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := withNeighbours(t, tc.old, tc.replacement)
			if err == nil {
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %q, want it to say %q", err, tc.want)
			}
		})
	}
}

// A mirror would write over an export's index.
func TestMirrorInThePlaceOfAnExport(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	wanted, err := withNeighbours(t, "to: nz", "to: us")
	if err != nil {
		t.Fatal(err)
	}
	_, err = configuration.Diff(t.Context(), o.DB, wanted, configuration.KeepOthers, o.now)
	if err == nil || !strings.Contains(err.Error(), "belong to the export us") {
		t.Errorf("the error is %v", err)
	}
}
