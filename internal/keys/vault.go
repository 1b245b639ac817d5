package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	vault "github.com/hashicorp/vault/api"

	"enkeyserver/internal/errs"
)

// vaultKey is a key of the transit engine of HashiCorp Vault (or OpenBao).
type vaultKey struct {
	engine, name, version string
	login                 *login
}

const (
	defaultEngine = "transit"
	vaultSigning  = "ecdsa-p256"
	vaultWrapping = "aes256-gcm96"
)

// newVaultVersion wants hashivault://KEY?version=1, and engine=PATH when the
// engine is not mounted at "transit". It needs read on transit/keys/KEY and
// update on transit/sign/KEY/sha2-256.
func newVaultVersion(u *url.URL) (version, error) {
	key, err := parseVault(u)
	if err != nil {
		return nil, err
	}
	if key.version == "" {
		return nil, noVersion("?version=1")
	}
	return vaultVersion{key}, nil
}

// newVaultLock wants hashivault://KEY, and engine=PATH. It needs update on
// transit/encrypt/KEY and transit/decrypt/KEY; never create on the first, for
// then a misspelt name would make a new key.
func newVaultLock(u *url.URL) (lock, error) {
	key, err := parseVault(u)
	if err != nil {
		return nil, err
	}
	if key.version != "" {
		return nil, needlessVersion()
	}
	return vaultLock{key}, nil
}

func parseVault(u *url.URL) (vaultKey, error) {
	opts, err := options(u, "version", "engine")
	if err != nil {
		return vaultKey{}, err
	}
	key := vaultKey{engine: opts["engine"], name: u.Host, version: opts["version"], login: newLogin(time.Now)}
	if key.engine == "" {
		key.engine = defaultEngine
	}
	name := regexp.MustCompile(`^\w[\w.-]*$`)
	path := regexp.MustCompile(`^\w[\w-]*(/\w[\w-]*)*$`)
	number := regexp.MustCompile(`^([1-9][0-9]{0,8})?$`)
	if !name.MatchString(key.name) || u.Path != "" || !path.MatchString(key.engine) || !number.MatchString(key.version) {
		return vaultKey{}, errs.Invalid("key_url", "a key of Vault must be written hashivault://KEY, with ?version=1 for signing, and engine=PATH if the engine is not at transit")
	}
	return key, nil
}

func (k vaultKey) path(verb string) string { return k.engine + "/" + verb + "/" + k.name }

// vaultVersions is what Vault says of a key.
type vaultVersions struct {
	kind     string
	latest   string
	exported map[string]any // by version: what is known of its public half
}

// read gives nil if there is no such key.
func (k vaultKey) read(ctx context.Context) (*vaultVersions, error) {
	answer, err := k.login.read(ctx, k.path("keys"))
	if err != nil || answer == nil {
		return nil, k.fault(err)
	}
	kind, _ := answer.Data["type"].(string)
	exported, _ := answer.Data["keys"].(map[string]any)
	return &vaultVersions{kind, fmt.Sprint(answer.Data["latest_version"]), exported}, nil
}

type vaultVersion struct{ vaultKey }

func (v vaultVersion) public(ctx context.Context) (crypto.PublicKey, error) {
	key, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, v.missing()
	}
	if key.kind != vaultSigning {
		return nil, wrongAlgorithm("is " + key.kind)
	}
	return v.publicOf(key)
}

// publicOf takes the version that the URL names, never the newest.
func (v vaultVersion) publicOf(key *vaultVersions) (crypto.PublicKey, error) {
	about, ok := key.exported[v.version].(map[string]any)
	if !ok {
		return nil, refuse("the key %s in Vault has no version %s (its newest is %s), or it was archived", v.name, v.version, key.latest)
	}
	text, _ := about["public_key"].(string)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, again("Vault answered without the public key")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func (v vaultVersion) sign(ctx context.Context, digest []byte) ([]byte, error) {
	number, err := strconv.Atoi(v.version)
	if err != nil {
		return nil, err
	}
	answer, err := v.login.write(ctx, v.path("sign")+"/sha2-256", map[string]any{
		"input": base64.StdEncoding.EncodeToString(digest), "prehashed": true,
		"key_version": number, "marshaling_algorithm": "asn1",
	})
	if err != nil {
		return nil, v.fault(err)
	}
	signature, ok := strings.CutPrefix(vaultText(answer, "signature"), "vault:v"+v.version+":")
	if !ok {
		return nil, again("Vault answered without a signature of this version")
	}
	return base64.StdEncoding.DecodeString(signature)
}

// vaultLock keeps Vault's own text, "vault:v1:…", which names the version.
// Additional data is left to the envelope: Vault takes it since 1.9 only, and
// before that ignores it without a word, so that an update would lose keys.
type vaultLock struct{ vaultKey }

func (l vaultLock) lock(ctx context.Context, key, _ []byte) ([]byte, error) {
	answer, err := l.login.write(ctx, l.path("encrypt"), map[string]any{"plaintext": base64.StdEncoding.EncodeToString(key)})
	if err != nil {
		return nil, l.fault(err)
	}
	return []byte(vaultText(answer, "ciphertext")), nil
}

func (l vaultLock) unlock(ctx context.Context, locked, _ []byte) ([]byte, error) {
	answer, err := l.login.write(ctx, l.path("decrypt"), map[string]any{"ciphertext": string(locked)})
	if said := vaultSaid(err); strings.Contains(said, "invalid ciphertext") || strings.Contains(said, "message authentication failed") {
		return nil, voidCiphertext()
	}
	if err != nil {
		return nil, l.fault(err)
	}
	return base64.StdEncoding.DecodeString(vaultText(answer, "plaintext"))
}

func vaultText(answer *vault.Secret, name string) string {
	if answer == nil {
		return ""
	}
	text, _ := answer.Data[name].(string)
	return text
}

// vaultSaid is the words of a fault, without the request that they come with.
func vaultSaid(err error) string {
	if answer, ok := errors.AsType[*vault.ResponseError](err); ok {
		return oneLine(strings.Join(answer.Errors, ", "))
	}
	return ""
}

func (k vaultKey) missing() error {
	return refuse("Vault knows no key %s in the engine at %s", k.name, k.engine)
}

// fault tells what asking again may change.
func (k vaultKey) fault(err error) error {
	var answer *vault.ResponseError
	if err == nil || final(err) {
		return err
	}
	if !errors.As(err, &answer) {
		return again("Vault: %s", oneLine(err.Error()))
	}
	said := vaultSaid(err)
	switch {
	case vaultAgain(answer.StatusCode):
		return again("Vault: status %d: %s", answer.StatusCode, said)
	case answer.StatusCode == http.StatusNotFound, strings.Contains(said, "key not found"):
		return k.missing()
	case answer.StatusCode == http.StatusForbidden:
		return refuse("Vault refuses this account, whose policy must allow it on the key %s (or its token ended): %s", k.name, said)
	case strings.Contains(said, "minimum"), strings.Contains(said, "too old"):
		return refuse("this version of the key %s is not allowed any more in Vault: %s", k.name, said)
	}
	return refuse("Vault refuses with status %d: %s", answer.StatusCode, said)
}

// vaultAgain: sealed or starting (5xx), over its quota (429), or a standby
// that has not caught up (412, 472, 473).
func vaultAgain(status int) bool {
	switch status {
	case http.StatusPreconditionFailed, http.StatusTooManyRequests, 472, 473:
		return true
	}
	return status >= http.StatusInternalServerError
}
