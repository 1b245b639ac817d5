package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
)

// proofs is how many are judged in each repetition.
const proofs = 1000

// attestation measures what it costs to judge the proof of a device where nobody
// is asked: so much more an upload costs. It is measured by itself, since in the
// service it would get lost in the rest of the upload.
func (b *bench) attestation(ctx context.Context) error {
	l, err := newLaboratory()
	if err != nil {
		return err
	}
	g := b.report.group("attestation", "judging the proof of the device of one upload, where neither Google nor Apple is asked")
	for _, w := range []way{
		{"Play Integrity classic", apiv1.PlatformAndroid, l.classic, elliptic.P256()},
		{"App Attest", apiv1.PlatformIOS, l.appAttest, elliptic.P384()},
	} {
		f := g.figure(w.name, "CPU ms", atMost(0.5)).beside("verify one ECDSA signature of " + w.curve.Params().Name)
		for n := range b.repeats + 1 {
			b.say("attestation: %s, %d of %d", w.name, n, b.repeats)
			judged, err := l.judge(ctx, w)
			if err != nil {
				return err
			}
			plain, err := plainVerify(w.curve)
			if err != nil {
				return err
			}
			if n > 0 { // the first warms up
				f.add(each(judged, proofs))
				f.plain(each(plain, proofs))
			}
		}
	}
	return nil
}

// way is a way to prove that a device is genuine.
type way struct {
	name, platform string
	prove          func(attestation.Digest, time.Time) (string, error)
	curve          elliptic.Curve // of its last signature
}

// laboratory makes proofs, and believes them.
type laboratory struct {
	app      forge.App
	google   *forge.Google
	apple    *forge.Apple
	policy   attestation.Policy
	verifier *attestation.Verifier
}

func newLaboratory() (_ *laboratory, err error) {
	l := &laboratory{app: forge.NewApp()}
	if l.google, err = forge.NewGoogle(); err != nil {
		return nil, err
	}
	if l.apple, err = forge.NewApple(l.app.TeamID, time.Now); err != nil {
		return nil, err
	}
	if l.policy, err = l.app.Policy(); err != nil {
		return nil, err
	}
	l.policy.Android.Kinds = []attestation.Kind{attestation.PlayIntegrityClassic}
	l.policy.IOS.Kinds = []attestation.Kind{attestation.AppAttest}
	var s attestation.Settings
	if err := l.google.Trust(&s); err != nil {
		return nil, err
	}
	l.apple.Trust(&s)
	anything := func(string, bool) error { return nil }
	l.verifier, err = attestation.New(s, attestation.Deps{DevelopmentOnly: anything})
	return l, err
}

func (l *laboratory) classic(d attestation.Digest, now time.Time) (string, error) {
	return l.google.Classic(l.app, d, now)
}

func (l *laboratory) appAttest(d attestation.Digest, now time.Time) (string, error) {
	return l.apple.Proof(l.app, d, now)
}

// judge takes the time of judging, each proof once and one after the other.
func (l *laboratory) judge(ctx context.Context, w way) (time.Duration, error) {
	now := time.Now()
	digests, made := make([]attestation.Digest, proofs), make([]string, proofs)
	for i := range proofs {
		_, _ = rand.Read(digests[i][:]) // never fails: see crypto/rand
		var err error
		if made[i], err = w.prove(digests[i], now); err != nil {
			return 0, err
		}
	}
	meter, err := startMeter(ownTime)
	if err != nil {
		return 0, err
	}
	for i, proof := range made {
		if _, err := l.verifier.Verify(ctx, w.platform, proof, digests[i], l.policy, now); err != nil {
			return 0, err
		}
	}
	return meter.used()
}

// plainVerify takes the time of verifying as many signatures and nothing else.
func plainVerify(curve elliptic.Curve) (time.Duration, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return 0, err
	}
	hash := make([]byte, curve.Params().BitSize/8)
	signature, err := ecdsa.SignASN1(rand.Reader, key, hash)
	if err != nil {
		return 0, err
	}
	meter, err := startMeter(ownTime)
	if err != nil {
		return 0, err
	}
	for range proofs {
		if !ecdsa.VerifyASN1(&key.PublicKey, hash, signature) {
			panic("what we signed ourselves is not as we did")
		}
	}
	return meter.used()
}
