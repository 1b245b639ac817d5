package attestation_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/config"
	"enkeyserver/internal/errs"
)

// Who may upload without a proof, and who may not whatever it claims to be.
func TestModes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	android, ios := l.policy.Android, l.policy.IOS
	in := func(m attestation.Mode) *attestation.Android {
		a := *android
		a.Mode = m
		return &a
	}
	for _, tc := range []struct {
		why      string
		platform string
		proof    string
		policy   attestation.Policy
		rule     string // refused
		doubt    string
	}{
		{"no policy", "android", "", attestation.Policy{}, "", ""},
		{"no policy, no platform", "", "noise", attestation.Policy{}, "", ""},
		{"required", "android", "", attestation.Policy{Android: android}, "missing", ""},
		{"required, wrong", "ANDROID", "noise", attestation.Policy{Android: android}, "JWE", ""},
		{"required on iOS", "iOS", "", attestation.Policy{IOS: ios}, "missing", ""},
		{"a mode that nobody set is strict", "android", "", attestation.Policy{Android: &attestation.Android{}}, "missing", ""},
		{"a policy that nobody completed believes nobody", "android", "a.b.c", attestation.Policy{Android: &attestation.Android{}}, "accepts no proof", ""},
		{"the same on iOS", "ios", "AAAA", attestation.Policy{IOS: &attestation.IOS{}}, "accepts no kind", ""},
		{"optional, missing", "android", "", attestation.Policy{Android: in(attestation.Optional)}, "", "missing"},
		{"optional, wrong", "android", "noise", attestation.Policy{Android: in(attestation.Optional)}, "", "JWE"},
		{"off", "android", "noise", attestation.Policy{Android: in(attestation.Off)}, "", ""},
		{"no platform, to get around it", "", "", attestation.Policy{Android: android}, "platform", ""},
		{"another platform, to get around it", "ios", "", attestation.Policy{Android: android}, "platform", ""},
		{"another platform, not listed, nothing required", "ios", "", attestation.Policy{Android: in(attestation.Optional)}, "", ""},
		{"another platform that is off", "android", "", attestation.Policy{Android: in(attestation.Off), IOS: ios}, "", ""},
		{"a platform that there is not", "windows", "", l.policy, "platform", ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := l.verify(tc.platform, tc.proof, tc.policy)
			if tc.rule != "" {
				wantRefused(t, err, tc.rule, tc.proof)
				return
			}
			if err != nil || got.Genuine() {
				t.Errorf("got %+v, %v, want no proof and no error", got, err)
			}
			if (got.Doubt != nil) != (tc.doubt != "") || (got.Doubt != nil && !strings.Contains(got.Doubt.Error(), tc.doubt)) {
				t.Errorf("got the doubt %v, want %q", got.Doubt, tc.doubt)
			}
		})
	}
	optional := attestation.Policy{Android: in(attestation.Optional)}
	got, err := l.verify("android", must(l.google.Classic(l.app, l.digest, l.now)), optional)
	wantKind(t, got, err, attestation.PlayIntegrityClassic)
}

// A kind that the policy does not accept proves nothing.
func TestKindsThatAreNotAccepted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	classic := must(l.google.Classic(l.app, l.digest, l.now))
	standard := must(l.google.Standard(l.app, l.digest, l.now))
	safetyNet := must(l.google.SafetyNet(l.app, l.digest, l.now))
	for _, tc := range []struct {
		proof, platform string
		policy          attestation.Policy
	}{
		{classic, "android", l.android(only(attestation.PlayIntegrityStandard))},
		{classic, "android", l.android(only(attestation.SafetyNet))},
		{standard, "android", l.android(only(attestation.PlayIntegrityClassic))},
		{standard, "android", l.android(only(attestation.PlayIntegrityClassic, attestation.SafetyNet))},
		{safetyNet, "android", l.android(only(attestation.PlayIntegrityClassic))},
		{safetyNet, "android", l.android(only(attestation.PlayIntegrityClassic, attestation.PlayIntegrityStandard))},
		{must(l.apple.Proof(l.app, l.digest, l.now)), "ios", l.ios(onlyIOS(attestation.DeviceCheck))},
		{l.apple.DeviceToken(), "ios", l.ios(onlyIOS(attestation.AppAttest))},
	} {
		_, err := l.verify(tc.platform, tc.proof, tc.policy)
		wantRefused(t, err, "", tc.proof)
	}
}

// In production nobody but Google and Apple is believed.
func TestProduction(t *testing.T) {
	t.Parallel()
	google, apple := must(forge.NewGoogle()), must(forge.NewApple("ABCDE12345", time.Now))
	var test attestation.Settings
	must(0, google.Trust(&test))
	apple.Trust(&test)
	deps := attestation.Deps{DevelopmentOnly: production}
	for variable, s := range map[string]attestation.Settings{
		"APP_ATTEST_ROOTS": {AppAttestRoots: test.AppAttestRoots},
		"SAFETYNET_ROOTS":  {SafetyNetRoots: test.SafetyNetRoots},
	} {
		if _, err := attestation.New(s, deps); err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("%s: got %v, want it refused", variable, err)
		}
	}
	test.AppAttestRoots, test.SafetyNetRoots = "", ""
	if _, err := attestation.New(test, deps); err != nil {
		t.Errorf("keys of the Play Console are refused: %v", err)
	}
	for variable, s := range map[string]vendors.Settings{
		"PLAY_INTEGRITY_ENDPOINT":    {GoogleEndpoint: "http://127.0.0.1"},
		"APPLE_DEVICECHECK_ENDPOINT": {AppleEndpoint: "http://127.0.0.1"},
	} {
		_, err := vendors.Open(t.Context(), s, vendors.Deps{Now: time.Now, DevelopmentOnly: production})
		if err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("%s: got %v, want it refused", variable, err)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	var good attestation.Settings
	google := must(forge.NewGoogle())
	must(0, google.Trust(&good))
	for _, tc := range []struct {
		variable string
		edit     func(*attestation.Settings)
	}{
		{"PLAY_INTEGRITY_DECRYPTION_KEY", func(s *attestation.Settings) { s.PlayDecryptionKey = "c2hvcnQ=" }},
		{"PLAY_INTEGRITY_DECRYPTION_KEY", func(s *attestation.Settings) { s.PlayDecryptionKey = "org.example.app:!" }},
		{"PLAY_INTEGRITY_DECRYPTION_KEY", func(s *attestation.Settings) { s.PlayDecryptionKey = "" }},
		{"PLAY_INTEGRITY_VERIFICATION_KEY", func(s *attestation.Settings) { s.PlayVerificationKey = "" }},
		{"PLAY_INTEGRITY_VERIFICATION_KEY", func(s *attestation.Settings) { s.PlayVerificationKey = s.PlayDecryptionKey }},
		{"APP_ATTEST_ROOTS", func(s *attestation.Settings) { s.AppAttestRoots = "noise" }},
		{"APP_ATTEST_ROOTS", func(s *attestation.Settings) { s.AppAttestRoots = attestation.AppleRoot() + "noise" }},
		{"SAFETYNET_ROOTS", func(s *attestation.Settings) {
			s.SafetyNetRoots = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
		}},
	} {
		s := good
		tc.edit(&s)
		_, err := attestation.New(s, attestation.Deps{DevelopmentOnly: anything})
		if err == nil || !strings.Contains(err.Error(), tc.variable) {
			t.Errorf("got %v, want a problem with %s", err, tc.variable)
			continue
		}
		wantSilent(t, err, s.PlayDecryptionKey)
	}
	good.AppAttestRoots = strings.ReplaceAll(attestation.AppleRoot(), "\n", `\n`)
	if _, err := attestation.New(good, attestation.Deps{DevelopmentOnly: anything}); err != nil {
		t.Errorf("PEM without line breaks: %v", err)
	}
	// Without anything, a policy that needs keys is an operator's mistake.
	empty := must(attestation.New(attestation.Settings{}, attestation.Deps{DevelopmentOnly: production}))
	l := newLab(t)
	_, err := empty.Verify(t.Context(), "android", must(google.Classic(l.app, l.digest, l.now)), l.digest, l.policy, l.now)
	wantRetry(t, err, attestation.ErrMisconfigured)
	wantRetry(t, empty.Lacks(l.policy), attestation.ErrMisconfigured) // before the first upload
	if err := l.Lacks(l.policy); err != nil {
		t.Errorf("with all keys and accounts: %v", err)
	}
	if err := empty.Lacks(attestation.Policy{}); err != nil {
		t.Errorf("without a policy: %v", err)
	}
}

func TestSettingsCanBeRead(t *testing.T) {
	t.Parallel()
	var all vendors.Settings
	want := []string{
		"PLAY_INTEGRITY_DECRYPTION_KEY", "PLAY_INTEGRITY_VERIFICATION_KEY", "APP_ATTEST_ROOTS", "SAFETYNET_ROOTS",
		"PLAY_INTEGRITY_CREDENTIALS", "PLAY_INTEGRITY_ENDPOINT",
		"APPLE_DEVICECHECK_KEY", "APPLE_DEVICECHECK_KEY_ID", "APPLE_TEAM_ID", "APPLE_DEVICECHECK_ENDPOINT",
	}
	if diff := cmp.Diff(want, must(config.Names(&all))); diff != "" {
		t.Errorf("the variables (-want +got):\n%s", diff)
	}
}

// However many proofs come, what is remembered is bounded, and ends.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	v := l.verifier(t, func(_ *attestation.Settings, d *attestation.Deps) { d.Apple = yes{} })
	token := l.apple.DeviceToken()
	upload := func(n int, now time.Time) {
		var digest attestation.Digest
		binary.BigEndian.PutUint64(digest[:], uint64(n))
		got, err := v.Verify(t.Context(), "ios", token, digest, l.policy, now)
		wantKind(t, got, err, attestation.DeviceCheck)
	}
	for n := range attestation.RememberMax + 100 {
		upload(n, l.now)
	}
	if _, n := v.Remembered(); n != attestation.RememberMax {
		t.Errorf("%d answers are remembered, want %d", n, attestation.RememberMax)
	}
	upload(0, l.now.Add(time.Hour))
	if _, n := v.Remembered(); n != 1 {
		t.Errorf("%d answers are remembered after an hour, want 1", n)
	}
}

// The rule against errors that tell too much, for the helpers that others use.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	wantRefused(t, attestation.Refused("it is %d", 1), "it is 1", "")
	cause := errs.NotFound("x", "y")
	wantRetry(t, attestation.Unavailable(cause), attestation.ErrUnavailable)
	wantRetry(t, attestation.Misconfigured("set %s", "X"), attestation.ErrMisconfigured)
	if text := errs.MessageOf(attestation.Misconfigured("set %s", "X")); strings.Contains(text, "X") {
		t.Errorf("the phone reads %q", text)
	}
}
