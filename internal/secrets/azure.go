package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

// azureManager reads from Azure Key Vaults, with a client for each.
type azureManager struct {
	endpoint   string // of development
	transport  *http.Client
	credential azcore.TokenCredential

	mu      sync.Mutex
	clients map[string]*azsecrets.Client // by URL
}

func openAzure(endpoint string) (manager, error) {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, err
	}
	return &azureManager{
		endpoint:   endpoint,
		transport:  &http.Client{Transport: boundTransport{http.DefaultTransport}},
		credential: credential,
		clients:    map[string]*azsecrets.Client{},
	}, nil
}

// read implements manager.
func (m *azureManager) read(ctx context.Context, id identity) ([]byte, error) {
	host, name, _ := strings.Cut(id.name, "/")
	client, err := m.client(host)
	if err != nil {
		return nil, err
	}
	answer, err := client.GetSecret(ctx, name, id.version, nil)
	if err != nil {
		return nil, judgeAzure(id, err)
	}
	if answer.Value == nil {
		return nil, nil
	}
	return []byte(*answer.Value), nil
}

func (m *azureManager) client(host string) (*azsecrets.Client, error) {
	address := "https://" + host + ".vault.azure.net"
	if strings.Contains(host, ".") {
		address = "https://" + host // of another cloud, or a private one
	}
	if m.endpoint != "" {
		address = m.endpoint
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.clients[address]; ok {
		return c, nil
	}
	c, err := azsecrets.NewClient(address, m.credential, &azsecrets.ClientOptions{
		ClientOptions: policy.ClientOptions{
			Transport: m.transport,
			Retry:     policy.RetryOptions{MaxRetries: -1},
			Telemetry: policy.TelemetryOptions{Disabled: true},
		},
		// A token for Key Vault goes to Key Vaults alone, except in development.
		DisableChallengeResourceVerification: m.endpoint != "",
	})
	if err != nil {
		return nil, err
	}
	m.clients[address] = c
	return c, nil
}

func judgeAzure(id identity, err error) error {
	if errors.Is(err, errTooLong) {
		return unusableFor(id, tooLong)
	}
	var refused *azidentity.AuthenticationFailedError
	if errors.As(err, &refused) && refused.RawResponse != nil && refused.RawResponse.StatusCode < http.StatusInternalServerError {
		return &failure{verdict: denied, identity: id}
	}
	var said *azcore.ResponseError
	if !errors.As(err, &said) {
		return err
	}
	switch said.StatusCode {
	case http.StatusNotFound:
		return &failure{verdict: missing, identity: id}
	case http.StatusForbidden:
		if body, err := runtime.Payload(said.RawResponse); err == nil && bytes.Contains(body, []byte(`"SecretDisabled"`)) {
			return &failure{verdict: disabled, identity: id}
		}
		return &failure{verdict: denied, identity: id}
	case http.StatusUnauthorized:
		return &failure{verdict: denied, identity: id}
	}
	return fmt.Errorf("HTTP status %d (%s)", said.StatusCode, said.ErrorCode)
}
