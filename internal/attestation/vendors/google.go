package vendors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sethvargo/go-retry"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"enkeyserver/internal/attestation"
)

const (
	googleHost  = "https://playintegrity.googleapis.com"
	googleScope = "https://www.googleapis.com/auth/playintegrity"

	// defaultAccount names the account of the platform, in the settings.
	defaultAccount = "default"

	googleTries = 3
	googleWait  = 150 * time.Millisecond // before the second try; then twice as long
	googleTime  = 2 * time.Second        // for one try
)

// playIntegrity lets Google open standard tokens. It implements
// attestation.Decoder.
type playIntegrity struct {
	client
	host   string
	tokens oauth2.TokenSource
}

// newGoogle gives nil when there is no account.
func newGoogle(ctx context.Context, s Settings, d Deps) (*playIntegrity, error) {
	g := &playIntegrity{client: newClient(d), host: googleHost, tokens: d.Tokens}
	if s.GoogleEndpoint != "" {
		g.host = strings.TrimRight(s.GoogleEndpoint, "/")
	}
	if g.tokens == nil {
		var err error
		if g.tokens, err = account(ctx, s.GoogleCredentials); err != nil || g.tokens == nil {
			return nil, err
		}
	}
	return g, nil
}

// account gives the tokens of a service account, or nil without one.
func account(ctx context.Context, credentials string) (oauth2.TokenSource, error) {
	if credentials == "" {
		return nil, nil
	}
	// The account lives as long as the process, and a question for its token
	// must not outlast the upload that needs it by much.
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, &http.Client{Timeout: googleTime})
	if credentials == defaultAccount {
		found, err := google.FindDefaultCredentials(ctx, googleScope)
		if err != nil {
			return nil, errors.New("PLAY_INTEGRITY_CREDENTIALS is default, but this platform gives no account")
		}
		return found.TokenSource, nil
	}
	config, err := google.JWTConfigFromJSON([]byte(credentials), googleScope)
	if err != nil {
		return nil, errors.New("PLAY_INTEGRITY_CREDENTIALS must be the JSON of a service account, or the word default")
	}
	return config.TokenSource(ctx), nil
}

// Decode gives the verdict in a token.
func (g *playIntegrity) Decode(ctx context.Context, packageName, token string) (verdict []byte, err error) {
	err = g.guarded(func() error {
		verdict, err = g.decode(ctx, packageName, token)
		return err
	})
	return verdict, err
}

func (g *playIntegrity) decode(ctx context.Context, packageName, token string) (verdict []byte, err error) {
	backoff := retry.WithMaxRetries(googleTries-1, retry.WithJitterPercent(25, retry.NewExponential(googleWait)))
	err = retry.Do(ctx, backoff, func(ctx context.Context) error {
		verdict, err = g.try(ctx, packageName, token)
		if errors.Is(err, attestation.ErrUnavailable) {
			return retry.RetryableError(err)
		}
		return err
	})
	return verdict, inTime(err)
}

func (g *playIntegrity) try(ctx context.Context, packageName, token string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, googleTime)
	defer cancel()
	access, err := g.token(ctx)
	if err != nil {
		return nil, err
	}
	question := map[string]string{"integrityToken": token}
	status, answer, err := g.post(ctx, g.host+"/v1/"+url.PathEscape(packageName)+":decodeIntegrityToken", access, question)
	if err != nil {
		return nil, attestation.Unavailable(err)
	}
	return googleAnswer(status, answer)
}

// token waits no longer for a token than for an answer; the source knows no
// context.
func (g *playIntegrity) token(ctx context.Context) (string, error) {
	type result struct {
		token *oauth2.Token
		err   error
	}
	done := make(chan result, 1)
	go func() {
		token, err := g.tokens.Token()
		done <- result{token, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return "", accountError(r.err)
		}
		return r.token.AccessToken, nil
	case <-ctx.Done():
		return "", attestation.Unavailable(errors.New("google's account server does not answer"))
	}
}

// accountError tells an account that was refused from one that could not be
// asked for. What the server wrote may hold the key's name: it stays here.
func accountError(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response != nil && !passes(refused.Response.StatusCode) {
		return attestation.Misconfigured("PLAY_INTEGRITY_CREDENTIALS: google refuses the account with status %d", refused.Response.StatusCode)
	}
	return attestation.Unavailable(errors.New("google gives no token for the account now"))
}

// googleAnswer tells what an answer means.
func googleAnswer(status int, answer []byte) ([]byte, error) {
	switch {
	case status == http.StatusOK:
		return payloadOf(answer)
	case status == http.StatusBadRequest && googleStatus(answer) == "INVALID_ARGUMENT":
		return nil, attestation.Refused("Google cannot open it for this app")
	case passes(status):
		return nil, attestation.Unavailable(fmt.Errorf("google answers with status %d", status))
	}
	return nil, attestation.Misconfigured("google answers %d %s: see that the Play Integrity API is on, and that the account belongs to the project that is linked to the app",
		status, googleStatus(answer))
}

func payloadOf(answer []byte) ([]byte, error) {
	var body struct {
		Payload json.RawMessage `json:"tokenPayloadExternal"`
	}
	if json.Unmarshal(answer, &body) != nil || len(body.Payload) == 0 {
		return nil, attestation.Unavailable(errors.New("google's answer cannot be read"))
	}
	return body.Payload, nil
}

// googleStatus gives the word for an error, if it is one word.
func googleStatus(answer []byte) string {
	var body struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	word := ""
	if json.Unmarshal(answer, &body) == nil {
		word = body.Error.Status
	}
	if len(word) > 40 || strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return ""
	}
	return word
}
