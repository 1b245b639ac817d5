package publish

import (
	"context"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/store"
)

// askWithin bounds what an upload waits for Google or Apple. With the waits for
// the database before and after, it is answered within eight seconds.
const askWithin = 5 * time.Second

// asks tells whether only a vendor can judge the proof of a device.
func (s *Service) asks(t attempt) bool {
	return t.app.policy != nil && s.devices.Asks(t.req.DeclaredPlatform, t.req.DeviceProof, *t.app.policy)
}

// attest judges the proof of the device as the app's policy wants it. Without a
// vendor to ask it only calculates, and may be done again for a repetition.
func (s *Service) attest(ctx context.Context, t attempt) (store.Attestation, error) {
	if t.app.policy == nil {
		return store.AttestationNone, nil
	}
	digest := attestation.DigestOf(t.req.App, t.req.Keys, t.req.Certificate)
	verdict, err := s.devices.Verify(ctx, t.req.DeclaredPlatform, t.req.DeviceProof, digest, *t.app.policy, t.now)
	return counted(verdict), err
}

// counted is what statistics keep of a verdict.
func counted(v attestation.Verdict) store.Attestation {
	switch {
	case v.Doubt != nil:
		return store.AttestationDoubtful
	case v.Genuine():
		return store.AttestationGenuine
	}
	return store.AttestationNone
}

// addAsking is add for an upload whose proof a vendor has to judge. Vendors
// judge a proof once, so a repetition must be known for one before; all that
// could fail without them is done before as well.
func (s *Service) addAsking(ctx, soon context.Context, t attempt, up judged) (Outcome, error) {
	out, known, err := s.repeated(soon, t, up)
	if known || err != nil {
		return out, err
	}
	asking, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	up.fact.Attestation, err = s.attest(asking, t)

	late, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err != nil {
		return s.unproved(late, t, up, err)
	}
	return s.add(late, t, up)
}

// unproved looks at an upload once more whose proof does not count, or could
// not be judged: if it has been stored, its proof was good then, and has only
// become too old since.
func (s *Service) unproved(ctx context.Context, t attempt, up judged, failure error) (Outcome, error) {
	out, known, err := s.repeated(ctx, t, up)
	if known || err != nil {
		return out, err
	}
	return s.again(ctx, t, up, failure)
}
