package blob_test

import (
	"os"
	"testing"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/errs"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(*testing.T) blob.Bucket { return blob.NewMemory() })
}

func TestMemoryIndexNeverGoesBack(t *testing.T) {
	t.Parallel()
	b := blob.NewMemory()
	blobtest.IndexNeverGoesBack(t, func(*testing.T) blob.Bucket { return b })
}

func TestFolder(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Bucket { return blob.NewFolder(t.TempDir()) })
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why, url string
		ok       bool
	}{
		{"a folder", "file:///var/lib/en/bucket", true},
		{"a name with a space", "file:///var/lib/en%20bucket", true},
		{"memory", "mem://", true},
		{"memory with a name", "mem://tests", true},
		{"two slashes make the first folder a host", "file://var/lib", false},
		{"a relative folder is another one for each service", "file:bucket", false},
		{"no URL", "/var/lib/en/bucket", false},
		{"empty", "", false},
		{"options that would be ignored", "file:///dir?create=1", false},
		{"a sharp that was not escaped", "file:///dir#1", false},
		{"Google Cloud Storage", "gs://my_bucket.example.org", true},
		{"S3, where the environment tells the region", "s3://bucket", true},
		{"S3 in a region", "s3://bucket?region=eu-west-1", true},
		{"a store that speaks like S3", "s3://bucket?region=eu-west-1&endpoint=https%3A%2F%2Fstore.example%3A9000", true},
		{"a store beside us in a cluster", "s3://bucket?region=r&endpoint=http://minio:9000", true},
		{"Azure Blob Storage", "azblob://container", true},
		{"a folder of a bucket: that is the export's root", "gs://bucket/us", false},
		{"no name", "gs://", false},
		{"a name that no cloud takes", "s3://Bucket", false},
		{"a port", "s3://bucket:80", false},
		{"a user", "s3://key@bucket", false},
		{"an option of another kind", "gs://bucket?region=eu-west-1", false},
		{"an option that would be ignored", "s3://bucket?prefix=us", false},
		{"an option twice", "s3://bucket?region=a&region=b", false},
		{"an empty option", "s3://bucket?region=", false},
		{"an endpoint that is no URL", "s3://bucket?endpoint=store.example:9000", false},
		{"an endpoint with a user", "s3://bucket?endpoint=https://key@store.example", false},
		{"an endpoint with options", "azblob://bucket?endpoint=https://store.example%3Fsig=1", false},
		{"a cloud that there is not", "ftp://bucket", false},
	} {
		_, err := blob.Open(t.Context(), tc.url)
		if (err == nil) != tc.ok || (blob.CheckURL(tc.url) == nil) != tc.ok {
			t.Errorf("%s: Open(%q) gives error %v, CheckURL %v", tc.why, tc.url, err, blob.CheckURL(tc.url))
		}
		if err != nil && errs.KindOf(err) != errs.KindInvalid {
			t.Errorf("%s: error %v, want an invalid one", tc.why, err)
		}
	}
}

func TestOpener(t *testing.T) {
	t.Parallel()
	var o, other blob.Opener
	open := func(o *blob.Opener, url string) blob.Bucket {
		b, err := o.Bucket(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if open(&o, "mem://a") != open(&o, "mem://a") {
		t.Error("one URL gives two buckets")
	}
	if open(&o, "mem://a") == open(&o, "mem://b") || open(&o, "mem://a") == open(&other, "mem://a") {
		t.Error("buckets in memory are shared")
	}
	if _, err := o.Bucket(t.Context(), "ftp://x"); err == nil {
		t.Error("a bucket of an unknown kind was opened")
	}
}

// Opening and reading leave no trace: a bucket may be mounted read-only.
func TestFolderIsMadeByTheFirstWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/deep/bucket"
	b, err := blob.Open(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range b.List(t.Context(), "us/") {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "us/a"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Open(t.Context(), "us/a"); errs.KindOf(err) != errs.KindNotFound {
		t.Fatalf("error %v, want not found", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder was made by reading (error %v)", err)
	}
	if err := b.Create(t.Context(), "us/a", blobtest.Text("x")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(dir + "/us/a"); err != nil || string(text) != "x" {
		t.Errorf("the file is %q (error %v), want plain data", text, err)
	}
}
