package blob

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"enkeyserver/internal/errs"
)

// address is a bucket's URL, taken apart.
type address struct {
	kind     string // the scheme
	folder   string
	bucket   string // of a cloud
	region   string // of S3; "" if the environment tells
	endpoint string // "" for the cloud's own
}

// String is the address without options.
func (a address) String() string { return a.kind + "://" + a.bucket }

// CheckURL refuses what Open could not open. It touches nothing.
func CheckURL(bucketURL string) error {
	_, err := parse(bucketURL)
	return err
}

func parse(bucketURL string) (address, error) {
	u, err := url.Parse(bucketURL)
	if err != nil || u.Scheme == "" {
		return address{}, invalid("a bucket must be a URL such as file:///var/lib/en/bucket or gs://bucket")
	}
	switch u.Scheme {
	case "mem":
		return address{kind: u.Scheme}, nil
	case "file":
		return folderAddress(u)
	case "gs", "azblob":
		return cloudAddress(u, "endpoint")
	case "s3":
		return cloudAddress(u, "endpoint", "region")
	}
	return address{}, invalid("there are no buckets of the kind %q: use file, gs, s3 or azblob", u.Scheme)
}

// folderAddress insists on an absolute path: a relative one would be another
// folder for each service.
func folderAddress(u *url.URL) (address, error) {
	if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return address{}, invalid("a folder must be written with three slashes and an absolute path: file:///var/lib/en/bucket")
	}
	return address{kind: u.Scheme, folder: u.Path}, nil
}

// bucketName is what all the clouds have in common; each has rules of its own
// beyond that, and tells them.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

// cloudAddress refuses a path: where an export's files are in their bucket is
// the export's root.
func cloudAddress(u *url.URL, options ...string) (address, error) {
	if !bucketName.MatchString(u.Host) || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Fragment != "" {
		return address{}, invalid("a bucket of a cloud must be written by its name alone, as in %s://my-bucket", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return address{}, invalid("the options of bucket %s cannot be read", u.Host)
	}
	for name, values := range query {
		if !slices.Contains(options, name) || len(values) != 1 || values[0] == "" {
			return address{}, invalid("bucket %s: option %q must be one of %s, once, and not empty", u.Host, name, strings.Join(options, " and "))
		}
	}
	a := address{kind: u.Scheme, bucket: u.Host, region: query.Get("region"), endpoint: query.Get("endpoint")}
	return a, checkEndpoint(a.endpoint)
}

// checkEndpoint allows http:// too: a store beside us in a cluster may have no
// certificate, no endpoint is ever sent more than signatures, and what is stored
// is public.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return invalid("the endpoint of a bucket must be a URL such as https://store.example:9000")
	}
	return nil
}

func invalid(format string, args ...any) error { return errs.Invalid("bucket_url", format, args...) }
