package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// amazon is a bucket of S3, or of a store that speaks its language.
//
// Versions are ETags, and those of S3 are hashes of the content: a write on
// condition does not notice that an object was replaced by other content and
// then by the same again. A stale writer can win if both happen between its
// look and its write, which is less than one attempt takes. Of our indexes that
// may be index.txt at most: the other two differ with each write.
type amazon struct {
	account
	name   string // of the bucket
	client *s3.Client
}

// dialAmazon uses the default chain of credentials: environment, files, web
// identity, container, instance.
func dialAmazon(a address) *Cloud {
	who := account{bucket: a.String(), rights: "s3:ListBucket on it, and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"}
	return &Cloud{patience: usual, page: usualPage, dial: func(ctx context.Context) (provider, error) {
		var options []func(*config.LoadOptions) error
		if a.region != "" {
			options = append(options, config.WithRegion(a.region))
		}
		settings, err := config.LoadDefaultConfig(context.WithoutCancel(ctx), options...)
		if err != nil {
			return nil, refusal{fmt.Errorf("settings for bucket %s: %w", who.bucket, oneLine(err))}
		}
		if settings.Region == "" {
			return nil, refusal{fmt.Errorf("the region of bucket %s is not known: say it in the URL, as in ?region=eu-west-1, or in AWS_REGION", who.bucket)}
		}
		if _, err := settings.Credentials.Retrieve(ctx); err != nil {
			return nil, who.noCredentials(err, "give the service a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		return &amazon{account: who, name: a.bucket, client: s3.NewFromConfig(settings, a.tuneAmazon)}, nil
	}}
}

func (a address) tuneAmazon(o *s3.Options) {
	o.Retryer = aws.NopRetryer{}
	o.DisableLogOutputChecksumValidationSkipped = true
	if a.endpoint == "" {
		return
	}
	// Stores that are not Amazon's need not know its newer checksums, nor have
	// a name in the DNS for each bucket.
	o.BaseEndpoint = &a.endpoint
	o.UsePathStyle = true
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
}

// head asks a second time for the whole object when it is refused: only that
// answer has the reason in it.
func (a *amazon) head(ctx context.Context, name string) (state, error) {
	got, err := a.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &a.name, Key: &name})
	if err == nil {
		return amazonState(name, got.Metadata, s3.GetObjectOutput{
			ETag: got.ETag, ContentType: got.ContentType, CacheControl: got.CacheControl, ContentLength: got.ContentLength, LastModified: got.LastModified,
		}), nil
	}
	why := a.explain(err)
	if isFinal(why) && !errors.Is(why, errAbsent) {
		body, _, again := a.get(ctx, name, 0, "")
		if again == nil {
			again = body.Close()
		}
		return state{}, firstOf(again, why)
	}
	return state{}, why
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// put is one request: an upload in parts would leave its parts behind, for money,
// when it is killed.
func (a *amazon) put(ctx context.Context, name string, u upload) error {
	in := &s3.PutObjectInput{
		Bucket: &a.name, Key: &name, Body: u.Body, ContentLength: &u.Size,
		ContentType: &u.ContentType, Metadata: u.metadata,
	}
	if u.CacheControl != "" {
		in.CacheControl = &u.CacheControl
	}
	if u.replaces == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &u.replaces
	}
	_, err := a.client.PutObject(ctx, in)
	return a.explain(err)
}

func (a *amazon) get(ctx context.Context, name string, from int64, version string) (io.ReadCloser, state, error) {
	in := &s3.GetObjectInput{Bucket: &a.name, Key: &name}
	if from > 0 {
		in.Range = aws.String("bytes=" + strconv.FormatInt(from, 10) + "-")
	}
	if version != "" {
		in.IfMatch = &version
	}
	got, err := a.client.GetObject(ctx, in)
	if err != nil {
		return nil, state{}, a.explain(err)
	}
	return got.Body, amazonState(name, got.Metadata, *got), nil
}

func amazonState(name string, metadata map[string]string, got s3.GetObjectOutput) state {
	s := state{version: aws.ToString(got.ETag), Info: Info{
		Name: name, ContentType: aws.ToString(got.ContentType), CacheControl: aws.ToString(got.CacheControl),
		Size: aws.ToInt64(got.ContentLength), ModTime: aws.ToTime(got.LastModified).UTC(),
	}}
	s.recall(metadata)
	return s
}

func (a *amazon) remove(ctx context.Context, name string) error {
	_, err := a.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &a.name, Key: &name})
	return a.explain(err)
}

func (a *amazon) list(ctx context.Context, prefix, from string, limit int) ([]Entry, string, error) {
	in := &s3.ListObjectsV2Input{Bucket: &a.name, Prefix: &prefix, MaxKeys: aws.Int32(int32(limit))}
	if from != "" {
		in.ContinuationToken = &from
	}
	got, err := a.client.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, "", a.explain(err)
	}
	var entries []Entry
	for _, o := range got.Contents {
		entries = append(entries, Entry{Name: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), ModTime: aws.ToTime(o.LastModified).UTC()})
	}
	return entries, aws.ToString(got.NextContinuationToken), nil
}

// explain turns an error of the client into one of ours.
func (a *amazon) explain(err error) error {
	if err == nil {
		return nil
	}
	got, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || got.HTTPStatusCode() == 0 {
		return a.unreachable(err)
	}
	why := answer{status: got.HTTPStatusCode(), region: got.Response.Header.Get("X-Amz-Bucket-Region")}
	if named, ok := errors.AsType[smithy.APIError](err); ok {
		why.code = named.ErrorCode()
	}
	return a.judge(why)
}
