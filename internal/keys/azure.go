package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"enkeyserver/internal/errs"
)

// azureKey is a key of Azure Key Vault, or of a managed HSM.
type azureKey struct {
	vault, name, version string
	client               *lazy[azkeys.Client]
}

// newAzureVersion wants azurekms://NAME.vault.azure.net/KEY/VERSION. It needs
// the rights get and sign.
func newAzureVersion(u *url.URL) (version, error) {
	key, err := parseAzure(u)
	if err != nil {
		return nil, err
	}
	if key.version == "" {
		return nil, noVersion("/0123456789abcdef0123456789abcdef")
	}
	return azureVersion{key}, nil
}

// newAzureLock wants azurekms://NAME.vault.azure.net/KEY, an RSA key, or an
// AES key of a managed HSM. It needs the rights get, wrapKey and unwrapKey.
func newAzureLock(u *url.URL) (lock, error) {
	key, err := parseAzure(u)
	if err != nil {
		return nil, err
	}
	if key.version != "" {
		return nil, needlessVersion()
	}
	return azureLock{key}, nil
}

// azureVaults are the domains of Azure's clouds: a token for a vault is sent
// nowhere else.
func azureVaults() []string {
	return []string{
		".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net",
		".managedhsm.azure.net", ".managedhsm.azure.cn", ".managedhsm.usgovcloudapi.net",
	}
}

func parseAzure(u *url.URL) (azureKey, error) {
	form := regexp.MustCompile(`^/([0-9A-Za-z-]{1,127})(?:/([0-9a-f]{32}))?$`)
	parts := form.FindStringSubmatch(u.Path)
	vault := strings.ToLower(u.Host)
	known := slices.ContainsFunc(azureVaults(), func(domain string) bool {
		name, ok := strings.CutSuffix(vault, domain)
		return ok && name != "" && !strings.Contains(name, ".")
	})
	if parts == nil || !known {
		return azureKey{}, errs.Invalid("key_url", "an Azure key must be written azurekms://NAME.vault.azure.net/KEY, and /VERSION behind it for signing; a managed HSM is NAME.managedhsm.azure.net")
	}
	_, err := options(u)
	return azureKey{vault, parts[1], parts[2], newAzureClient(vault)}, err
}

// newAzureClient finds the identity of this process, as Azure's tools do.
func newAzureClient(vault string) *lazy[azkeys.Client] {
	return newLazy(func(context.Context) (*azkeys.Client, error) {
		standIn, err := standIn(debugAzure)
		if err != nil {
			return nil, err
		}
		one := azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true}}
		account, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
			ClientOptions:            one,
			DisableInstanceDiscovery: standIn != "", // its authority is not in Microsoft's list
		})
		if err != nil {
			return nil, refuse("the settings of Azure cannot be read: %s", oneLine(err.Error()))
		}
		address := "https://" + vault
		if standIn != "" {
			address = standIn
		}
		return azkeys.NewClient(address, account, &azkeys.ClientOptions{
			ClientOptions:                        one,
			DisableChallengeResourceVerification: standIn != "",
		})
	})
}

type azureVersion struct{ azureKey }

func (v azureVersion) public(ctx context.Context) (crypto.PublicKey, error) {
	key, err := v.get(ctx, v.version)
	if err != nil {
		return nil, err
	}
	kind := strings.TrimSuffix(string(value(key.Kty)), "-HSM")
	if kind != string(azkeys.KeyTypeEC) || value(key.Crv) != azkeys.CurveNameP256 {
		return nil, wrongAlgorithm("is " + kind + " " + string(value(key.Crv)))
	}
	return azurePoint(key)
}

// get reads a version of the key, "" for the newest.
func (k azureKey) get(ctx context.Context, version string) (*azkeys.JSONWebKey, error) {
	client, err := k.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetKey(ctx, k.name, version, nil)
	if err != nil {
		return nil, k.fault(err)
	}
	if answer.Key == nil || answer.Key.KID == nil || answer.Key.KID.Name() != k.name || (version != "" && answer.Key.KID.Version() != version) {
		return nil, again("Azure answered for another key than %s", k.name)
	}
	if answer.Attributes == nil || !value(answer.Attributes.Enabled) {
		return nil, refuse("version %q of the key %s is disabled in Azure", answer.Key.KID.Version(), k.name)
	}
	return answer.Key, nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// coordinateSize is the length of a number on P-256.
const coordinateSize = 32

func azurePoint(key *azkeys.JSONWebKey) (*ecdsa.PublicKey, error) {
	point := []byte{4} // uncompressed
	for _, coordinate := range [][]byte{key.X, key.Y} {
		if len(coordinate) > coordinateSize {
			return nil, again("Azure answered with a point that is not on P-256")
		}
		point = append(point, make([]byte, coordinateSize-len(coordinate))...)
		point = append(point, coordinate...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

func (v azureVersion) sign(ctx context.Context, digest []byte) ([]byte, error) {
	client, err := v.client.get(ctx)
	if err != nil {
		return nil, err
	}
	es256 := azkeys.SignatureAlgorithmES256
	answer, err := client.Sign(ctx, v.name, v.version, azkeys.SignParameters{Algorithm: &es256, Value: digest}, nil)
	if err != nil {
		return nil, v.fault(err)
	}
	if len(answer.Result) != 2*coordinateSize {
		return nil, again("Azure answered with a signature of %d bytes", len(answer.Result))
	}
	numbers := struct{ R, S *big.Int }{
		new(big.Int).SetBytes(answer.Result[:coordinateSize]),
		new(big.Int).SetBytes(answer.Result[coordinateSize:]),
	}
	return asn1.Marshal(numbers)
}

// azureLock writes before what it locks which version of which key did it, and
// how: the newest version changes when the key is turned over.
//
//	NAME/VERSION/ALGORITHM, a zero byte, what Azure answered
type azureLock struct{ azureKey }

func (l azureLock) lock(ctx context.Context, key, _ []byte) ([]byte, error) {
	newest, err := l.get(ctx, "")
	if err != nil {
		return nil, err
	}
	version, algorithm := newest.KID.Version(), azureAlgorithm(newest)
	if algorithm == "" {
		return nil, refuse("the key %s in Azure is %s: a wrapping key must be RSA, or AES in a managed HSM", l.name, value(newest.Kty))
	}
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.WrapKey(ctx, l.name, version, azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: key}, nil)
	if err != nil {
		return nil, l.fault(err)
	}
	return slices.Concat([]byte(l.name+"/"+version+"/"+string(algorithm)), []byte{0}, answer.Result), nil
}

// azureAlgorithm is how a key wraps another, "" if it cannot.
func azureAlgorithm(key *azkeys.JSONWebKey) azkeys.EncryptionAlgorithm {
	switch value(key.Kty) {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		return azkeys.EncryptionAlgorithmRSAOAEP256
	case azkeys.KeyTypeOct, azkeys.KeyTypeOctHSM:
		return azkeys.EncryptionAlgorithmA256KW
	}
	return ""
}

func (l azureLock) unlock(ctx context.Context, locked, _ []byte) ([]byte, error) {
	label, wrapped, _ := bytes.Cut(locked, []byte{0})
	form := regexp.MustCompile(`^(.+)/([0-9a-f]{32})/(RSA-OAEP-256|A256KW)$`)
	words := form.FindStringSubmatch(string(label))
	if len(words) == 0 || words[1] != l.name || len(wrapped) == 0 {
		return nil, voidCiphertext()
	}
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	algorithm := azkeys.EncryptionAlgorithm(words[3])
	answer, err := client.UnwrapKey(ctx, l.name, words[2], azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: wrapped}, nil)
	if status, said := azureAnswer(err); status == http.StatusBadRequest && said.Code == "BadParameter" {
		return nil, voidCiphertext() // key and algorithm belong together, so it is the ciphertext
	}
	if err != nil {
		return nil, l.fault(err)
	}
	return answer.Result, nil
}

// azureError is what Azure writes into an answer that is a fault.
type azureError struct {
	Code, Message string
	Inner         struct{ Code string } `json:"innererror"`
}

// azureAnswer reads a fault; 0 when no vault answered.
func azureAnswer(err error) (status int, said azureError) {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return 0, said
	}
	var body struct{ Error azureError }
	if text, err := runtime.Payload(answer.RawResponse); err == nil {
		_ = json.Unmarshal(text, &body) // some proxies answer in HTML: the status says enough
	}
	return answer.StatusCode, body.Error
}

// fault tells what asking again may change.
func (k azureKey) fault(err error) error {
	if refused, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok {
		return k.accountFault(refused)
	}
	status, said := azureAnswer(err)
	words := oneLine(said.Code + " " + said.Inner.Code + ": " + said.Message)
	switch {
	case status == 0:
		return again("Azure: %s", oneLine(err.Error()))
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return again("Azure: status %d: %s", status, words)
	case status == http.StatusNotFound:
		return refuse("Azure knows no key %s, or not this version of it", k.name)
	case said.Inner.Code == "KeyDisabled", strings.Contains(said.Message, "disabled"):
		return refuse("this version of the key %s is disabled in Azure: %s", k.name, words)
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return refuse("Azure refuses this account, which needs a right on the key: %s", words)
	}
	return refuse("Azure refuses with status %d: %s", status, words)
}

func (k azureKey) accountFault(err *azidentity.AuthenticationFailedError) error {
	if r := err.RawResponse; r != nil && r.StatusCode < http.StatusInternalServerError && r.StatusCode != http.StatusTooManyRequests {
		return refuse("Azure's authority refuses the account of this process with status %d; see AZURE_CLIENT_ID", r.StatusCode)
	}
	return again("Azure's authority gives no token for the account of this process now")
}
