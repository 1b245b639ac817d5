package attestation

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// playKeys open classic tokens. The keys of the package "" are for all.
type playKeys struct {
	decryption   map[string][][]byte
	verification map[string][]*ecdsa.PublicKey

	// foreign counts the tokens in a row that no key opened.
	foreign atomic.Int32
}

// enoughForeign tokens in a row, and our keys are the likelier culprits.
const enoughForeign = 20

// errForeign is a token that was not encrypted for us.
var errForeign = errors.New("no key opens it")

// decodeWithin bounds a question to Google, retries included.
const decodeWithin = 5 * time.Second

// playIntegrity judges a token of either kind. They look alike: where both are
// accepted, a token that our keys do not open is Google's to open.
func (v *Verifier) playIntegrity(ctx context.Context, token string, digest Digest, a *Android, now time.Time) (Kind, error) {
	both := accepts(a.Kinds, PlayIntegrityClassic) && accepts(a.Kinds, PlayIntegrityStandard)
	switch {
	case accepts(a.Kinds, PlayIntegrityClassic):
		verdict, err := v.play.open(token, a.Packages)
		if errors.Is(err, errForeign) && both {
			break
		}
		if err != nil {
			return PlayIntegrityClassic, v.play.blame(err)
		}
		v.play.foreign.Store(0)
		return PlayIntegrityClassic, verdict.checkClassic(digest, a, now)
	case !accepts(a.Kinds, PlayIntegrityStandard):
		return "", Refused("this app accepts no proof that looks like this one")
	}
	verdict, err := v.decode(ctx, token, a, now)
	if err != nil {
		return PlayIntegrityStandard, err
	}
	return PlayIntegrityStandard, verdict.checkStandard(digest, a, now)
}

// open decrypts a classic token with one of our keys and verifies it with
// another.
func (k *playKeys) open(token string, packages []string) (playVerdict, error) {
	if !k.have(packages) {
		return playVerdict{}, noPlayKeys(packages)
	}
	if compressed(token) {
		return playVerdict{}, Refused("it is compressed, which Google's tokens are not")
	}
	sealed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.A256KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return playVerdict{}, Refused("it is not a JWE with A256KW and A256GCM")
	}
	signed, err := decrypt(sealed, of(k.decryption, packages))
	if err != nil {
		return playVerdict{}, err
	}
	payload, err := verifySigned(signed, of(k.verification, packages))
	if err != nil {
		return playVerdict{}, err
	}
	return parsePlay(payload)
}

// have tells whether there are keys for some packages.
func (k *playKeys) have(packages []string) bool {
	return len(of(k.decryption, packages)) > 0 && len(of(k.verification, packages)) > 0
}

func noPlayKeys(packages []string) error {
	return Misconfigured("the policy accepts %s: set PLAY_INTEGRITY_DECRYPTION_KEY and PLAY_INTEGRITY_VERIFICATION_KEY for %s",
		PlayIntegrityClassic, strings.Join(packages, ", "))
}

// opens tells whether a token is a classic one of ours, without judging it.
func (k *playKeys) opens(token string, packages []string) bool {
	_, err := k.open(token, packages)
	return !errors.Is(err, errForeign)
}

// of gives the keys of some packages, and those for all.
func of[K any](keys map[string][]K, packages []string) (all []K) {
	for _, p := range packages {
		all = append(all, keys[p]...)
	}
	return append(all, keys[""]...)
}

// compressed looks at the header before the library does: it would inflate ten
// times what was sent.
func compressed(token string) bool {
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var header map[string]json.RawMessage
	if err != nil || json.Unmarshal(raw, &header) != nil {
		return false // the library says what is wrong with it
	}
	_, zip := header["zip"]
	return zip
}

func decrypt(sealed *jose.JSONWebEncryption, keys [][]byte) (string, error) {
	for _, key := range keys {
		if text, err := sealed.Decrypt(key); err == nil {
			return string(text), nil
		}
	}
	return "", errForeign
}

func verifySigned(text string, keys []*ecdsa.PublicKey) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, Refused("what it encrypts is not a JWS with ES256")
	}
	for _, key := range keys {
		if payload, err := signed.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, Refused("its signature does not verify")
}

// blame says whose fault a token is that nothing opened: a phone's, or, when
// none was opened for long, ours.
func (k *playKeys) blame(err error) error {
	if !errors.Is(err, errForeign) {
		return err
	}
	if n := k.foreign.Add(1); n >= enoughForeign {
		return Misconfigured("PLAY_INTEGRITY_DECRYPTION_KEY has not opened any of the last %d tokens: compare it with the Play Console", n)
	}
	return Refused("it is not encrypted with the key of this app")
}

func noGoogle() error {
	return Misconfigured("the policy accepts %s: set PLAY_INTEGRITY_CREDENTIALS", PlayIntegrityStandard)
}

// decode lets Google open a token, or remembers what Google said: asked twice,
// Google does not judge.
func (v *Verifier) decode(ctx context.Context, token string, a *Android, now time.Time) (playVerdict, error) {
	if v.google == nil {
		return playVerdict{}, noGoogle()
	}
	if len(a.Packages) != 1 {
		return playVerdict{}, Misconfigured("Google can be asked about one package, and the policy has %d", len(a.Packages))
	}
	question := sha256.Sum256([]byte(a.Packages[0] + "|" + token))
	// Two tries of the same upload at once share one question, which must not
	// end because one of them hangs up.
	done := v.flight.DoChan(string(question[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decodeWithin)
		defer cancel()
		return v.askGoogle(ctx, question, a.Packages[0], token, now)
	})
	select {
	case r := <-done:
		verdict, _ := r.Val.(playVerdict)
		return verdict, r.Err
	case <-ctx.Done():
		return playVerdict{}, Unavailable(ctx.Err())
	}
}

func (v *Verifier) askGoogle(ctx context.Context, question name, app, token string, now time.Time) (playVerdict, error) {
	if known, ok := v.decoded.get(question, now); ok {
		return known, nil
	}
	payload, err := v.google.Decode(ctx, app, token)
	if err != nil {
		return playVerdict{}, err
	}
	verdict, err := parsePlay(payload)
	if err != nil {
		return playVerdict{}, Unavailable(errors.New("google's answer cannot be read"))
	}
	v.decoded.put(question, verdict, now)
	return verdict, nil
}
