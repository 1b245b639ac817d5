package blob_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
)

// A service that does not know who it is says in one line what to set. These
// tests change the environment, hence none is parallel.
func TestCredentials(t *testing.T) {
	for _, tc := range []struct {
		why, url    string
		environment map[string]string
		want        string
	}{
		{"Google: the file is not there", "gs://bucket", map[string]string{
			"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json",
		}, "no credentials for bucket gs://bucket: run as a service account"},
		{"AWS: nothing in the chain", "s3://bucket?region=eu-west-1", map[string]string{
			"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true",
			"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_CONFIG_FILE": "/nonexistent",
		}, "no credentials for bucket s3://bucket: give the service a role"},
		{"AWS: no region", "s3://bucket", map[string]string{
			"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": "/nonexistent",
			"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
		}, "the region of bucket s3://bucket is not known"},
		{"Azure: no account", "azblob://bucket", map[string]string{"AZURE_STORAGE_ACCOUNT": ""}, "set AZURE_STORAGE_ACCOUNT"},
		{"Azure: nothing in the chain", "azblob://bucket", map[string]string{
			"AZURE_STORAGE_ACCOUNT": "account", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
			"AZURE_TENANT_ID": "", "AZURE_CLIENT_ID": "", "AZURE_CLIENT_SECRET": "",
		}, "no credentials for bucket azblob://bucket: give the service a managed identity"},
		{"Azure: a key that is none", "azblob://bucket", map[string]string{
			"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": "s3cret!",
		}, "AZURE_STORAGE_KEY must be the base64 key"},
		{"Azure: a connection string that is none", "azblob://bucket", map[string]string{
			"AZURE_STORAGE_CONNECTION_STRING": "s3cret!",
		}, "AZURE_STORAGE_CONNECTION_STRING is no connection string"},
		{"Azure: an endpoint would get a signature that is good elsewhere too", "azblob://bucket?endpoint=https://store.example", map[string]string{
			"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_SAS_TOKEN": "sig=s3cret!",
		}, "set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"},
		{"Azure: nothing of a signed URL is told when it is not reached", "azblob://bucket", map[string]string{
			"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://127.0.0.1:1/account;SharedAccessSignature=sig=s3cret",
		}, "bucket azblob://bucket is not reached"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			for _, name := range []string{"AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_DOMAIN", "STORAGE_EMULATOR_HOST"} {
				t.Setenv(name, "")
			}
			for name, value := range tc.environment {
				t.Setenv(name, value)
			}
			for name, err := range use(t, blob.Impatient(open(t, tc.url), 10*time.Second)) {
				switch {
				case err == nil || errs.KindOf(err) != errs.Internal:
					t.Errorf("%s: error %v, want one of ours", name, err)
				case !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n"):
					t.Errorf("%s: error %q, want one line with %q", name, err, tc.want)
				case strings.Contains(err.Error(), "s3cret"):
					t.Errorf("%s: error %q tells a secret", name, err)
				}
			}
		})
	}
}

// Credentials that are looked for too slowly are looked for again.
func TestCredentialsAreSlow(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_CONFIG_FILE": "/nonexistent",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": slow.URL, "AWS_EC2_METADATA_DISABLED": "false",
	} {
		t.Setenv(name, value)
	}
	b := blob.Impatient(open(t, "s3://bucket?region=eu-west-1"), 20*time.Millisecond)
	err := b.Delete(t.Context(), "us/1.zip")
	if err == nil || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("error %v, want one that tells of the silence", err)
	}
}
