package vendors

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sethvargo/go-retry"

	"enkeyserver/internal/attestation"
)

const (
	appleHost            = "https://api.devicecheck.apple.com"
	appleDevelopmentHost = "https://api.development.devicecheck.apple.com"
	validatePath         = "/v1/validate_device_token"

	appleTries = 2 // Apple allows one repetition of a failed question
	appleWait  = 100 * time.Millisecond
	appleTime  = 2 * time.Second // for one try

	// identityAge is for how long Apple is told the same proof of who we are. It
	// must not be renewed too often, and ends after an hour.
	identityAge = 40 * time.Minute
)

// deviceCheck asks Apple about tokens. It implements attestation.DeviceChecker.
type deviceCheck struct {
	client
	hosts    map[attestation.Environment]string
	identity *identity
	now      func() time.Time
}

// newApple gives nil when there is no key.
func newApple(s Settings, d Deps) (*deviceCheck, error) {
	if s.AppleKey == "" {
		return nil, nil
	}
	if s.AppleKeyID == "" || s.AppleTeam == "" {
		return nil, errors.New("APPLE_DEVICECHECK_KEY needs APPLE_DEVICECHECK_KEY_ID and APPLE_TEAM_ID beside it")
	}
	signer, err := appleSigner(s.AppleKey, s.AppleKeyID)
	if err != nil {
		return nil, err
	}
	a := &deviceCheck{
		client:   newClient(d),
		hosts:    map[attestation.Environment]string{attestation.Production: appleHost, attestation.Development: appleDevelopmentHost},
		identity: &identity{signer: signer, team: s.AppleTeam, now: d.Now},
		now:      d.Now,
	}
	if s.AppleEndpoint != "" {
		host := strings.TrimRight(s.AppleEndpoint, "/")
		a.hosts = map[attestation.Environment]string{attestation.Production: host, attestation.Development: host}
	}
	return a, nil
}

func appleSigner(text, id string) (jose.Signer, error) {
	wrong := errors.New("APPLE_DEVICECHECK_KEY must be the PEM of a P-256 key in PKCS#8, as Apple's .p8 files hold it")
	block, _ := pem.Decode(unescaped(text))
	if block == nil {
		return nil, wrong
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, wrong
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, wrong
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
}

// Check asks whether a token comes from a genuine device with an app of the
// team.
func (a *deviceCheck) Check(ctx context.Context, team string, in attestation.Environment, token string) error {
	host, known := a.hosts[in]
	if !known || team != a.identity.team {
		return attestation.Misconfigured("the policy's teamID must be APPLE_TEAM_ID, and its environment production or development")
	}
	return a.guarded(func() error {
		backoff := retry.WithMaxRetries(appleTries-1, retry.NewConstant(appleWait))
		return inTime(retry.Do(ctx, backoff, func(ctx context.Context) error {
			err := a.ask(ctx, host, token)
			if errors.Is(err, attestation.ErrUnavailable) {
				return retry.RetryableError(err)
			}
			return err
		}))
	})
}

// ask puts the question, and again if Apple does not know us: perhaps the proof
// of who we are has just become too old.
func (a *deviceCheck) ask(ctx context.Context, host, token string) error {
	ctx, cancel := context.WithTimeout(ctx, appleTime)
	defer cancel()
	id, err := a.identity.current()
	if err != nil {
		return err
	}
	status, answer, err := a.question(ctx, host, id, token)
	if err == nil && status == http.StatusUnauthorized {
		if id, err = a.identity.after(id); err != nil {
			return err
		}
		status, answer, err = a.question(ctx, host, id, token)
	}
	if err != nil {
		return attestation.Unavailable(err)
	}
	return appleAnswer(status, answer)
}

// question is asked under a new name each time: Apple wants it so.
func (a *deviceCheck) question(ctx context.Context, host, id, token string) (int, []byte, error) {
	return a.post(ctx, host+validatePath, id, map[string]any{
		"device_token":   token,
		"transaction_id": rand.Text(),
		"timestamp":      a.now().UnixMilli(),
	})
}

// appleAnswer tells what an answer means. The body of a yes has no meaning, and
// of what is wrong Apple tells in words: only those about the device token are
// about the phone.
func appleAnswer(status int, answer []byte) error {
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusBadRequest && strings.Contains(strings.ToLower(string(answer)), "device token"):
		return attestation.Refused("Apple does not know the device token")
	case passes(status):
		return attestation.Unavailable(fmt.Errorf("apple answers with status %d", status))
	}
	return attestation.Misconfigured("apple answers DeviceCheck with status %d: compare APPLE_DEVICECHECK_KEY, APPLE_DEVICECHECK_KEY_ID and APPLE_TEAM_ID with the developer account, and the clock with the time", status)
}

// identity is the JWT that tells Apple who we are.
type identity struct {
	signer jose.Signer
	team   string
	now    func() time.Time

	mu   sync.Mutex
	text string
	made time.Time
}

func (i *identity) current() (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if age := i.now().Sub(i.made); i.text != "" && age >= 0 && age < identityAge {
		return i.text, nil
	}
	return i.make()
}

// after gives another one than that which Apple has just refused; somebody else
// may have made it meanwhile.
func (i *identity) after(refused string) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.text != refused {
		return i.text, nil
	}
	return i.make()
}

func (i *identity) make() (string, error) {
	now := i.now()
	claims, err := json.Marshal(map[string]any{"iss": i.team, "iat": now.Unix()})
	if err != nil {
		return "", attestation.Unavailable(err)
	}
	signed, err := i.signer.Sign(claims)
	if err != nil {
		return "", attestation.Unavailable(err)
	}
	if i.text, err = signed.CompactSerialize(); err != nil {
		return "", attestation.Unavailable(err)
	}
	i.made = now
	return i.text, nil
}
