// Package attestation tells whether a device may be believed: that an upload
// comes from the health authority's own app, unchanged, on a real phone.
//
// The proofs are made by Google and Apple. Those that can be checked here are
// checked here; for the others the package asks through the interfaces of Deps.
// It stores nothing of a proof, and its errors repeat nothing of it.
package attestation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Limits of what is read of a proof, in characters. Real ones have half of it.
const (
	maxAndroid     = 16 << 10
	maxAppAttest   = 24 << 10
	maxDeviceCheck = 8 << 10
)

// What vendors said is remembered for a while: a phone that sends its upload
// again must not spend its proof twice.
const (
	remember    = 15 * time.Minute
	rememberMax = 4096 // answers of each vendor
)

// A Decoder lets Google open a token of Play Integrity.
type Decoder interface {
	// Decode gives the verdict, JSON as in tokenPayloadExternal. Its errors are
	// made by Refused, Unavailable and Misconfigured. It is called once a token
	// as far as possible, since Google judges a token only once.
	Decode(ctx context.Context, packageName, token string) ([]byte, error)
}

// A DeviceChecker asks Apple about a DeviceCheck token.
type DeviceChecker interface {
	// Check gives nil when the token was made by a genuine device with an app of
	// the team. Its errors are made by Refused, Unavailable and Misconfigured.
	Check(ctx context.Context, team string, in Environment, token string) error
}

// Deps are what a verifier works with.
type Deps struct {
	Google Decoder       // nil: there is none, and standard tokens cannot be opened
	Apple  DeviceChecker // nil: there is none, and DeviceCheck cannot be used

	// DevelopmentOnly refuses in production what must not be there; see
	// app.App.
	DevelopmentOnly func(name string, set bool) error
}

// Verifier checks proofs. It may be used by many goroutines.
type Verifier struct {
	play      *playKeys
	safetyNet *anchors
	appAttest *anchors

	google  Decoder
	decoded *memory[playVerdict]
	flight  singleflight.Group

	apple   DeviceChecker
	checked *memory[struct{}]
}

// New reads keys and roots. It asks nobody.
func New(s Settings, d Deps) (_ *Verifier, err error) {
	defer errs.Wrap(&err, "attestation.New")
	if err := s.check(d.DevelopmentOnly); err != nil {
		return nil, err
	}
	v := &Verifier{
		google: d.Google, decoded: newMemory[playVerdict](rememberMax, remember),
		apple: d.Apple, checked: newMemory[struct{}](rememberMax, remember),
	}
	if v.play, err = s.playKeys(); err != nil {
		return nil, err
	}
	if v.safetyNet, err = newAnchors("SAFETYNET_ROOTS", s.SafetyNetRoots, ""); err != nil {
		return nil, err
	}
	v.appAttest, err = newAnchors("APP_ATTEST_ROOTS", s.AppAttestRoots, appleRoot)
	return v, err
}

// Verdict is what became of a proof that did not cost the upload.
type Verdict struct {
	Kind Kind // how the device proved itself; empty: it did not have to, or did not try

	// Doubt is why the proof is not believed. Only a policy that is optional,
	// or that accepts what Apple cannot be asked about, has doubts: elsewhere
	// they are errors.
	Doubt error
}

// Genuine tells whether the device has proved itself.
func (v Verdict) Genuine() bool { return v.Kind != "" && v.Doubt == nil }

// Verify judges the proof that a phone sent with the upload of a digest.
// platform is what the phone says it is; the policy must have been Checked.
//
// A refusal is errs.KindDenied with the code "device_attestation_invalid", and
// final. Everything else is errs.Internal, and the phone may try again; the
// chain then holds ErrUnavailable, or ErrMisconfigured if an operator must act.
// The same proof may be sent again with the same upload, and with no other.
func (v *Verifier) Verify(ctx context.Context, platform, proof string, digest Digest, p Policy, now time.Time) (Verdict, error) {
	mode, judge := v.judge(platform, p)
	if mode == Off {
		return Verdict{}, nil
	}
	kind, err := judge(ctx, proof, digest, now)
	if err != nil && (mode == Optional || p.IOS.forgives(kind, err)) {
		return Verdict{Kind: kind, Doubt: err}, nil
	}
	if err != nil {
		return Verdict{}, err
	}
	return Verdict{Kind: kind}, nil
}

// Asks tells whether Verify would ask Google or Apple about this proof. That
// takes time, and spends the proof: whoever can tell a repetition should look
// for one before. It errs on the side of asking.
func (v *Verifier) Asks(platform, proof string, p Policy) bool {
	switch platform = strings.ToLower(platform); {
	case platform == apiv1.PlatformAndroid && p.Android != nil:
		return p.Android.Mode != Off && v.asksGoogle(proof, p.Android)
	case platform == apiv1.PlatformIOS && p.IOS != nil:
		return p.IOS.Mode != Off && asksApple(proof, p.IOS)
	}
	return false
}

func (v *Verifier) asksGoogle(proof string, a *Android) bool {
	if !accepts(a.Kinds, PlayIntegrityStandard) || measure(proof, maxAndroid) != nil || a.means(SafetyNet, proof) {
		return false
	}
	return !accepts(a.Kinds, PlayIntegrityClassic) || !v.play.opens(proof, a.Packages)
}

func asksApple(proof string, i *IOS) bool {
	if !accepts(i.Kinds, DeviceCheck) || measure(proof, maxAppAttest) != nil {
		return false
	}
	raw, err := exposure.DecodeBase64(proof)
	return err == nil && !(accepts(i.Kinds, AppAttest) && looksLikeAppAttest(raw))
}

// Lacks tells what a policy needs and this verifier was not given, in the words
// of ErrMisconfigured, or nil. A key that is there may still be a wrong one.
func (v *Verifier) Lacks(p Policy) error {
	var found []error
	if a := p.Android; a != nil && a.Mode != Off {
		found = append(found, v.lacksForAndroid(a)...)
	}
	if i := p.IOS; i != nil && i.Mode != Off && accepts(i.Kinds, DeviceCheck) && v.apple == nil {
		found = append(found, noApple())
	}
	return errors.Join(found...)
}

func (v *Verifier) lacksForAndroid(a *Android) (found []error) {
	if accepts(a.Kinds, PlayIntegrityClassic) && !v.play.have(a.Packages) {
		found = append(found, noPlayKeys(a.Packages))
	}
	if accepts(a.Kinds, PlayIntegrityStandard) && v.google == nil {
		found = append(found, noGoogle())
	}
	if accepts(a.Kinds, SafetyNet) {
		found = append(found, v.safetyNet.configured())
	}
	return found
}

func noApple() error {
	return Misconfigured("the policy accepts %s: set APPLE_DEVICECHECK_KEY, APPLE_DEVICECHECK_KEY_ID and APPLE_TEAM_ID", DeviceCheck)
}

// A judge of one policy's section.
type judge func(ctx context.Context, proof string, digest Digest, now time.Time) (Kind, error)

// judge chooses by what a phone says it is. Who claims to be something that the
// policy does not list must not get around what it lists.
func (v *Verifier) judge(platform string, p Policy) (Mode, judge) {
	platform = strings.ToLower(platform)
	switch {
	case platform == apiv1.PlatformAndroid && p.Android != nil:
		return p.Android.Mode, v.android(p.Android)
	case platform == apiv1.PlatformIOS && p.IOS != nil:
		return p.IOS.Mode, v.ios(p.IOS)
	case p.required():
		return Required, unlisted
	}
	return Off, nil
}

func unlisted(context.Context, string, Digest, time.Time) (Kind, error) {
	return "", Refused("platform must be android or ios, and one that this app supports")
}

// forgives tells whether an error is of the kind that the policy accepts.
func (i *IOS) forgives(kind Kind, err error) bool {
	return kind == DeviceCheck && i.OnUnavailable == Accept && errors.Is(err, ErrUnavailable)
}

func (v *Verifier) android(a *Android) judge {
	return func(ctx context.Context, proof string, digest Digest, now time.Time) (Kind, error) {
		if err := measure(proof, maxAndroid); err != nil {
			return "", err
		}
		if strings.Trim(proof, tokenAlphabet) != "" {
			return "", Refused("it has characters that no token has")
		}
		if a.means(SafetyNet, proof) {
			return SafetyNet, v.verifySafetyNet(proof, digest, a, now)
		}
		return v.playIntegrity(ctx, proof, digest, a, now)
	}
}

// tokenAlphabet is base64url, and the dots between the parts. Decoders would
// skip line breaks, so that one token had many texts.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// jwsDots are between the three parts of a JWS; a JWE has five.
const jwsDots = 2

// means tells whether a proof is to be read as that kind: the only one
// accepted, or the one that it looks like.
func (a *Android) means(kind Kind, proof string) bool {
	if len(a.Kinds) == 1 {
		return a.Kinds[0] == kind
	}
	return accepts(a.Kinds, kind) && strings.Count(proof, ".") == jwsDots
}

func (v *Verifier) ios(i *IOS) judge {
	return func(ctx context.Context, proof string, digest Digest, now time.Time) (Kind, error) {
		if err := measure(proof, maxAppAttest); err != nil {
			return "", err
		}
		raw, err := exposure.DecodeBase64(proof)
		if err != nil {
			return "", Refused("it is not base64")
		}
		switch {
		case accepts(i.Kinds, AppAttest) && (looksLikeAppAttest(raw) || !accepts(i.Kinds, DeviceCheck)):
			return AppAttest, verifyAttestation(raw, digest[:], i, v.appAttest, now)
		case accepts(i.Kinds, DeviceCheck):
			return DeviceCheck, v.deviceCheck(ctx, raw, digest, i, now)
		}
		return "", Refused("this app accepts no kind of proof")
	}
}

func accepts(kinds []Kind, kind Kind) bool { return slices.Contains(kinds, kind) }

func measure(proof string, limit int) error {
	if proof == "" {
		return Refused("deviceVerificationPayload is missing")
	}
	if len(proof) > limit {
		return Refused("deviceVerificationPayload has more than %d characters", limit)
	}
	return nil
}

// deviceCheck asks Apple, once an upload. The token is not bound to the upload,
// so with another upload it is another question.
func (v *Verifier) deviceCheck(ctx context.Context, token []byte, digest Digest, i *IOS, now time.Time) error {
	if v.apple == nil {
		return noApple()
	}
	text := base64.StdEncoding.EncodeToString(token)
	if len(text) > maxDeviceCheck {
		return Refused("the DeviceCheck token has more than %d characters", maxDeviceCheck)
	}
	question := sha256.Sum256([]byte(digest.Text() + "|" + i.TeamID + "|" + string(i.Environment) + "|" + text))
	if _, known := v.checked.get(question, now); known {
		return nil
	}
	if err := v.apple.Check(ctx, i.TeamID, i.Environment, text); err != nil {
		return err
	}
	v.checked.put(question, struct{}{}, now)
	return nil
}
