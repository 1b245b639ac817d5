package keys

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"enkeyserver/internal/errs"
)

// awsMaker makes a new key each time, since the keys of AWS have no versions of
// their own. An alias is for people to find it; the URL names the ARN. It
// needs kms:CreateKey, kms:TagResource, and for an alias kms:DescribeKey and
// kms:CreateAlias.
type awsMaker struct {
	alias  string // "" for none
	client *lazy[kms.Client]
}

func newAWSMaker(u *url.URL) (maker, error) {
	alias := strings.TrimPrefix(u.Path, "/")
	form := regexp.MustCompile(`^(alias/[A-Za-z0-9/_-]{1,250})?$`)
	if u.Host != "" || !form.MatchString(alias) || strings.HasPrefix(alias, "alias/aws/") {
		return nil, errs.Invalid("key_url", "a new AWS key is written awskms:///alias/NAME, or awskms:/// without an alias; AWS chooses its id")
	}
	opts, err := options(u, "region")
	if err != nil {
		return nil, err
	}
	return awsMaker{alias, newAWSClient(opts["region"])}, nil
}

func (m awsMaker) makeSigning(ctx context.Context) (string, error) {
	return m.create(ctx, &kms.CreateKeyInput{
		KeyUsage: types.KeyUsageTypeSignVerify, KeySpec: types.KeySpecEccNistP256,
		Description: aws.String("signs Exposure Notifications export files"),
	})
}

func (m awsMaker) makeWrapping(ctx context.Context) (string, error) {
	return m.create(ctx, &kms.CreateKeyInput{
		KeyUsage: types.KeyUsageTypeEncryptDecrypt, KeySpec: types.KeySpecSymmetricDefault,
		Description: aws.String("wraps the keys of Exposure Notifications revision tokens"),
	})
}

// create looks at the alias first, so that none that is in use leaves a key
// behind that nobody finds.
func (m awsMaker) create(ctx context.Context, in *kms.CreateKeyInput) (string, error) {
	client, err := m.client.get(ctx)
	if err != nil {
		return "", err
	}
	if err := m.free(ctx, client); err != nil {
		return "", err
	}
	in.Tags = []types.Tag{{TagKey: aws.String("application"), TagValue: aws.String("enkeyserver")}}
	made, err := client.CreateKey(ctx, in)
	if err != nil {
		return "", awsKey{id: "to make"}.fault(err)
	}
	arn := aws.ToString(made.KeyMetadata.Arn)
	if m.alias == "" {
		return schemeAWS + ":///" + arn, nil
	}
	if _, err := client.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &m.alias, TargetKeyId: &arn}); err != nil {
		return "", refuse("%s was made, but not its alias: %v", arn, awsKey{id: m.alias}.fault(err))
	}
	return schemeAWS + ":///" + arn, nil
}

func (m awsMaker) free(ctx context.Context, client *kms.Client) error {
	if m.alias == "" {
		return nil
	}
	taken, err := ask(ctx, usual(), func(ctx context.Context) (bool, error) {
		_, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.alias})
		if _, missing := errors.AsType[*types.NotFoundException](err); missing {
			return false, nil
		}
		if err != nil {
			return false, awsKey{id: m.alias}.fault(err)
		}
		return true, nil
	})
	if taken {
		return errs.Conflict("key_exists", "the alias %s names a key already, and is never moved: choose another, such as %s-2", m.alias, m.alias)
	}
	return err
}
