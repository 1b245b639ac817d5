package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"
)

// vaultManager reads from the KV engine, version 2, of HashiCorp Vault.
type vaultManager struct {
	client   *api.Client
	settings VaultSettings
}

func openVault(s VaultSettings, developmentOnly func(string, bool) error) (manager, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	if os.Getenv(api.EnvVaultAddress) == "" && os.Getenv(api.EnvVaultAgentAddr) == "" {
		return nil, errors.New("VAULT_ADDR must be set: https://HOST:8200")
	}
	for _, name := range []string{api.EnvVaultAddress, api.EnvVaultAgentAddr} {
		if err := refuseInTheClear(name, os.Getenv(name), developmentOnly); err != nil {
			return nil, err
		}
	}
	config.MaxRetries = 0
	config.HttpClient.Transport = boundTransport{config.HttpClient.Transport}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	return &vaultManager{client: client, settings: s}, nil
}

// read implements manager. A token that Vault refuses has often just expired:
// who can get another one by himself does so, once.
func (m *vaultManager) read(ctx context.Context, id identity) ([]byte, error) {
	if err := m.present(ctx); err != nil {
		return nil, judgeVault(id, err)
	}
	content, err := m.get(ctx, id)
	if statusOf(err) == http.StatusForbidden && m.settings.KubernetesRole != "" {
		if err := m.login(ctx); err != nil {
			return nil, judgeVault(id, err)
		}
		content, err = m.get(ctx, id)
	}
	return content, judgeVault(id, err)
}

// present takes care that there is a token to show.
func (m *vaultManager) present(ctx context.Context) error {
	switch {
	case m.settings.KubernetesRole != "":
		if m.client.Token() == "" {
			return m.login(ctx)
		}
	case m.settings.TokenFile != "":
		token, err := os.ReadFile(m.settings.TokenFile)
		if err != nil {
			return fmt.Errorf("VAULT_TOKEN_FILE: %w", err)
		}
		m.client.SetToken(string(bytes.TrimSpace(token)))
	}
	return nil
}

func (m *vaultManager) login(ctx context.Context) error {
	account, err := os.ReadFile(m.settings.KubernetesTokenFile)
	if err != nil {
		return fmt.Errorf("VAULT_KUBERNETES_TOKEN_FILE: %w", err)
	}
	answer, err := m.client.Logical().WriteWithContext(ctx, "auth/"+m.settings.KubernetesMount+"/login", map[string]any{
		"role": m.settings.KubernetesRole,
		"jwt":  string(bytes.TrimSpace(account)),
	})
	if err != nil {
		return err
	}
	if answer == nil || answer.Auth == nil {
		return errors.New("the login to Vault gave no token")
	}
	m.client.SetToken(answer.Auth.ClientToken)
	return nil
}

// get gives the members of a secret as a JSON object.
func (m *vaultManager) get(ctx context.Context, id identity) ([]byte, error) {
	mount, path, _ := strings.Cut(id.name, "/data/")
	engine := m.client.KVv2(mount)
	var secret *api.KVSecret
	var err error
	if id.version == "" {
		secret, err = engine.Get(ctx, path)
	} else {
		number, _ := strconv.Atoi(id.version) // parse has seen the digits
		secret, err = engine.GetVersion(ctx, path, number)
	}
	switch {
	case err != nil:
		return nil, err
	case secret.Data == nil:
		return nil, &failure{verdict: disabled, identity: id}
	case len(secret.Data) == 0:
		return nil, nil
	}
	return json.Marshal(secret.Data)
}

// statusOf is the HTTP status with which Vault refused, or 0.
func statusOf(err error) int {
	if said := (*api.ResponseError)(nil); errors.As(err, &said) {
		return said.StatusCode
	}
	return 0
}

func judgeVault(id identity, err error) error {
	switch code := statusOf(err); {
	case err == nil:
		return nil
	case errors.Is(err, errTooLong):
		return unusableFor(id, tooLong)
	case errors.Is(err, api.ErrSecretNotFound), code == http.StatusNotFound:
		return &failure{verdict: missing, identity: id}
	case code == http.StatusForbidden, code == http.StatusUnauthorized, code == http.StatusBadRequest:
		return &failure{verdict: denied, identity: id} // 400 is also a login that is refused
	case code != 0:
		return fmt.Errorf("HTTP status %d", code)
	}
	return err
}
