package attestation_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure/entest"
)

const code = "device_attestation_invalid"

// lab is a phone, the vendors that vouch for it and a verifier that believes
// them.
type lab struct {
	google *forge.Google
	apple  *forge.Apple
	app    forge.App
	policy attestation.Policy
	now    time.Time
	digest attestation.Digest
	*attestation.Verifier
}

func anything(string, bool) error { return nil }

// production refuses what is for development only.
func production(name string, set bool) error {
	if set {
		return errors.New(name + " must not be set in production")
	}
	return nil
}

func newLab(t testing.TB) *lab {
	t.Helper()
	now := entest.Noon()
	l := &lab{
		google: must(forge.NewGoogle()),
		app:    forge.NewApp(),
		now:    now,
		digest: attestation.DigestOf("org.example.app", entest.Upload(1, 14, now), "certificate"),
	}
	l.apple = must(forge.NewApple(l.app.TeamID, func() time.Time { return now }))
	l.policy = must(l.app.Policy())
	l.Verifier = l.verifier(t, func(*attestation.Settings, *attestation.Deps) {})
	return l
}

// verifier is one that believes this lab; edit changes what the test is about.
func (l *lab) verifier(t testing.TB, edit func(*attestation.Settings, *attestation.Deps)) *attestation.Verifier {
	t.Helper()
	google, apple := httptest.NewServer(l.google), httptest.NewServer(l.apple)
	t.Cleanup(google.Close)
	t.Cleanup(apple.Close)
	accounts := vendors.Settings{GoogleEndpoint: google.URL}
	must(0, l.apple.Account(&accounts, apple.URL))
	deps := must(vendors.Open(t.Context(), accounts, vendors.Deps{
		Tokens: l.google.Tokens(), Now: func() time.Time { return l.now }, DevelopmentOnly: anything,
	}))
	var settings attestation.Settings
	must(0, l.google.Trust(&settings))
	l.apple.Trust(&settings)
	edit(&settings, &deps)
	return must(attestation.New(settings, deps))
}

// android and ios give copies of the policy's sections to change.
func (l *lab) android(edits ...func(*attestation.Android)) attestation.Policy {
	a := *l.policy.Android
	for _, edit := range edits {
		edit(&a)
	}
	return attestation.Policy{Android: &a, IOS: l.policy.IOS}
}

func (l *lab) ios(edits ...func(*attestation.IOS)) attestation.Policy {
	i := *l.policy.IOS
	for _, edit := range edits {
		edit(&i)
	}
	return attestation.Policy{Android: l.policy.Android, IOS: &i}
}

func only(kinds ...attestation.Kind) func(*attestation.Android) {
	return func(a *attestation.Android) { a.Kinds = kinds }
}

func onlyIOS(kinds ...attestation.Kind) func(*attestation.IOS) {
	return func(i *attestation.IOS) { i.Kinds = kinds }
}

// verify judges at the lab's time, for the lab's upload.
func (l *lab) verify(platform, proof string, p attestation.Policy) (attestation.Verdict, error) {
	return l.Verify(context.Background(), platform, proof, l.digest, p, l.now)
}

func wantKind(t *testing.T, got attestation.Verdict, err error, want attestation.Kind) {
	t.Helper()
	if err != nil || got.Kind != want || !got.Genuine() {
		t.Errorf("got %+v, %v, want a genuine device by %s", got, err, want)
	}
}

// wantRefused also looks for what must not be in an error: any stretch of what
// was sent.
func wantRefused(t *testing.T, err error, rule, sent string) {
	t.Helper()
	if errs.KindOf(err) != errs.KindDenied || errs.CodeOf(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	if !strings.Contains(err.Error(), rule) {
		t.Errorf("the error is %q, want the rule about %q", err, rule)
	}
	wantSilent(t, err, sent)
}

func wantSilent(t *testing.T, err error, sent string) {
	t.Helper()
	for i := 0; i+16 <= len(sent); i += 16 {
		if strings.Contains(err.Error(), sent[i:i+16]) {
			t.Fatalf("the error repeats what was sent: %v", err)
		}
	}
}

// wantRetry is a failure of ours, for which no upload is lost.
func wantRetry(t *testing.T, err, cause error) {
	t.Helper()
	if err == nil || errs.KindOf(err) != errs.Internal || errs.CodeOf(err) != "internal_error" {
		t.Fatalf("got %v, want an error that passes", err)
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("got %v, want it to be: %v", err, cause)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
