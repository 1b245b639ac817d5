package serve

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/metadata"

	"enkeyserver/internal/errs"
)

const (
	// leeway is for clocks that differ.
	leeway = time.Minute

	// maxToken is longer than the tokens of all known issuers.
	maxToken = 8 << 10
)

// algorithms are those that a token may be signed with: no shared secrets, and
// not none.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.ES256}
}

// refused is what every token that is not believed is answered with. The
// reason is for the operator: told to the caller, it would say who our
// neighbours are.
func refused(reason string) error {
	return errs.From(reasonError(reason), errs.KindDenied, "unauthenticated",
		"the ID token in the metadata authorization is not accepted: it must be of an agreed issuer, subject and audience, and in time")
}

type reasonError string

func (r reasonError) Error() string { return string(r) }

// caller tells who asks, by the ID token in the request's metadata.
func (s *Service) caller(ctx context.Context) (caller, error) {
	token, ok := bearer(ctx)
	if !ok {
		return caller{}, refused("there is not exactly one token")
	}
	list, err := s.peers.current(ctx)
	if err != nil {
		return caller{}, err
	}
	// What an unverified token says decides only whom it would have to be of.
	// Nobody is asked about a token of strangers.
	said, ok := peek(token)
	if !ok {
		return caller{}, refused("it is no token that is signed with RS256 or ES256")
	}
	c, ok := list.match(said)
	if !ok {
		return caller{}, refused("no neighbour has its issuer, subject and audience")
	}
	return c, c.believe(ctx, token, s.now())
}

// bearer gives the token of a request, if there is exactly one.
func bearer(ctx context.Context) (string, bool) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 || len(values[0]) > maxToken {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return token, ok && strings.EqualFold(scheme, "Bearer")
}

// claims are what a token says that decides who sent it.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
}

// audience is one or several.
type audience []string

// UnmarshalJSON reads a text or a list.
func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}

// peek reads a token without believing it.
func peek(token string) (c claims, ok bool) {
	signed, err := jose.ParseSignedCompact(token, algorithms())
	if err != nil {
		return claims{}, false
	}
	return c, json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &c) == nil
}

// believe checks that a token is this neighbour's: its issuer signed it, for
// this subject and audience, and it is in time.
func (c caller) believe(ctx context.Context, token string, now time.Time) error {
	keys := &question{issuer: c.issuer}
	verifier := oidc.NewVerifier(c.Issuer, keys, &oidc.Config{
		ClientID:             c.Audience,
		SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256},
		SkipExpiryCheck:      true, // see inTime, which knows more
	})
	verified, err := verifier.Verify(ctx, token)
	switch {
	case keys.err != nil:
		return keys.err
	case err != nil:
		return refused("its issuer or audience is another one, or its claims cannot be read")
	case verified.Subject != c.Subject:
		return refused("its subject is another one")
	default:
		return inTime(verified, now)
	}
}

// inTime checks the times of a token. It must end.
func inTime(token *oidc.IDToken, now time.Time) error {
	var begins struct {
		NotBefore float64 `json:"nbf"`
	}
	switch err := token.Claims(&begins); {
	case err != nil:
		return refused("its nbf is not a time")
	case token.Expiry.IsZero():
		return refused("it never expires")
	case !now.Before(token.Expiry.Add(leeway)):
		return refused("it has expired")
	case token.IssuedAt.After(now.Add(leeway)):
		return refused("it was issued in the future")
	case begins.NotBefore > float64(now.Add(leeway).Unix()):
		return refused("it is not valid yet")
	default:
		return nil
	}
}

// question asks an issuer's keys about one token, and keeps the answer: the
// library gives only its text.
type question struct {
	issuer *issuer
	err    error
}

// VerifySignature makes it an oidc.KeySet.
func (q *question) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, q.err = q.issuer.verify(ctx, token)
	return payload, q.err
}
