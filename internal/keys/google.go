package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"hash/crc32"
	"net/url"
	"regexp"
	"strings"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"enkeyserver/internal/errs"
)

// googleKey is a key of Google Cloud KMS, with its version if it is for signing.
// Its name is the resource's: projects/P/locations/L/keyRings/R/cryptoKeys/K.
type googleKey struct {
	name   string
	client *lazy[kms.KeyManagementClient]
}

// newGoogleVersion wants gcpkms://projects/P/…/cryptoKeys/K/versions/1, or the
// cryptoKeyVersions/1 that Google's tools print. The key may be software or HSM.
// It needs cloudkms.cryptoKeyVersions.viewPublicKey and useToSign.
func newGoogleVersion(u *url.URL) (version, error) {
	key, number, err := parseGoogle(u)
	if err != nil {
		return nil, err
	}
	if number == "" {
		return nil, noVersion("/versions/1")
	}
	return googleVersion{googleKey{key + "/cryptoKeyVersions/" + number, newLazy(openGoogle)}}, nil
}

// newGoogleLock wants gcpkms://projects/P/…/cryptoKeys/K, a symmetric key. It
// needs cloudkms.cryptoKeyVersions.useToEncrypt and useToDecrypt.
func newGoogleLock(u *url.URL) (lock, error) {
	key, number, err := parseGoogle(u)
	if err != nil {
		return nil, err
	}
	if number != "" {
		return nil, needlessVersion()
	}
	return googleLock{googleKey{key, newLazy(openGoogle)}}, nil
}

// noVersion and needlessVersion say which of the two kinds of URL is wanted.
func noVersion(example string) error {
	return errs.Invalid("key_url", "the URL of a signing key must name its version, like …%s: phones know one public key, and the newest version changes", example)
}

func needlessVersion() error {
	return errs.Invalid("key_url", "the URL of a wrapping key must not name a version: what it wrapped remembers its own")
}

func parseGoogle(u *url.URL) (key, number string, err error) {
	form := regexp.MustCompile(`^(projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+)(?:/(?:versions|cryptoKeyVersions)/([1-9][0-9]{0,9}))?$`)
	parts := form.FindStringSubmatch(u.Host + u.Path)
	if parts == nil {
		return "", "", errs.Invalid("key_url", "a Google key must be written gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K, and /versions/1 behind it for signing")
	}
	_, err = options(u)
	return parts[1], parts[2], err
}

// openGoogle finds the credentials of this process, as Google's tools do.
func openGoogle(ctx context.Context) (*kms.KeyManagementClient, error) {
	endpoint, err := standIn(debugGoogle)
	if err != nil {
		return nil, err
	}
	all := []option.ClientOption{option.WithTelemetryDisabled()}
	if endpoint != "" {
		plain := grpc.WithTransportCredentials(insecure.NewCredentials())
		all = append(all, option.WithEndpoint(endpoint), option.WithoutAuthentication(), option.WithGRPCDialOption(plain))
	}
	client, err := kms.NewKeyManagementClient(ctx, all...)
	if err != nil {
		return nil, refuse("Google's client cannot be made; see GOOGLE_APPLICATION_CREDENTIALS: %s", oneLine(err.Error()))
	}
	return client, nil
}

// onceOnly switches the client's own retries off.
func onceOnly() gax.CallOption { return gax.WithRetry(func() gax.Retryer { return nil }) }

type googleVersion struct{ googleKey }

func (v googleVersion) public(ctx context.Context) (crypto.PublicKey, error) {
	client, err := v.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: v.name}, onceOnly())
	if err != nil {
		return nil, v.fault(err)
	}
	if answer.Name != v.name || !intact([]byte(answer.Pem), answer.PemCrc32C) {
		return nil, damaged()
	}
	if answer.Algorithm != kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256 {
		return nil, wrongAlgorithm("is " + answer.Algorithm.String())
	}
	block, _ := pem.Decode([]byte(answer.Pem))
	if block == nil {
		return nil, damaged()
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func (v googleVersion) sign(ctx context.Context, digest []byte) ([]byte, error) {
	client, err := v.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.AsymmetricSign(ctx, &kmspb.AsymmetricSignRequest{
		Name:         v.name,
		Digest:       &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest}},
		DigestCrc32C: sumOf(digest),
	}, onceOnly())
	if err != nil {
		return nil, v.fault(err)
	}
	if answer.Name != v.name || !answer.VerifiedDigestCrc32C || !intact(answer.Signature, answer.SignatureCrc32C) {
		return nil, damaged()
	}
	return answer.Signature, nil
}

type googleLock struct{ googleKey }

func (l googleLock) lock(ctx context.Context, key, bound []byte) ([]byte, error) {
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Encrypt(ctx, &kmspb.EncryptRequest{
		Name:      l.name,
		Plaintext: key, PlaintextCrc32C: sumOf(key),
		AdditionalAuthenticatedData: bound, AdditionalAuthenticatedDataCrc32C: sumOf(bound),
	}, onceOnly())
	if err != nil {
		return nil, l.fault(err)
	}
	heard := answer.VerifiedPlaintextCrc32C && answer.VerifiedAdditionalAuthenticatedDataCrc32C
	if !heard || !strings.HasPrefix(answer.Name, l.name+"/") || !intact(answer.Ciphertext, answer.CiphertextCrc32C) {
		return nil, damaged()
	}
	return answer.Ciphertext, nil
}

func (l googleLock) unlock(ctx context.Context, locked, bound []byte) ([]byte, error) {
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Decrypt(ctx, &kmspb.DecryptRequest{
		Name:       l.name,
		Ciphertext: locked, CiphertextCrc32C: sumOf(locked),
		AdditionalAuthenticatedData: bound, AdditionalAuthenticatedDataCrc32C: sumOf(bound),
	}, onceOnly())
	if status.Code(err) == codes.InvalidArgument && strings.Contains(err.Error(), "Decryption failed") {
		return nil, voidCiphertext() // the words that Google uses for another key, other data, and damage
	}
	if err != nil {
		return nil, l.fault(err)
	}
	if !intact(answer.Plaintext, answer.PlaintextCrc32C) {
		return nil, damaged()
	}
	return answer.Plaintext, nil
}

// fault tells what asking again may change. A checksum that did not arrive well
// is InvalidArgument too, and may arrive next time.
func (k googleKey) fault(err error) error {
	s := status.Convert(err)
	said := oneLine(s.Message())
	switch s.Code() {
	case codes.NotFound:
		return refuse("Google Cloud KMS knows no %s", k.name)
	case codes.PermissionDenied:
		return refuse("Google Cloud KMS refuses this account, which needs a right on the key (or there is no such key): %s", said)
	case codes.Unauthenticated:
		if !strings.Contains(said, "per-RPC creds failed") { // no answer of Google's, but no token today
			return refuse("Google Cloud KMS does not accept the credentials of this process: %s", said)
		}
	case codes.FailedPrecondition:
		return refuse("Google Cloud KMS will not use %s, which is disabled, destroyed, not made yet or for another purpose: %s", k.name, said)
	case codes.InvalidArgument:
		if !strings.Contains(strings.ToLower(said), "checksum") && !strings.Contains(strings.ToLower(said), "crc32c") {
			return refuse("Google Cloud KMS cannot do this with %s: %s", k.name, said)
		}
	case codes.AlreadyExists:
		return refuse("Google Cloud KMS has %s already", k.name)
	}
	return again("Google Cloud KMS: %s: %s", s.Code(), said)
}

// Google asks its callers to check sums both ways: its front ends are not the
// module that keeps the key.

func damaged() error { return again("a message to or from Google Cloud KMS was damaged on its way") }

func sumOf(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

func intact(data []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.Value == sumOf(data).Value
}
