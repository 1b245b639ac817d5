package certificate

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxSize bounds a token before anything of it is read. Deployed ones have
// less than a thousand bytes.
const maxSize = 8192

// skew is how far the authority's clock may be ahead of ours: a certificate is
// used seconds after it was signed. Expiry knows no such grace.
const skew = 5 * time.Second

// rule says in plain words which rule a token breaks; empty is none. It is not
// an error so that nothing of the token, which errors of parsers quote, can
// travel with it.
type rule string

func (r rule) Error() string { return string(r) }

const notJWT rule = "it is not a JWT"

// body is the payload of a token.
type body struct {
	jwt.RegisteredClaims
	MAC    string `json:"tekmac,omitempty"`
	Report string `json:"reportType,omitempty"`
	Onset  onset  `json:"symptomOnsetInterval,omitempty"`
}

// open gives the payload of a token that was signed by one of the authorities
// and is valid now. The audience is not checked.
func open(token string, authorities map[string]Authority, now time.Time) (*body, rule) {
	if len(token) > maxSize {
		return nil, "it is too long"
	}
	if strings.ContainsAny(token, "\r\n") { // which base64 decoders skip
		return nil, notJWT
	}
	b := &body{}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithStrictDecoding(),
		// The library's claim errors quote nothing either, but its leeway
		// covers expiry too.
		jwt.WithoutClaimsValidation(),
	)
	_, err := parser.ParseWithClaims(token, b, func(t *jwt.Token) (any, error) {
		a, listed := authorities[b.Issuer]
		if !listed {
			return nil, rule("its issuer is not a health authority of this app")
		}
		return signingKey(t.Header, a, now)
	})
	if err != nil {
		return nil, brokenBy(err)
	}
	return b, b.checkTimes(now)
}

// brokenBy finds the rule in what the library tells.
func brokenBy(err error) rule {
	var ours rule
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.Is(err, jwt.ErrTokenMalformed):
		return notJWT
	default:
		return "its signature does not verify, or is not ES256"
	}
}

// signingKey chooses the key that the header names, out of the authority that
// the issuer claim names. Nothing is believed yet: both only choose among keys
// that we trust.
func signingKey(header map[string]any, a Authority, now time.Time) (*ecdsa.PublicKey, error) {
	if header["typ"] != "JWT" {
		return nil, rule("its typ is not JWT")
	}
	if _, critical := header["crit"]; critical {
		return nil, rule("it has critical extensions, and none is known here")
	}
	kid, ok := header["kid"].(string)
	if !ok || kid == "" {
		return nil, rule("it has no kid")
	}
	for _, k := range a.Keys {
		if k.Version == kid && k.validAt(now) && k.Public != nil {
			return k.Public, nil
		}
	}
	return nil, rule("its kid is not a valid key of its issuer now")
}

func (k Key) validAt(now time.Time) bool {
	return (k.From.IsZero() || !now.Before(k.From)) && (k.Thru.IsZero() || now.Before(k.Thru))
}

func (b *body) checkTimes(now time.Time) rule {
	if b.ExpiresAt == nil {
		return "it has no exp"
	}
	if !now.Before(b.ExpiresAt.Time) {
		return "it has expired"
	}
	if b.NotBefore != nil && b.NotBefore.After(now.Add(skew)) {
		return "it is not valid yet (nbf)"
	}
	if b.IssuedAt != nil && b.IssuedAt.After(now.Add(skew)) {
		return "it was issued in the future (iat)"
	}
	return ""
}

// checkAudience asks for exactly one audience. A token for somebody else too
// could be used by them here.
func (b *body) checkAudience(want string) rule {
	if want == "" || len(b.Audience) != 1 || b.Audience[0] != want {
		return "its audience is not this server"
	}
	return ""
}

// bearer takes the token out of an Authorization header.
func bearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// onset reads an interval number. One that no clock ever showed counts as not
// said, like one that lies too far back.
type onset int32

// UnmarshalJSON takes any JSON number.
func (o *onset) UnmarshalJSON(raw []byte) error {
	var n float64
	if err := json.Unmarshal(raw, &n); err != nil {
		return rule("its symptomOnsetInterval is not a number")
	}
	*o = 0
	if n == math.Trunc(n) && n > 0 && n <= math.MaxInt32 {
		*o = onset(n)
	}
	return nil
}
