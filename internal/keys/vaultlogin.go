package keys

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	vault "github.com/hashicorp/vault/api"
)

// login is a way into Vault. Who we are comes from the environment, as it does
// for the secrets that Vault keeps:
//
//   - VAULT_KUBERNETES_ROLE, a role of Vault's Kubernetes login, which is mounted
//     at VAULT_KUBERNETES_MOUNT (kubernetes): the pod's service account gets a
//     token, and a new one when two thirds of its life are over. The account's
//     own token is in VAULT_KUBERNETES_TOKEN_FILE, or where Kubernetes puts it.
//   - VAULT_TOKEN_FILE, read each time: somebody else keeps it fresh.
//   - VAULT_TOKEN, which must outlive this process.
//
// Addresses, certificates and namespaces are VAULT_ADDR, VAULT_CACERT,
// VAULT_NAMESPACE and the others that Vault's own client reads.
type login struct {
	base *lazy[vault.Client]
	now  func() time.Time

	mu    sync.Mutex    // guards the two below
	own   *vault.Client // with a token; nil: not logged in
	until time.Time     // when to log in again; zero: never
}

func newLogin(now func() time.Time) *login { return &login{base: newLazy(openVault), now: now} }

func openVault(context.Context) (*vault.Client, error) {
	c := vault.DefaultConfig()
	if c.Error != nil {
		return nil, refuse("the settings of Vault cannot be read: %s", oneLine(c.Error.Error()))
	}
	if os.Getenv(vault.EnvVaultAddress) == "" && os.Getenv(vault.EnvVaultAgentAddr) == "" {
		return nil, refuse("nothing says where Vault is: set VAULT_ADDR")
	}
	if err := notInTheClear(vault.EnvVaultAddress, vault.EnvVaultAgentAddr); err != nil {
		return nil, err
	}
	c.MaxRetries = 0
	client, err := vault.NewClient(c)
	if err != nil {
		return nil, refuse("the settings of Vault cannot be used: %s", oneLine(err.Error()))
	}
	return client, nil
}

func (l *login) read(ctx context.Context, path string) (*vault.Secret, error) {
	return l.ask(ctx, func(c *vault.Client) (*vault.Secret, error) { return c.Logical().ReadWithContext(ctx, path) })
}

func (l *login) write(ctx context.Context, path string, data map[string]any) (*vault.Secret, error) {
	return l.ask(ctx, func(c *vault.Client) (*vault.Secret, error) { return c.Logical().WriteWithContext(ctx, path, data) })
}

// ask asks with the token of the moment. One that Vault took back before its
// time is replaced, once.
func (l *login) ask(ctx context.Context, question func(*vault.Client) (*vault.Secret, error)) (*vault.Secret, error) {
	client, fresh, err := l.enter(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := question(client)
	if fresh || !forbidden(err) {
		return answer, err
	}
	l.forget(client)
	if client, _, err = l.enter(ctx); err != nil {
		return nil, err
	}
	return question(client)
}

func forbidden(err error) bool {
	var answer *vault.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden
}

func (l *login) forget(own *vault.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own == own {
		l.own = nil
	}
}

// enter gives a client that has a token, and whether there can be no fresher
// one. Whoever comes meanwhile waits: a login takes one bounded question.
func (l *login) enter(ctx context.Context) (client *vault.Client, fresh bool, err error) {
	base, err := l.base.get(ctx)
	if err != nil {
		return nil, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	role, file := os.Getenv("VAULT_KUBERNETES_ROLE"), os.Getenv("VAULT_TOKEN_FILE")
	switch {
	case role != "":
		fresh, err = l.asPod(ctx, base, role)
	case file != "":
		fresh, err = true, l.byFile(base, file)
	default:
		return base, true, nil
	}
	return l.own, fresh, err
}

// asPod logs in, if there is no token that lives on for a while.
func (l *login) asPod(ctx context.Context, base *vault.Client, role string) (fresh bool, err error) {
	now := l.now()
	if l.own != nil && (l.until.IsZero() || now.Before(l.until)) {
		return false, nil
	}
	auth, err := introduce(ctx, base, role)
	if err != nil {
		return false, err
	}
	l.until = time.Time{}
	if life := time.Duration(auth.LeaseDuration) * time.Second; life > 0 {
		l.until = now.Add(life * 2 / 3)
	}
	return true, l.carry(base, auth.ClientToken)
}

func (l *login) byFile(base *vault.Client, file string) error {
	token, err := os.ReadFile(file) //nolint:gosec // whoever starts this program names the file
	if err != nil {
		return refuse("VAULT_TOKEN_FILE cannot be read: %v", err)
	}
	return l.carry(base, strings.TrimSpace(string(token)))
}

// carry makes a client for a token, beside base: its connections are shared.
func (l *login) carry(base *vault.Client, token string) error {
	if l.own != nil && l.own.Token() == token {
		return nil
	}
	own, err := base.CloneWithHeaders() // the namespace is one
	if err != nil {
		return refuse("the settings of Vault cannot be used: %s", oneLine(err.Error()))
	}
	own.SetToken(token)
	l.own = own
	return nil
}

// introduce shows Vault who this pod is. The file is read each time: Kubernetes
// replaces it every hour.
func introduce(ctx context.Context, base *vault.Client, role string) (*vault.SecretAuth, error) {
	file := cmp.Or(os.Getenv("VAULT_KUBERNETES_TOKEN_FILE"), "/var/run/secrets/kubernetes.io/serviceaccount/token")
	account, err := os.ReadFile(file) //nolint:gosec // whoever starts this program names the file
	if err != nil {
		return nil, refuse("VAULT_KUBERNETES_ROLE is set, but the token of the service account cannot be read: %v", err)
	}
	path := "auth/" + cmp.Or(os.Getenv("VAULT_KUBERNETES_MOUNT"), "kubernetes") + "/login"
	answer, err := base.Logical().WriteWithContext(ctx, path, map[string]any{"role": role, "jwt": strings.TrimSpace(string(account))})
	if err != nil {
		return nil, err
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return nil, again("Vault's login answered without a token")
	}
	return answer.Auth, nil
}
