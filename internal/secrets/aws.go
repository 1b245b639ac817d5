package secrets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// awsManager reads from AWS Secrets Manager.
type awsManager struct{ client *secretsmanager.Client }

func openAWS(ctx context.Context, developmentOnly func(string, bool) error) (manager, error) {
	for _, name := range []string{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"} {
		if err := refuseInTheClear(name, os.Getenv(name), developmentOnly); err != nil {
			return nil, err
		}
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, err
	}
	return awsManager{secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) {
		o.Retryer = aws.NopRetryer{}
		o.APIOptions = append(o.APIOptions, boundAWS)
	})}, nil
}

// read implements manager.
func (m awsManager) read(ctx context.Context, id identity) ([]byte, error) {
	answer, err := m.client.GetSecretValue(ctx, awsInput(id), inRegionOf(id.name))
	switch {
	case err != nil:
		return nil, judgeAWS(id, err)
	case answer.SecretString != nil:
		return []byte(*answer.SecretString), nil
	default:
		return answer.SecretBinary, nil
	}
}

// versionID is how AWS names versions by itself; stages have names that people
// gave.
var versionID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func awsInput(id identity) *secretsmanager.GetSecretValueInput {
	in := &secretsmanager.GetSecretValueInput{SecretId: &id.name}
	switch {
	case versionID.MatchString(id.version):
		in.VersionId = &id.version
	case id.version != "":
		in.VersionStage = &id.version
	}
	return in
}

// inRegionOf asks where the ARN says that the secret is.
func inRegionOf(name string) func(*secretsmanager.Options) {
	return func(o *secretsmanager.Options) {
		if a, err := arn.Parse(name); err == nil && a.Region != "" {
			o.Region = a.Region
		}
	}
}

// boundAWS bounds what is read of an answer.
func boundAWS(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("BoundBody", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		if answer, ok := out.RawResponse.(*smithyhttp.Response); ok && answer.Body != nil {
			answer.Body = bound(answer.Body)
		}
		return out, metadata, err
	}), middleware.After)
}

func judgeAWS(id identity, err error) error {
	if errors.Is(err, errTooLong) {
		return unusableFor(id, tooLong)
	}
	var said smithy.APIError
	if !errors.As(err, &said) {
		return err
	}
	switch said.ErrorCode() {
	case "ResourceNotFoundException":
		return &failure{verdict: missing, identity: id}
	case "InvalidRequestException": // "… because it was marked for deletion"
		return &failure{verdict: disabled, identity: id}
	case "AccessDeniedException", "DecryptionFailure", "UnrecognizedClientException", "InvalidClientTokenId",
		"InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationTokenException", "ExpiredTokenException", "OptInRequired":
		return &failure{verdict: denied, identity: id}
	case "InvalidParameterException", "ValidationException":
		return unusableFor(id, "cannot have that name or version: correct the reference")
	}
	if answer := (*smithyhttp.ResponseError)(nil); errors.As(err, &answer) {
		return fmt.Errorf("HTTP status %d (%s)", answer.HTTPStatusCode(), said.ErrorCode())
	}
	return err
}
