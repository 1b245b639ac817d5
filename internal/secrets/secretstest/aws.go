package secretstest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// AWS is a fake AWS Secrets Manager: JSON 1.1 over TLS.
type AWS struct {
	*Stock
	address, roots string
}

const (
	awsKey    = "AKIDFAKE"
	awsRegion = "eu-fake-1"
)

// NewAWS starts one. It ends with the test.
func NewAWS(tb testing.TB) *AWS {
	tb.Helper()
	a := &AWS{Stock: newStock()}
	a.address, a.roots = serve(tb, a.Stock, a.serve)
	return a
}

// Env is the environment in which programs find the server.
func (a *AWS) Env() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": a.address,
		"AWS_CA_BUNDLE":                    a.roots,
		"AWS_REGION":                       awsRegion,
		"AWS_ACCESS_KEY_ID":                awsKey,
		"AWS_SECRET_ACCESS_KEY":            "fake",
		"AWS_EC2_METADATA_DISABLED":        "true",
	}
}

// Reference refers to a secret.
func (*AWS) Reference(name string) string { return "secret://aws/" + name }

// Field refers to a field of a secret.
func (a *AWS) Field(name, field string) string { return a.Reference(name) + "#" + field }

func (a *AWS) serve(w http.ResponseWriter, r *http.Request) {
	var in struct{ SecretId, VersionId, VersionStage string }
	text, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(text, &in) != nil || r.Method != http.MethodPost ||
		r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		awsError(w, http.StatusBadRequest, "ValidationException")
		return
	}
	scope := fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s/%s/secretsmanager/aws4_request, ", awsKey, time.Now().UTC().Format("20060102"), awsRegion)
	if !strings.HasPrefix(r.Header.Get("Authorization"), scope) {
		awsError(w, http.StatusBadRequest, "UnrecognizedClientException")
		return
	}
	w.Header().Set(question, in.SecretId)
	value, why := a.version(in.SecretId, awsVersion(in.VersionId, in.VersionStage))
	switch why {
	case missing:
		awsError(w, http.StatusBadRequest, "ResourceNotFoundException")
	case disabled:
		awsError(w, http.StatusBadRequest, "InvalidRequestException")
	case forbidden:
		awsError(w, http.StatusBadRequest, "AccessDeniedException")
	default:
		writeJSON(w, http.StatusOK, awsSecret(in.SecretId, value))
	}
}

// awsVersion is 1 for the stage AWSPREVIOUS and for the id that ends in 1.
func awsVersion(id, stage string) int {
	switch {
	case stage == "AWSPREVIOUS", strings.HasSuffix(id, "1"):
		return 1
	case id != "", stage != "" && stage != "AWSCURRENT":
		return -1
	}
	return 0
}

// awsSecret answers with text, or with bytes where JSON has no text for them.
func awsSecret(name string, value []byte) map[string]any {
	answer := map[string]any{"Name": name, "VersionStages": []string{"AWSCURRENT"}}
	if text := string(value); strings.ToValidUTF8(text, "") == text {
		answer["SecretString"] = text
	} else {
		answer["SecretBinary"] = value
	}
	return answer
}

func awsError(w http.ResponseWriter, status int, kind string) {
	writeJSON(w, status, map[string]string{"__type": kind, "Message": "refused by the fake"})
}
