// Package vendors asks Google and Apple about proofs that only they can judge.
//
// Each question is bounded in time and size, asked again once or twice when the
// vendor stumbles, and not asked at all for a while when it is down.
package vendors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/errs"
)

// Settings are all that devices are judged with: here, and by Google and Apple,
// where they are accounts.
type Settings struct {
	Here attestation.Settings

	GoogleCredentials string `envconfig:"PLAY_INTEGRITY_CREDENTIALS" desc:"secret; JSON of the service account that may open standard Play Integrity tokens, or the word default for the account of the platform that this runs on; empty: no standard tokens"`
	GoogleEndpoint    string `envconfig:"PLAY_INTEGRITY_ENDPOINT" desc:"development only: URL that is asked in place of Google's"`

	AppleKey      string `envconfig:"APPLE_DEVICECHECK_KEY" desc:"secret; PEM of the key (.p8) with which DeviceCheck is asked; empty: no DeviceCheck"`
	AppleKeyID    string `envconfig:"APPLE_DEVICECHECK_KEY_ID" desc:"the ten characters by which Apple knows that key"`
	AppleTeam     string `envconfig:"APPLE_TEAM_ID" desc:"the ten characters of the team that the key belongs to; the teamID of policies with devicecheck must be the same"`
	AppleEndpoint string `envconfig:"APPLE_DEVICECHECK_ENDPOINT" desc:"development only: URL that is asked in place of Apple's"`
}

// Deps are what the questions need.
type Deps struct {
	HTTP *http.Client // nil: a client of its own

	// Tokens are of the account at Google; nil: that of the settings.
	Tokens oauth2.TokenSource

	Now             func() time.Time
	DevelopmentOnly func(name string, set bool) error
}

// NewVerifier gives a verifier that asks Google and Apple what it cannot judge
// itself. It asks nobody yet.
func NewVerifier(ctx context.Context, s Settings, d Deps) (*attestation.Verifier, error) {
	asked, err := Open(ctx, s, d)
	if err != nil {
		return nil, err
	}
	return attestation.New(s.Here, asked)
}

// Open gives a verifier's dependencies: a client for each vendor that the
// settings have an account at. It asks nobody.
func Open(ctx context.Context, s Settings, d Deps) (_ attestation.Deps, err error) {
	defer errs.Wrap(&err, "vendors.Open")
	found := attestation.Deps{DevelopmentOnly: d.DevelopmentOnly}
	if err := s.check(d.DevelopmentOnly); err != nil {
		return found, err
	}
	google, err := newGoogle(ctx, s, d)
	if err != nil {
		return found, err
	}
	apple, err := newApple(s, d)
	if err != nil {
		return found, err
	}
	if google != nil { // a nil pointer in an interface is not nil
		found.Google = google
	}
	if apple != nil {
		found.Apple = apple
	}
	return found, nil
}

// check refuses in production to believe anybody but Google and Apple.
func (s Settings) check(developmentOnly func(name string, set bool) error) error {
	for _, e := range []struct{ name, url string }{
		{"PLAY_INTEGRITY_ENDPOINT", s.GoogleEndpoint},
		{"APPLE_DEVICECHECK_ENDPOINT", s.AppleEndpoint},
	} {
		if err := developmentOnly(e.name, e.url != ""); err != nil {
			return err
		}
		if u, err := url.Parse(e.url); e.url != "" && (err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http")) {
			return fmt.Errorf("%s must be a URL such as http://127.0.0.1:8080", e.name)
		}
	}
	return nil
}

// maxAnswer bounds what is read of an answer. Real ones have 2 KiB.
const maxAnswer = 64 << 10

// client asks one vendor.
type client struct {
	http    *http.Client
	breaker *breaker
}

func newClient(d Deps) client {
	c := http.Client{}
	if d.HTTP != nil {
		c = *d.HTTP
	}
	// An answer that sends us elsewhere would take the proof there.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client{http: &c, breaker: &breaker{now: d.Now}}
}

// post sends one question. An error means that there is no whole answer.
func (c client) post(ctx context.Context, url, bearer string, question any) (status int, answer []byte, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+bearer)
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(answer) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	return res.StatusCode, answer, err
}

// errOpen is a question that was not asked.
var errOpen = errors.New("not asked: the last questions failed")

// guarded asks unless the vendor is down, and notes how it went. A refusal is a
// vendor that works.
func (c client) guarded(ask func() error) error {
	if !c.breaker.allows() {
		return attestation.Unavailable(errOpen)
	}
	err := ask()
	c.breaker.note(err == nil || errs.KindOf(err) == errs.KindDenied || errors.Is(err, context.Canceled))
	return err
}

// inTime gives the error of an operation, where running out of time is one that
// passes.
func inTime(err error) error {
	ended := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if ended && !errors.Is(err, attestation.ErrUnavailable) {
		return attestation.Unavailable(err)
	}
	return err
}

// unescaped gives a text its line breaks back, which get lost on the way into
// an environment.
func unescaped(text string) []byte { return []byte(strings.ReplaceAll(text, `\n`, "\n")) }

// passes tells whether a status is a failure that passes by itself.
func passes(status int) bool {
	return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
}
