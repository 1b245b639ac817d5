package attestation_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"enkeyserver/internal/attestation"
)

const fingerprint = "8ea99812a8bda94be951ed75a8c7f7bf6a3a54440cfb934379ed9bcf4c5dcd67"

// shortest is as little as an operator can write.
const shortest = `
android:
  packages: [org.example.app]
  certificates:
    - 8E:A9:98:12:A8:BD:A9:4B:E9:51:ED:75:A8:C7:F7:BF:6A:3A:54:44:0C:FB:93:43:79:ED:9B:CF:4C:5D:CD:67
ios:
  teamID: ABCDE12345
  bundleIDs: [org.example.App]
`

func parseYAML(t *testing.T, text string) attestation.Policy {
	t.Helper()
	var p attestation.Policy
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	got := must(parseYAML(t, shortest).Checked())
	want := attestation.Policy{
		Android: &attestation.Android{
			Mode: attestation.Required, Kinds: []attestation.Kind{attestation.PlayIntegrityClassic},
			Packages: []string{"org.example.app"}, Certificates: []string{fingerprint},
			Device: attestation.Device, MaxAge: attestation.Duration(10 * time.Minute),
		},
		IOS: &attestation.IOS{
			Mode: attestation.Required, Kinds: []attestation.Kind{attestation.AppAttest},
			TeamID: "ABCDE12345", BundleIDs: []string{"org.example.App"}, Environment: attestation.Production,
			Sources: []attestation.Source{attestation.FromAppStore}, OnUnavailable: attestation.Retry,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the policy (-want +got):\n%s", diff)
	}
	if names := got.Weaknesses(); len(names) > 0 {
		t.Errorf("it is weak: %v", names)
	}
	if diff := cmp.Diff(got, got.Strict()); diff != "" {
		t.Errorf("production changes it:\n%s", diff)
	}
}

// What is stored is read as the same, and checked once more it stays the same.
func TestPolicyIsStored(t *testing.T) {
	t.Parallel()
	written := must(parseYAML(t, shortest).Checked())
	read := must(attestation.ParsePolicy(must(json.Marshal(written))))
	if diff := cmp.Diff(written, read); diff != "" {
		t.Errorf("through JSON:\n%s", diff)
	}
	if diff := cmp.Diff(written, parseYAML(t, string(must(yaml.Marshal(written))))); diff != "" {
		t.Errorf("through YAML:\n%s", diff)
	}
	none := must(attestation.ParsePolicy([]byte(`{}`)))
	if diff := cmp.Diff(attestation.Policy{}, none); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{``, `null x`, `[]`, `{"andriod":{}}`, `{"ios":{"teamID":"ABCDE12345","bundleIDs":["a.b"],"more":1}}`, `{}{}`, `{} x`, `{"android":{}}`} {
		if p, err := attestation.ParsePolicy([]byte(wrong)); err == nil {
			t.Errorf("%s was read as %+v", wrong, p)
		}
	}
}

func TestPolicyChecks(t *testing.T) {
	t.Parallel()
	type android = attestation.Android
	type ios = attestation.IOS
	for _, tc := range []struct {
		why     string
		android func(*android)
		ios     func(*ios)
		problem string // empty: accepted
	}{
		{why: "as it should be"},
		{why: "digits without colons", android: func(a *android) { a.Certificates = []string{fingerprint} }},
		{why: "base64", android: func(a *android) { a.Certificates = []string{"jqmYEqi9qUvpUe11qMf3v2o6VEQM+5NDee2bz0xdzWc="} }},
		{why: "base64url", android: func(a *android) { a.Certificates = []string{"jqmYEqi9qUvpUe11qMf3v2o6VEQM-5NDee2bz0xdzWc"} }},
		{why: "off needs nothing", android: func(a *android) { *a = android{Mode: attestation.Off} }, ios: func(i *ios) { *i = ios{Mode: attestation.Off} }},

		{why: "mode", android: func(a *android) { a.Mode = "on" }, problem: "android.mode"},
		{why: "kind", android: func(a *android) { a.Kinds = []attestation.Kind{attestation.AppAttest} }, problem: "android.kinds"},
		{why: "kind twice", android: func(a *android) {
			a.Kinds = []attestation.Kind{attestation.PlayIntegrityClassic, attestation.PlayIntegrityClassic}
		}, problem: "twice"},
		{why: "no package", android: func(a *android) { a.Packages = nil }, problem: "android.packages"},
		{why: "package", android: func(a *android) { a.Packages = []string{"org/example"} }, problem: "android.packages"},
		{why: "two packages and Google's decoder", android: func(a *android) {
			a.Packages, a.Kinds = []string{"a.b", "a.c"}, []attestation.Kind{attestation.PlayIntegrityStandard}
		}, problem: "only one"},
		{why: "no certificate", android: func(a *android) { a.Certificates = nil }, problem: "android.certificates"},
		{why: "SHA-1", android: func(a *android) { a.Certificates = []string{fingerprint[:40]} }, problem: "number 1"},
		{why: "the same certificate in two forms", android: func(a *android) {
			a.Certificates = []string{fingerprint, strings.ToUpper(fingerprint)}
		}, problem: "twice"},
		{why: "device", android: func(a *android) { a.Device = "any" }, problem: "android.device"},
		{why: "too short", android: func(a *android) { a.MaxAge = attestation.Duration(time.Second) }, problem: "android.maxAge"},
		{why: "too long", android: func(a *android) { a.MaxAge = attestation.Duration(25 * time.Hour) }, problem: "android.maxAge"},
		{why: "negative", android: func(a *android) { a.MaxAge = -1 }, problem: "android.maxAge"},
		{why: "team", ios: func(i *ios) { i.TeamID = "abc" }, problem: "ios.teamID"},
		{why: "no bundle", ios: func(i *ios) { i.BundleIDs = nil }, problem: "ios.bundleIDs"},
		{why: "bundle with the team", ios: func(i *ios) { i.BundleIDs = []string{"*"} }, problem: "ios.bundleIDs"},
		{why: "environment", ios: func(i *ios) { i.Environment = "sandbox" }, problem: "ios.environment"},
		{why: "source", ios: func(i *ios) { i.Sources = []attestation.Source{"store"} }, problem: "ios.sources"},
		{why: "unavailability", ios: func(i *ios) { i.OnUnavailable = "deny" }, problem: "ios.onUnavailable"},
		{why: "kind of iOS", ios: func(i *ios) { i.Kinds = []attestation.Kind{attestation.SafetyNet} }, problem: "ios.kinds"},
	} {
		p := parseYAML(t, shortest)
		if tc.android != nil {
			tc.android(p.Android)
		}
		if tc.ios != nil {
			tc.ios(p.IOS)
		}
		_, err := p.Checked()
		if (err == nil) != (tc.problem == "") || (err != nil && !strings.Contains(err.Error(), tc.problem)) {
			t.Errorf("%s: got %v, want a problem with %q", tc.why, err, tc.problem)
		}
	}
	_, err := attestation.Policy{Android: &android{Mode: "x", Device: "y"}, IOS: &ios{TeamID: "z"}}.Checked()
	for _, field := range []string{"android.mode", "android.device", "android.packages", "android.certificates", "ios.teamID", "ios.bundleIDs"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func TestPolicyInProduction(t *testing.T) {
	t.Parallel()
	p := parseYAML(t, shortest)
	p.Android.Mode, p.Android.TestResponses = attestation.Off, true
	p.IOS.Environment = attestation.Development
	p = must(p.Checked())
	if diff := cmp.Diff([]string{"attestation.android.mode off", "attestation.android.testResponses", "attestation.ios.environment development"}, p.Weaknesses()); diff != "" {
		t.Error(diff)
	}
	strict := p.Strict()
	if names := strict.Weaknesses(); len(names) > 0 {
		t.Errorf("still weak: %v", names)
	}
	if strict.Android.Mode != attestation.Required || strict.IOS.Sources[0] != attestation.FromAppStore || len(p.Weaknesses()) != 3 {
		t.Errorf("production makes it %+v, %+v", strict.Android, strict.IOS)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	var d attestation.Duration
	if err := d.UnmarshalText([]byte("600s")); err != nil || time.Duration(d) != 10*time.Minute {
		t.Errorf("got %v, %v", d, err)
	}
	if err := d.UnmarshalText([]byte("600")); err == nil {
		t.Error("a number without a unit was taken")
	}
}
