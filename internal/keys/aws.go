package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"enkeyserver/internal/errs"
)

// awsKey is a key of AWS KMS: its id, or its ARN.
type awsKey struct {
	id     string
	client *lazy[kms.Client]
}

// newAWSVersion wants awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID, or
// awskms:///ID?region=REGION. AWS never changes what an asymmetric key is made
// of, so its id is an explicit version. It needs kms:GetPublicKey and kms:Sign.
func newAWSVersion(u *url.URL) (version, error) {
	key, err := parseAWS(u)
	return awsVersion{key}, err
}

// newAWSLock wants the same of a symmetric key. It needs kms:Encrypt and
// kms:Decrypt.
func newAWSLock(u *url.URL) (lock, error) {
	key, err := parseAWS(u)
	return awsLock{key}, err
}

func parseAWS(u *url.URL) (awsKey, error) {
	id := strings.TrimPrefix(u.Path, "/")
	if strings.HasPrefix(id, "alias/") || strings.Contains(id, ":alias/") {
		return awsKey{}, errs.Invalid("key_url", "an alias can be moved to another key any day: write the key's ARN, awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID")
	}
	form := regexp.MustCompile(`^(?:arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/)?(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)
	parts := form.FindStringSubmatch(id)
	if parts == nil || u.Host != "" {
		return awsKey{}, errs.Invalid("key_url", "an AWS key must be written with three slashes and its ARN, awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID, or its id, awskms:///ID?region=REGION")
	}
	opts, err := options(u, "region")
	if err != nil {
		return awsKey{}, err
	}
	region := opts["region"]
	if parts[1] != "" && region != "" && region != parts[1] {
		return awsKey{}, errs.Invalid("key_url", "the ARN says region %s, the option says %s", parts[1], region)
	}
	return awsKey{id, newAWSClient(parts[1] + region)}, nil
}

// newAWSClient finds region and credentials as AWS's tools do; a region that
// the URL names goes before.
func newAWSClient(region string) *lazy[kms.Client] {
	return newLazy(func(ctx context.Context) (*kms.Client, error) {
		if err := notInTheClear("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"); err != nil {
			return nil, err
		}
		c, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
		if err != nil {
			return nil, refuse("the settings of AWS cannot be read: %s", oneLine(err.Error()))
		}
		if region != "" {
			c.Region = region
		}
		if c.Region == "" {
			return nil, refuse("no region of AWS is known: write the key's ARN, or set AWS_REGION")
		}
		return kms.NewFromConfig(c), nil
	})
}

type awsVersion struct{ awsKey }

func (v awsVersion) public(ctx context.Context) (crypto.PublicKey, error) {
	client, err := v.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &v.id})
	if err != nil {
		return nil, v.fault(err)
	}
	if !v.named(answer.KeyId) {
		return nil, v.stranger()
	}
	if answer.KeyUsage != types.KeyUsageTypeSignVerify || answer.KeySpec != types.KeySpecEccNistP256 {
		return nil, wrongAlgorithm("is " + string(answer.KeySpec) + " for " + string(answer.KeyUsage))
	}
	return x509.ParsePKIXPublicKey(answer.PublicKey)
}

func (v awsVersion) sign(ctx context.Context, digest []byte) ([]byte, error) {
	client, err := v.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Sign(ctx, &kms.SignInput{
		KeyId: &v.id, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	if err != nil {
		return nil, v.fault(err)
	}
	return answer.Signature, nil
}

type awsLock struct{ awsKey }

func (l awsLock) lock(ctx context.Context, key, bound []byte) ([]byte, error) {
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &l.id, Plaintext: key, EncryptionContext: encryptionContext(bound)})
	if err != nil {
		return nil, l.fault(err)
	}
	if !l.named(answer.KeyId) {
		return nil, l.stranger()
	}
	return answer.CiphertextBlob, nil
}

func (l awsLock) unlock(ctx context.Context, locked, bound []byte) ([]byte, error) {
	client, err := l.client.get(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Decrypt(ctx, &kms.DecryptInput{
		KeyId:          &l.id, // or AWS would try any key that this account may use
		CiphertextBlob: locked, EncryptionContext: encryptionContext(bound),
	})
	var changed *types.InvalidCiphertextException
	var other *types.IncorrectKeyException
	if errors.As(err, &changed) || errors.As(err, &other) {
		return nil, voidCiphertext()
	}
	if err != nil {
		return nil, l.fault(err)
	}
	return answer.Plaintext, nil
}

// encryptionContext is additional data, in the form of AWS; the audit trail
// shows it.
func encryptionContext(bound []byte) map[string]string {
	return map[string]string{"enkeyserver": base64.StdEncoding.EncodeToString(bound)}
}

// named holds the ARN that an answer names against the key that was asked.
func (k awsKey) named(arn *string) bool {
	return aws.ToString(arn) == k.id || strings.HasSuffix(aws.ToString(arn), ":key/"+k.id)
}

func (k awsKey) stranger() error {
	return again("AWS KMS answered for another key than %s", k.id)
}

// fault tells what asking again may change.
func (k awsKey) fault(err error) error {
	var said smithy.APIError
	if !errors.As(err, &said) {
		return again("AWS KMS: %s", oneLine(err.Error()))
	}
	words := oneLine(said.ErrorCode() + ": " + said.ErrorMessage())
	switch said.ErrorCode() {
	case "NotFoundException":
		return refuse("AWS KMS knows no key %s in this region", k.id)
	case "AccessDeniedException":
		return refuse("AWS KMS refuses this account, which needs a right on the key: %s", words)
	case "DisabledException", "KMSInvalidStateException":
		return refuse("AWS KMS will not use %s, which is disabled or about to be deleted: %s", k.id, words)
	case "InvalidKeyUsageException", "UnsupportedOperationException":
		return refuse("AWS KMS cannot do this with %s, which is of another kind: %s", k.id, words)
	}
	if awsAgain(said.ErrorCode(), err) {
		return again("AWS KMS: %s", words)
	}
	return refuse("AWS KMS refuses: %s", words)
}

// awsAgain knows the faults that pass. Some of them AWS gives the caller, with
// a status of 400: too many questions, and credentials that are replaced just
// now.
func awsAgain(code string, err error) bool {
	switch code {
	case "ThrottlingException", "Throttling", "RequestLimitExceeded", "ExpiredTokenException", "RequestTimeout", "RequestTimeoutException":
		return true
	}
	var answered interface{ HTTPStatusCode() int }
	if !errors.As(err, &answered) {
		return true
	}
	status := answered.HTTPStatusCode()
	return status < http.StatusBadRequest || status >= http.StatusInternalServerError || status == http.StatusTooManyRequests
}
