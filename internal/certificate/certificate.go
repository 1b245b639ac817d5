// Package certificate tells whether the word of a health authority may be
// believed: a diagnosis certificate (JWT) that covers the keys of an upload,
// or a request for statistics. It is pure.
//
// Errors name the broken rule and nothing of what the caller sent.
package certificate

import (
	"crypto/ecdsa"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// Key is a public key of an authority. Parsing PEM costs more than verifying
// a signature, so whoever holds an Authority parses once.
type Key struct {
	Version string // the "kid" of certificates signed with it
	Public  *ecdsa.PublicKey
	From    time.Time // first instant at which it is valid; zero: always was
	Thru    time.Time // first instant at which it no longer is; zero: for ever
}

// Authority is who may sign, and for whom.
type Authority struct {
	Issuer   string
	Audience string // the one audience that its certificates must name
	Keys     []Key
}

// Claims are what a verified certificate says.
type Claims struct {
	Issuer string
	Report exposure.Report
	Onset  exposure.Interval // of the first symptom; 0: not said

	// Expires is when the certificate stops being valid, or a year from now if
	// that is sooner: its keys are refused for their age long before.
	Expires time.Time
}

// maxExpiry bounds Claims.Expires, so that an absurd date harms nobody who
// stores it.
const maxExpiry = 365 * 24 * time.Hour

// Verify tells what a certificate says, if it holds for the keys that were
// sent with it.
//
// authorities are those, by issuer, whose certificates the app may send. hmacKey
// is the secret with which the phone made the HMAC that the authority signed;
// it ties the certificate to these keys and no others.
//
// Whatever is wrong, the error is errs.Denied with the code
// "health_authority_verification_certificate_invalid".
func Verify(jwt string, authorities map[string]Authority, sent []exposure.Submitted, hmacKey []byte, now time.Time) (Claims, error) {
	c, broken := verify(jwt, authorities, sent, hmacKey, now)
	if broken != "" {
		return Claims{}, errs.Denied("health_authority_verification_certificate_invalid", "the verification certificate is refused: %s", broken)
	}
	return c, nil
}

func verify(jwt string, authorities map[string]Authority, sent []exposure.Submitted, hmacKey []byte, now time.Time) (_ Claims, broken rule) {
	body, broken := open(jwt, authorities, now)
	if broken != "" {
		return Claims{}, broken
	}
	if broken := body.checkAudience(authorities[body.Issuer].Audience); broken != "" {
		return Claims{}, broken
	}
	report, ok := exposure.ParseReport(body.Report)
	if !ok {
		return Claims{}, "its reportType is not one of confirmed, likely, negative, user-report"
	}
	if !covers(body.MAC, sent, hmacKey) {
		return Claims{}, "its tekmac is not the HMAC of these keys with this hmacKey"
	}
	return Claims{
		Issuer:  body.Issuer,
		Report:  report,
		Onset:   exposure.Interval(body.Onset),
		Expires: earlier(body.ExpiresAt.Time, now.Add(maxExpiry)),
	}, ""
}

// VerifyStats tells which authority asks for its statistics. header is the
// value of the Authorization header; audience is what the server calls itself
// there, and without one everybody is refused. Whether the authority may read
// statistics is the caller's question.
//
// Whatever is wrong, the error is errs.Denied with the code "unauthorized".
func VerifyStats(header string, authorities map[string]Authority, audience string, now time.Time) (issuer string, err error) {
	issuer, broken := verifyStats(header, authorities, audience, now)
	if broken != "" {
		return "", errs.Denied("unauthorized", "the Authorization header is refused: %s", broken)
	}
	return issuer, nil
}

func verifyStats(header string, authorities map[string]Authority, audience string, now time.Time) (issuer string, broken rule) {
	token, ok := bearer(header)
	if !ok {
		return "", "it must be Bearer and a token"
	}
	body, broken := open(token, authorities, now)
	if broken != "" {
		return "", broken
	}
	if broken := body.checkAudience(audience); broken != "" {
		return "", broken
	}
	return body.Issuer, ""
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
