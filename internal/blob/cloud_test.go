package blob_test

import (
	"testing"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/blob/emulators"
)

func TestClouds(t *testing.T) {
	t.Parallel()
	for _, kind := range emulators.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			blobtest.Run(t, func(t *testing.T) blob.Bucket { return open(t, blobtest.CloudURL(t, kind)) })
		})
	}
}

func open(t *testing.T, url string) blob.Bucket {
	t.Helper()
	b, err := blob.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCloudIndexNeverGoesBack(t *testing.T) {
	t.Parallel()
	for _, kind := range emulators.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			url := blobtest.CloudURL(t, kind)
			blobtest.IndexNeverGoesBack(t, func(t *testing.T) blob.Bucket { return open(t, url) })
		})
	}
}
