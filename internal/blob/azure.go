package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// azure is a container of Azure Blob Storage. Versions are ETags, which change
// with each write.
type azure struct {
	account
	container *container.Client
}

// The environment says which storage account is meant, and who we are: by its
// key, by a shared access signature, by both in one string, or, best, as the
// managed identity or workload identity that the service runs as.
const (
	azureAccount    = "AZURE_STORAGE_ACCOUNT"
	azureKey        = "AZURE_STORAGE_KEY"
	azureSignature  = "AZURE_STORAGE_SAS_TOKEN"
	azureConnection = "AZURE_STORAGE_CONNECTION_STRING"
	azureDomain     = "AZURE_STORAGE_DOMAIN" // of a cloud that is not the public one
)

func dialAzure(a address) *Cloud {
	who := account{bucket: a.String(), rights: "the role Storage Blob Data Contributor on it"}
	return &Cloud{patience: usual, page: usualPage, dial: func(context.Context) (provider, error) {
		options := &container.ClientOptions{ClientOptions: policy.ClientOptions{
			Retry: policy.RetryOptions{MaxRetries: -1}, // we do
		}}
		client, err := a.azureClient(who, options)
		if err != nil {
			return nil, err
		}
		return &azure{account: who, container: client}, nil
	}}
}

func (a address) azureClient(who account, options *container.ClientOptions) (*container.Client, error) {
	key, signature, connection := os.Getenv(azureKey), os.Getenv(azureSignature), os.Getenv(azureConnection)
	if key == "" && signature == "" && connection != "" && a.endpoint == "" {
		return a.azureByConnection(connection, options)
	}
	at, err := a.azureURL()
	switch {
	case err != nil:
		return nil, err
	case key != "":
		return a.azureByKey(who, at, key, options)
	case a.endpoint != "":
		return nil, refusal{fmt.Errorf("bucket %s has an endpoint of its own, which gets nothing that it could use elsewhere: set %s and %s", who.bucket, azureAccount, azureKey)}
	case signature != "":
		return container.NewClientWithNoCredential(at+"?"+strings.TrimPrefix(signature, "?"), options)
	}
	identity, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, who.noCredentials(err, azureHint)
	}
	return container.NewClient(at, identity, options)
}

const azureHint = "give the service a managed identity, or set " + azureKey

// Of a key or a string that is wrong nothing is told.

func (a address) azureByKey(who account, at, key string, options *container.ClientOptions) (*container.Client, error) {
	signer, err := container.NewSharedKeyCredential(os.Getenv(azureAccount), key)
	if err != nil {
		return nil, refusal{fmt.Errorf("bucket %s: %s must be the base64 key of the storage account", who.bucket, azureKey)}
	}
	return container.NewClientWithSharedKeyCredential(at, signer, options)
}

func (a address) azureByConnection(connection string, options *container.ClientOptions) (*container.Client, error) {
	client, err := container.NewClientFromConnectionString(connection, a.bucket, options)
	if err != nil {
		return nil, refusal{fmt.Errorf("%s is no connection string", azureConnection)}
	}
	return client, nil
}

// azureURL is that of the container.
func (a address) azureURL() (string, error) {
	endpoint := a.endpoint
	if endpoint == "" {
		name, domain := os.Getenv(azureAccount), os.Getenv(azureDomain)
		if name == "" {
			return "", refusal{fmt.Errorf("the storage account of bucket %s is not known: set %s", a, azureAccount)}
		}
		if domain == "" {
			domain = "blob.core.windows.net"
		}
		endpoint = "https://" + name + "." + domain
	}
	return url.JoinPath(endpoint, a.bucket)
}

func (z *azure) head(ctx context.Context, name string) (state, error) {
	got, err := z.container.NewBlobClient(name).GetProperties(ctx, nil)
	if err != nil {
		return state{}, z.explain(err)
	}
	return azureState(name, got.Metadata, blob.DownloadStreamResponse{DownloadResponse: blob.DownloadResponse{
		ETag: got.ETag, ContentType: got.ContentType, CacheControl: got.CacheControl, ContentLength: got.ContentLength, LastModified: got.LastModified,
	}}), nil
}

func (z *azure) put(ctx context.Context, name string, u upload) error {
	_, err := z.container.NewBlockBlobClient(name).Upload(ctx, u.Body, &blockblob.UploadOptions{
		HTTPHeaders:      &blob.HTTPHeaders{BlobContentType: &u.ContentType, BlobCacheControl: &u.CacheControl},
		Metadata:         pointers(u.metadata),
		AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: unchanged(u.replaces)},
	})
	return z.explain(err)
}

// unchanged is the condition that an object still has a version.
func unchanged(version string) *blob.ModifiedAccessConditions {
	if version == "" {
		anything := azcore.ETagAny
		return &blob.ModifiedAccessConditions{IfNoneMatch: &anything}
	}
	etag := azcore.ETag(version)
	return &blob.ModifiedAccessConditions{IfMatch: &etag}
}

func pointers(metadata map[string]string) map[string]*string {
	all := map[string]*string{}
	for name, value := range metadata {
		all[name] = &value
	}
	return all
}

func (z *azure) get(ctx context.Context, name string, from int64, version string) (io.ReadCloser, state, error) {
	options := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: from}}
	if version != "" {
		options.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: unchanged(version)}
	}
	got, err := z.container.NewBlobClient(name).DownloadStream(ctx, options)
	if err != nil {
		return nil, state{}, z.explain(err)
	}
	return got.Body, azureState(name, got.Metadata, got), nil
}

func azureState(name string, metadata map[string]*string, got blob.DownloadStreamResponse) state {
	s := state{Info: Info{
		Name: name, ContentType: valueOf(got.ContentType), CacheControl: valueOf(got.CacheControl),
		Size: valueOf(got.ContentLength), ModTime: valueOf(got.LastModified).UTC(),
	}}
	s.version = string(valueOf(got.ETag))
	kept := map[string]string{}
	for name, value := range metadata {
		kept[name] = valueOf(value)
	}
	s.recall(kept)
	return s
}

// valueOf is what the client gives as a pointer; the zero value if it is none.
func valueOf[T string | int64 | time.Time | azcore.ETag](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

// remove takes the snapshots with it: what is deleted is to be forgotten.
func (z *azure) remove(ctx context.Context, name string) error {
	all := blob.DeleteSnapshotsOptionTypeInclude
	_, err := z.container.NewBlobClient(name).Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: &all})
	return z.explain(err)
}

func (z *azure) list(ctx context.Context, prefix, from string, limit int) ([]Entry, string, error) {
	most := int32(limit)
	options := &container.ListBlobsFlatOptions{Prefix: &prefix, MaxResults: &most}
	if from != "" {
		options.Marker = &from
	}
	got, err := z.container.NewListBlobsFlatPager(options).NextPage(ctx)
	if err != nil {
		return nil, "", z.explain(err)
	}
	var entries []Entry
	for _, o := range got.Segment.BlobItems {
		entries = append(entries, Entry{
			Name: valueOf(o.Name), Size: valueOf(o.Properties.ContentLength), ModTime: valueOf(o.Properties.LastModified).UTC(),
		})
	}
	return entries, valueOf(got.NextMarker), nil
}

// explain turns an error of the client into one of ours.
func (z *azure) explain(err error) error {
	if err == nil {
		return nil
	}
	if got, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return z.judge(answer{status: got.StatusCode, code: got.ErrorCode})
	}
	var never interface{ NonRetriable() }
	if errors.As(err, &never) {
		return z.noCredentials(err, azureHint)
	}
	return z.unreachable(err)
}
