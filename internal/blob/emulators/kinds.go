package emulators

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"google.golang.org/api/option"

	"enkeyserver/internal/errs"
)

// region is what versitygw takes itself to be in.
const region = "us-east-1"

// program is the file without which a kind cannot be started, where
// scripts/emulators puts it.
func (k Kind) program() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "enkeyserver", "emulators", map[Kind]string{
		Google: "go/fake-gcs-server",
		Amazon: "go/versitygw",
		Azure:  "azurite/node_modules/azurite/dist/src/blob/main.js",
	}[k])
}

func installed(k Kind) error {
	if _, err := os.Stat(k.program()); err != nil {
		return ErrMissing
	}
	if _, err := exec.LookPath("node"); err != nil && k == Azure {
		return ErrMissing
	}
	return nil
}

// command starts the emulator at its address, with its data in memory or in its
// folder.
func (e *Emulator) command() []string {
	host, port, _ := net.SplitHostPort(e.Address) // we have put it together
	program := e.Kind.program()
	switch e.Kind {
	case Google:
		return []string{program, "-scheme=http", "-host=" + host, "-port=" + port, "-public-host=" + e.Address, "-backend=memory", "-log-level=error"}
	case Amazon:
		return []string{program, "--port=" + e.Address, "--region=" + region, "--quiet", "posix", e.folder("data")}
	default:
		return []string{"node", program, "--blobHost=" + host, "--blobPort=" + port, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"}
	}
}

// environment is that of the emulator itself.
func (e *Emulator) environment() []string {
	known := Environment()
	return []string{"ROOT_ACCESS_KEY=" + known["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY=" + known["AWS_SECRET_ACCESS_KEY"]}
}

// folder makes a folder for the emulator; that it cannot will show at its start.
func (e *Emulator) folder(name string) string {
	path := filepath.Join(e.dir, name)
	_ = os.Mkdir(path, 0o700)
	return path
}

// Bucket makes an empty bucket and gives the URL that opens it, in a process
// with our Environment.
func (e *Emulator) Bucket(ctx context.Context, name string) (_ string, err error) {
	defer errs.Wrap(&err, "Bucket(%s)", name)
	endpoint := "http://" + e.Address
	query := url.Values{}
	switch e.Kind {
	case Google:
		err = makeGoogle(ctx, endpoint, name)
	case Amazon:
		query.Set("region", region)
		err = makeAmazon(ctx, endpoint, name)
	case Azure:
		endpoint += "/" + Environment()["AZURE_STORAGE_ACCOUNT"]
		err = makeAzure(ctx, endpoint, name)
	default:
		err = fmt.Errorf("no emulator is of the kind %q", e.Kind)
	}
	query.Set("endpoint", endpoint)
	return fmt.Sprintf("%s://%s?%s", e.Kind, name, query.Encode()), err
}

func makeGoogle(ctx context.Context, endpoint, name string) error {
	client, err := storage.NewClient(ctx, option.WithEndpoint(endpoint+"/storage/v1/"), option.WithoutAuthentication())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // nothing is under way
	return client.Bucket(name).Create(ctx, "project", nil)
}

func makeAmazon(ctx context.Context, endpoint, name string) error {
	known := Environment()
	client := s3.New(s3.Options{
		Region: region, BaseEndpoint: &endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"], ""),
	})
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(name)})
	return err
}

func makeAzure(ctx context.Context, endpoint, name string) error {
	known := Environment()
	key, err := container.NewSharedKeyCredential(known["AZURE_STORAGE_ACCOUNT"], known["AZURE_STORAGE_KEY"])
	if err != nil {
		return err
	}
	client, err := container.NewClientWithSharedKeyCredential(endpoint+"/"+name, key, nil)
	if err != nil {
		return err
	}
	_, err = client.Create(ctx, nil)
	return err
}
