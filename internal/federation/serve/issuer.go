package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/errs"
)

const (
	// keysAge is after how long an issuer's keys are read again: one that is
	// no longer published is refused that soon.
	keysAge = 15 * time.Minute

	// keysPause is between two attempts to read them, whoever asks for it: a
	// token with an unknown key costs its sender nothing.
	keysPause = 10 * time.Second

	// keysTime bounds one attempt, discovery included.
	keysTime = 5 * time.Second

	// maxDocument is more than issuers publish.
	maxDocument = 512 << 10

	// minRSA is the least size of an RSA key, in bits.
	minRSA = 2048
)

// issuer knows the keys that an issuer signs with. It asks no address but that
// which the configuration gives, and that which is published there. While the
// issuer is down it keeps what it knew last.
type issuer struct {
	url    string
	remote Fetcher
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex // guards what follows
	keys    []jose.JSONWebKey
	readAt  time.Time // zero: never
	triedAt time.Time
	failure error // of the last attempt
}

func newIssuer(url string, remote Fetcher, now func() time.Time) *issuer {
	return &issuer{url: url, remote: remote, now: now}
}

// verify gives what a token says, if one of the issuer's keys signed it. An
// error of another kind than Denied means that nobody could tell.
func (i *issuer) verify(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms())
	if err != nil {
		return nil, refused("it cannot be read")
	}
	keys, err := i.current(ctx)
	if err != nil {
		return nil, err
	}
	if payload, ok := verified(signed, keys); ok {
		return payload, nil
	}
	// A key that we do not know may be a new one.
	if err := i.refresh(ctx); err != nil {
		return nil, err
	}
	keys, _ = i.known()
	if payload, ok := verified(signed, keys); ok {
		return payload, nil
	}
	return nil, refused("no key of its issuer has signed it")
}

// verified tries the keys that a token may be signed with.
func verified(signed *jose.JSONWebSignature, keys []jose.JSONWebKey) (payload []byte, ok bool) {
	id := signed.Signatures[0].Header.KeyID
	for _, k := range keys {
		if id != "" && k.KeyID != id {
			continue
		}
		if payload, err := signed.Verify(k); err == nil {
			return payload, true
		}
	}
	return nil, false
}

func (i *issuer) known() (keys []jose.JSONWebKey, readAt time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys, i.readAt
}

// current gives the keys, read again if they are old. An error means that they
// were never read.
func (i *issuer) current(ctx context.Context) ([]jose.JSONWebKey, error) {
	keys, readAt := i.known()
	if !readAt.IsZero() && i.now().Sub(readAt) < keysAge {
		return keys, nil
	}
	err := i.refresh(ctx)
	if keys, readAt = i.known(); readAt.IsZero() {
		return nil, err
	}
	return keys, nil
}

// refresh reads the keys, unless that was tried just now: then it gives what
// came of it. All who ask at the same time share one attempt.
func (i *issuer) refresh(ctx context.Context) error {
	done := i.flight.DoChan("", func() (any, error) {
		if paused, failure := i.paused(); paused {
			return nil, failure
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTime)
		defer cancel()
		keys, err := i.read(ctx)
		return nil, i.keep(ctx, keys, err)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (i *issuer) paused() (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.now().Sub(i.triedAt).Abs() < keysPause, i.failure
}

// keep remembers what an attempt came to.
func (i *issuer) keep(ctx context.Context, keys []jose.JSONWebKey, err error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.triedAt, i.failure = i.now(), nil
	if err == nil {
		i.keys, i.readAt = keys, i.triedAt
		return nil
	}
	slog.WarnContext(ctx, "an issuer's keys could not be read: those known last stay", "issuer", i.url, "error", err)
	i.failure = errs.From(err, errs.Internal, "issuer_unreachable", "the issuer of the token could not be asked now, try again later")
	return i.failure
}

// read asks the issuer where its keys are, and for them.
func (i *issuer) read(ctx context.Context) ([]jose.JSONWebKey, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := i.get(ctx, strings.TrimSuffix(i.url, "/")+"/.well-known/openid-configuration", &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer != i.url {
		return nil, errors.New("its discovery document is another issuer's: configure the issuer exactly as that has it")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.get(ctx, discovery.Keys, &set); err != nil {
		return nil, err
	}
	return usable(set.Keys), nil
}

func (i *issuer) get(ctx context.Context, url string, into any) error {
	body, err := i.remote.Get(ctx, url, maxDocument)
	if err != nil {
		return err
	}
	if json.Unmarshal(body, into) != nil {
		return errors.New("what it publishes is not JSON as OpenID Connect has it")
	}
	return nil
}

// usable leaves out keys that a token may not be signed with, and those that
// cannot be read: they take nothing away but themselves.
func usable(raw []json.RawMessage) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, text := range raw {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(text) == nil && k.Use != "enc" && signs(k.Key) {
			keys = append(keys, k)
		}
	}
	return keys
}

// signs tells whether a public key is one of RS256 or ES256.
func signs(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256()
	default:
		return false
	}
}
