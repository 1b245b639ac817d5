package blob

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
)

// google is a bucket of Google Cloud Storage. Versions are generations.
type google struct {
	account
	bucket *storage.BucketHandle
}

// dialGoogle uses the account that the service runs as. An endpoint of our own
// choice gets no credentials: whoever has a token has the bucket.
func dialGoogle(a address) *Cloud {
	who := account{bucket: a.String(), rights: "the role Storage Object User (roles/storage.objectUser) on it"}
	return &Cloud{patience: usual, page: usualPage, dial: func(ctx context.Context) (provider, error) {
		options := []option.ClientOption{option.WithScopes(storage.ScopeReadWrite)}
		if a.endpoint != "" {
			options = []option.ClientOption{option.WithEndpoint(strings.TrimSuffix(a.endpoint, "/") + "/storage/v1/"), option.WithoutAuthentication()}
		}
		client, err := storage.NewClient(context.WithoutCancel(ctx), options...) // it may keep the context
		if err != nil {
			return nil, who.noCredentials(err, "run as a service account, or name its file in GOOGLE_APPLICATION_CREDENTIALS")
		}
		client.SetRetry(storage.WithPolicy(storage.RetryNever))
		return &google{account: who, bucket: client.Bucket(a.bucket)}, nil
	}}
}

func (g *google) head(ctx context.Context, name string) (state, error) {
	got, err := g.bucket.Object(name).Attrs(ctx)
	if err != nil {
		return state{}, g.explain(err)
	}
	s := state{version: strconv.FormatInt(got.Generation, 10), Info: Info{
		Name: name, ContentType: got.ContentType, CacheControl: got.CacheControl, Size: got.Size, ModTime: got.Updated.UTC(),
	}}
	s.recall(got.Metadata)
	return s, nil
}

// put is one request, without a buffer: an upload in pieces would keep its
// session behind when it is killed.
func (g *google) put(ctx context.Context, name string, u upload) error {
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	condition, err := generation(u.replaces)
	if err != nil {
		return err
	}
	w := g.bucket.Object(name).If(condition).NewWriter(ctx)
	w.ChunkSize = 0
	w.ContentType, w.CacheControl, w.Metadata = u.ContentType, u.CacheControl, u.metadata
	if err := copyBody(w, u.Body, u.Size); err != nil {
		abandon() // a body that ends too early must not count as whole
		return g.explain(errors.Join(err, w.Close()))
	}
	return g.ofBucket(g.explain(w.Close()))
}

// ofBucket explains why what needs no object is not found.
func (g *google) ofBucket(err error) error {
	if errors.Is(err, errAbsent) {
		return g.missing()
	}
	return err
}

func generation(version string) (storage.Conditions, error) {
	if version == "" {
		return storage.Conditions{DoesNotExist: true}, nil
	}
	n, err := strconv.ParseInt(version, 10, 64)
	return storage.Conditions{GenerationMatch: n}, err
}

// get finds out by another request what is not there: its own answer does not
// tell an object from a bucket.
func (g *google) get(ctx context.Context, name string, from int64, version string) (io.ReadCloser, state, error) {
	object := g.bucket.Object(name).ReadCompressed(true) // what is stored, as it is stored
	if version != "" {
		condition, err := generation(version)
		if err != nil {
			return nil, state{}, err
		}
		object = object.Generation(condition.GenerationMatch)
	}
	r, err := object.NewRangeReader(ctx, from, -1)
	if errors.Is(err, storage.ErrObjectNotExist) {
		_, why := g.head(ctx, name)
		if why == nil {
			why = errOvertaken // there is another one now
		}
		return nil, state{}, why
	}
	if err != nil {
		return nil, state{}, g.explain(err)
	}
	s := state{version: strconv.FormatInt(r.Attrs.Generation, 10), Info: Info{
		Name: name, ContentType: r.Attrs.ContentType, CacheControl: r.Attrs.CacheControl, Size: r.Attrs.Size, ModTime: r.Attrs.LastModified.UTC(),
	}}
	s.recall(r.Metadata())
	return r, s, nil
}

func (g *google) remove(ctx context.Context, name string) error {
	return g.explain(g.bucket.Object(name).Delete(ctx))
}

func (g *google) list(ctx context.Context, prefix, from string, limit int) ([]Entry, string, error) {
	query := &storage.Query{Prefix: prefix, Projection: storage.ProjectionNoACL}
	if err := query.SetAttrSelection([]string{"Name", "Size", "Updated"}); err != nil {
		return nil, "", err
	}
	var objects []*storage.ObjectAttrs
	next, err := iterator.NewPager(g.bucket.Objects(ctx, query), limit, from).NextPage(&objects)
	if err != nil {
		return nil, "", g.ofBucket(g.explain(err))
	}
	var entries []Entry
	for _, o := range objects {
		entries = append(entries, Entry{Name: o.Name, Size: o.Size, ModTime: o.Updated.UTC()})
	}
	return entries, next, nil
}

// explain turns an error of the client into one of ours.
func (g *google) explain(err error) error {
	if err == nil {
		return nil
	}
	got, ok := errors.AsType[*googleapi.Error](err)
	if !ok {
		return g.unreachable(err)
	}
	return g.judge(answer{status: got.Code, code: googleCode(got)})
}

// googleCode is that of an answer in JSON or in XML. A missing bucket has no
// code of its own in JSON.
func googleCode(got *googleapi.Error) string {
	if got.Code == http.StatusNotFound && strings.Contains(strings.ToLower(got.Message), "bucket does not exist") {
		return "NoSuchBucket"
	}
	if len(got.Errors) > 0 {
		return got.Errors[0].Reason
	}
	var document struct{ Code string }
	_ = xml.Unmarshal([]byte(got.Body), &document) // without a code, then
	return document.Code
}
