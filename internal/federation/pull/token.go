package pull

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"google.golang.org/api/idtoken"

	"enkeyserver/internal/store"
)

const (
	// spare is how long before its end a token is used no more.
	spare = time.Minute

	// maxToken is more than real tokens have, and less than servers take as a
	// header.
	maxToken = 16 << 10
)

// bearer puts a token into a call, and never into one that others can read.
type bearer struct {
	token  string
	secure bool // only development on one machine goes without
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// source gives tokens that tell a neighbour who we are.
type source interface {
	// token gives one that is good for now.
	token(ctx context.Context) (string, error)

	// forget drops a token that was refused, and reports whether the next may
	// be another one.
	forget() bool
}

// tokens keeps the source of each neighbour, and so its token, from run to run.
type tokens struct {
	deps      Deps
	plaintext bool
	http      *http.Client

	mu      sync.Mutex
	sources map[proof]source
}

// proof is all of a neighbour's configuration that decides about its tokens.
type proof struct {
	kind                                store.TokenKind
	audience, file, url, client, secret string
}

func newTokens(s Settings, d Deps) (*tokens, error) {
	roots, err := trusted(s.TokenCAFile)
	if err != nil {
		return nil, fmt.Errorf("FEDERATION_TOKEN_CA_FILE: %w", err)
	}
	client := &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
		// A secret goes where the configuration says, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &tokens{deps: d, plaintext: s.Plaintext, http: client, sources: map[proof]source{}}, nil
}

// trusted are the system's roots and those of a file; no file: nil, which means
// the system's.
func trusted(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return roots, nil
}

// source is the one that a neighbour's configuration asks for.
func (t *tokens) source(p store.PullConfig) (source, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := proof{p.TokenKind, p.Audience, p.TokenFile, p.TokenURL, p.ClientID, p.ClientSecret}
	if s, ok := t.sources[key]; ok {
		return s, nil
	}
	s, err := t.open(p)
	if err == nil {
		t.sources[key] = s
	}
	return s, err
}

func (t *tokens) open(p store.PullConfig) (source, error) {
	switch p.TokenKind {
	case store.TokenFromFile:
		return fileTokens(p.TokenFile), nil
	case store.TokenFromGoogle:
		return &googleTokens{audience: p.Audience}, nil
	case store.TokenFromClient:
		u, err := url.Parse(p.TokenURL)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && !(u.Scheme == "http" && t.plaintext && loopback(u.Hostname())) {
			return nil, errOf("its token.clientCredentials.tokenURL must begin with https:// and name a host")
		}
		return &clientTokens{tokens: t, config: p}, nil
	}
	return nil, errOf("this program knows no tokens of the kind %q", p.TokenKind)
}

// fileTokens reads a token that somebody else keeps fresh, as Kubernetes does
// with projected tokens, each time that one is needed.
type fileTokens string

func (f fileTokens) token(context.Context) (string, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return "", errOf("its token.file cannot be read: %s", reason(err))
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err != nil {
		return "", errOf("its token.file cannot be read: %s", reason(err))
	}
	token := string(bytes.TrimSpace(content))
	if !oneWord(token) {
		return "", errOf("its token.file must hold one token and nothing else")
	}
	return token, nil
}

func (fileTokens) forget() bool { return false }

// reason is what went wrong with a file, without its name.
func reason(err error) string {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err.Error()
	}
	return "unknown"
}

// oneWord tells whether a text can be a token: what RFC 6750 lets stand in a
// header.
func oneWord(text string) bool {
	return len(text) <= maxToken && wordOfToken.MatchString(text)
}

var wordOfToken = regexp.MustCompile(`^[A-Za-z0-9\-._~+/]+=*$`)

// googleTokens asks Google for ID tokens of the service account that this
// program runs as: the metadata server, or the file that
// GOOGLE_APPLICATION_CREDENTIALS names. The library keeps a token until shortly
// before its end.
type googleTokens struct {
	audience string

	mu     sync.Mutex
	tokens oauth2.TokenSource
}

func (g *googleTokens) token(ctx context.Context) (string, error) {
	type answer struct {
		token *oauth2.Token
		err   error
	}
	answered := make(chan answer, 1)
	go func() { // the library does not know of ctx
		token, err := g.next(context.WithoutCancel(ctx))
		answered <- answer{token, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return "", errOf("Google gives no ID token: does this program run as a service account?")
		}
		return a.token.AccessToken, nil // the ID token, whatever the field is called
	case <-ctx.Done():
		return "", errOf("Google gave no ID token in time")
	}
}

func (g *googleTokens) next(ctx context.Context) (*oauth2.Token, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tokens == nil {
		tokens, err := idtoken.NewTokenSource(ctx, g.audience)
		if err != nil {
			return nil, err
		}
		g.tokens = tokens
	}
	return g.tokens.Token()
}

func (g *googleTokens) forget() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens = nil
	return true
}

// clientTokens fetches tokens with a client's secret (RFC 6749, section 4.4),
// and keeps one until shortly before its end.
type clientTokens struct {
	*tokens
	config store.PullConfig

	mu    sync.Mutex
	kept  string
	until time.Time
}

func (c *clientTokens) token(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept != "" && c.deps.Now().Before(c.until) {
		return c.kept, nil
	}
	secret, err := c.deps.Resolve(ctx, c.config.ClientSecret)
	if err != nil {
		return "", fmt.Errorf("its token.clientCredentials.clientSecret: %w", err)
	}
	asked := c.deps.Now()
	answer, err := c.fetch(ctx, secret)
	if err != nil {
		return "", err
	}
	token, err := idToken(answer)
	if err != nil {
		return "", err
	}
	c.kept, c.until = token, endOf(token, answer, asked).Add(-spare)
	return token, nil
}

func (c *clientTokens) fetch(ctx context.Context, secret string) (*oauth2.Token, error) {
	config := clientcredentials.Config{
		ClientID: c.config.ClientID, ClientSecret: secret, TokenURL: c.config.TokenURL,
	}
	if c.config.Audience != "" {
		config.EndpointParams = url.Values{"audience": {c.config.Audience}}
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, c.http))
	var refusal *oauth2.RetrieveError
	switch {
	case err == nil:
		return token, nil
	case errors.As(err, &refusal):
		return nil, errOf("the server of its tokens answered %d%s", refusal.Response.StatusCode, codeOf(refusal))
	case errors.As(err, new(*url.Error)):
		return nil, errOf("no connection to the server of its tokens: %s", whyUnreachable(err))
	}
	return nil, errOf("the server of its tokens gave an answer without a token")
}

// codeOf is the error's code of RFC 6749, if it is one.
func codeOf(refusal *oauth2.RetrieveError) string {
	if !errorCode.MatchString(refusal.ErrorCode) {
		return ""
	}
	return " (" + refusal.ErrorCode + ")"
}

var errorCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

// idToken is the ID token of an answer, and otherwise the access token of those
// that give nothing else, if that is a JWT too: the neighbour must be able to
// read who we are.
func idToken(answer *oauth2.Token) (string, error) {
	if id, ok := answer.Extra("id_token").(string); ok && isJWT(id) {
		return id, nil
	}
	if isJWT(answer.AccessToken) {
		return answer.AccessToken, nil
	}
	return "", errOf("the server of its tokens gives neither an ID token nor an access token that is a JWT")
}

func isJWT(token string) bool { return oneWord(token) && strings.Count(token, ".") == 2 }

// endOf is when a token ends, by what is said of it; zero: at once. The answer
// tells by our clock, the token by that of its issuer: the earlier counts.
func endOf(token string, answer *oauth2.Token, asked time.Time) (end time.Time) {
	if answer.ExpiresIn > 0 {
		end = asked.Add(time.Duration(min(answer.ExpiresIn, 24*60*60)) * time.Second)
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil || json.Unmarshal(body, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return end
	}
	if exp := time.Unix(int64(claims.Exp), 0); end.IsZero() || exp.Before(end) {
		return exp
	}
	return end
}

func (c *clientTokens) forget() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.kept != ""
	c.kept = ""
	return kept
}
