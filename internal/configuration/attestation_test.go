package configuration_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/store"
)

// comment is what the example says of attestation, as a comment.
const comment = "    # attestation:"

// attesting is the example with its policy, uncommented and edited.
func (o *operator) attesting(edit ...string) store.Configuration {
	o.t.Helper()
	return o.read(append(edit, comment, "    attestation:", "    #   android", "      android", "    #   ios", "      ios")...)
}

// A policy is applied, shown rule by rule, written and read again, and taken
// away, and never differs from itself.
func TestAttestation(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.apply(o.attesting(), configuration.KeepOthers)
	expect(t, "again", o.apply(o.attesting(), configuration.RemoveOthers))
	expect(t, "with its defaults written out",
		o.apply(o.attesting("{teamID", "{mode: required, environment: production, kinds: [app-attest], teamID"), configuration.KeepOthers))

	optional := o.attesting("{packages", "{mode: optional, kinds: [safetynet, play-integrity-classic], packages")
	plan, err := configuration.Diff(t.Context(), o.DB, optional, configuration.KeepOthers, o.now)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	if err := plan.Write(&shown); err != nil {
		t.Fatal(err)
	}
	want := `change app org.example.app
    attestation.android.kinds: play-integrity-classic -> play-integrity-classic safetynet
    attestation.android.mode: required -> optional
`
	if diff := cmp.Diff(want, shown.String()); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}

	o.apply(optional, configuration.KeepOthers)
	file, err := configuration.FileOf(o.configuration(), o.now)
	if err != nil {
		t.Fatal(err)
	}
	for form, write := range map[string]func() ([]byte, error){"YAML": file.YAML, "JSON": file.JSON} {
		text, err := write()
		if err != nil {
			t.Fatal(err)
		}
		back, err := configuration.Parse(text, t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v\n%s", form, err, text)
		}
		expect(t, form, o.apply(back, configuration.RemoveOthers))
	}
	expect(t, "taken away", o.apply(o.read(), configuration.KeepOthers), "change app org.example.app")
	if app := o.configuration().Apps[0]; app.Attestation != "" {
		t.Errorf("the policy stayed: %s", app.Attestation)
	}
}

// A policy that another release wrote is shown, never left out, and can be
// replaced.
func TestUnreadablePolicy(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	o.apply(o.attesting(), configuration.KeepOthers)
	if _, err := o.Exec(t.Context(), `UPDATE authorized_app SET attestation = '{"android":{"mode":"later"}}'`); err != nil {
		t.Fatal(err)
	}
	if _, err := configuration.FileOf(o.configuration(), o.now); err == nil {
		t.Error("a file is written without the policy")
	}
	expect(t, "replaced", o.apply(o.attesting(), configuration.KeepOthers), "change app org.example.app")
	if _, err := configuration.FileOf(o.configuration(), o.now); err != nil {
		t.Error(err)
	}
}

func TestAttestationProblems(t *testing.T) {
	t.Parallel()
	read := func(lines string) error {
		_, err := configuration.Parse(edited(t, comment, lines+comment), "../../docs")
		return err
	}
	for _, tc := range []struct{ why, policy, want string }{
		{"nothing", "{}", "line 23: app org.example.app: attestation must hold android or ios"},
		{"a word that is none", "{ios: {mode: maybe, teamID: ABCDE12345, bundleIDs: [a.b]}}", "app org.example.app: attestation.ios.mode must be one of required, optional, off"},
		{"all at once", "{ios: {}}", "attestation.ios.teamID must be"},
		{"all at once, the other", "{ios: {}}", "attestation.ios.bundleIDs must name"},
		{"a misspelled field", "{ios: {team: ABCDE12345}}", `there is no field "team" here`},
		{"an age without a unit", "{android: {maxAge: 10}}", "a duration must look like"},
	} {
		if err := read("    attestation: " + tc.policy + "\n"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.why, err, tc.want)
		}
	}
}

func TestAttestationNotes(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	for _, tc := range []struct {
		why  string
		edit []string
		want []string
	}{
		{"both platforms, required", nil, nil},
		{"one is not listed", []string{"    #   ios", "    #   none"}, []string{"app org.example.app: attestation does not list ios, so all its phones are refused: list it as optional while it is not ready"}},
		{"for development", []string{"{teamID", "{environment: development, teamID"}, []string{"app org.example.app: attestation.ios.environment development is for development only, and not followed in production"}},
	} {
		plan, err := configuration.Diff(t.Context(), o.DB, o.attesting(tc.edit...), configuration.KeepOthers, o.now)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, tc.why, append([]string(nil), plan.Notes...), tc.want...)
	}
}

// What the page for operators shows is accepted as it stands there.
func TestDocumentedPolicy(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(page)
	if found == nil {
		t.Fatal("the page shows no policy")
	}
	if _, err := configuration.Parse(found[1], t.TempDir()); err != nil {
		t.Errorf("%v\n%s", err, found[1])
	}
}
