package blob

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// refusal is an error that another attempt would meet too.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// answer is how a cloud refused a request.
type answer struct {
	status int
	code   string // as the cloud's documentation lists them; may be empty
	region string // where the bucket is, if that is told
}

// account is what an operator calls a bucket, for messages.
type account struct {
	bucket string // its URL, without options
	rights string // what we need
}

// Codes that say more than their status. Where no code is told the status must
// do: then a missing bucket looks like a missing object.
var (
	noBucket    = []string{"NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "ContainerBeingDeleted", "InvalidResourceName"}
	wrongRegion = []string{"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint"}
	overtaken   = []string{"BlobAlreadyExists", "ConditionalRequestConflict"}
)

// judge says what an answer means, in a sentence for the operator.
func (a account) judge(got answer) error {
	switch {
	case slices.Contains(noBucket, got.code):
		return a.missing()
	case slices.Contains(wrongRegion, got.code) || got.status >= 300 && got.status < 400:
		return refusal{fmt.Errorf("bucket %s is in another region%s: say it in the URL, as in ?region=eu-west-1 (%s)", a.bucket, in(got.region), got)}
	case slices.Contains(overtaken, got.code) || got.status == http.StatusPreconditionFailed:
		return errOvertaken
	case got.status == http.StatusNotFound:
		return errAbsent
	case got.status == http.StatusUnauthorized || got.status == http.StatusForbidden:
		return refusal{fmt.Errorf("bucket %s does not let us in (%s): this service needs %s", a.bucket, got, a.rights)}
	case got.transient():
		return fmt.Errorf("bucket %s answers %s", a.bucket, got)
	}
	return refusal{fmt.Errorf("bucket %s refuses the request: %s", a.bucket, got)}
}

func (a account) missing() error {
	return refusal{fmt.Errorf("there is no bucket %s: create it, or correct the URL", a.bucket)}
}

// transient answers may be others at the next attempt.
func (got answer) transient() bool {
	switch got.status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return got.status >= 500
}

func (got answer) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", got.status, got.code))
}

func in(region string) string {
	if region == "" {
		return ""
	}
	return ", " + region
}

// noCredentials is a service that does not know who it is.
func (a account) noCredentials(cause error, source string) error {
	return refusal{fmt.Errorf("%w for bucket %s: %s (%w)", errNobody, a.bucket, source, oneLine(cause))}
}

var errNobody = errors.New("no credentials")

// unreachable is a failure without an answer. Of the URL nothing is told: it may
// be signed.
func (a account) unreachable(err error) error {
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err
	}
	return fmt.Errorf("bucket %s is not reached: %w", a.bucket, oneLine(err))
}

// brief is an error of which only the first line is shown: clients of clouds
// print whole answers.
type brief struct{ error }

func oneLine(err error) error { return brief{err} }

func (b brief) Error() string {
	line, _, _ := strings.Cut(strings.TrimSpace(b.error.Error()), "\n")
	return line
}

func (b brief) Unwrap() error { return b.error }
