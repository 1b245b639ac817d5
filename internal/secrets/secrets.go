// Package secrets turns the name of a secret into its value.
//
// A reference stands in place of a value:
//
//	secret://[MANAGER/]NAME[?version=V][&target=file][#FIELD]
//
// MANAGER is gcp, aws, azure, vault or file; without one of these words
// SECRET_MANAGER says which it is. A name is taken letter by letter, nothing in
// it is escaped:
//
//	secret://projects/P/secrets/S                   Google Secret Manager, the latest version
//	secret://gcp/projects/P/secrets/S/versions/7    a certain one
//	secret://gcp/projects/P/locations/L/secrets/S   one that stays in its region
//	secret://aws/prod/db#password                   AWS Secrets Manager; or the secret's ARN
//	secret://aws/prod/db?version=AWSPREVIOUS        a stage, or the id of a version
//	secret://azure/VAULT/NAME                       Azure Key Vault; VAULT may be a host name
//	secret://vault/MOUNT/data/PATH#FIELD            HashiCorp Vault, KV version 2, as its API writes it
//	secret://file/NAME                              a file in SECRETS_DIR
//	secret://file//etc/en/NAME                      a file anywhere
//
// FIELD takes one member of a secret that is a JSON object; in Vault every
// secret is one. With target=file the value goes into a file that this process
// alone can read, and its path stands for the reference: for what wants a file,
// such as DB_SSLKEY.
//
// Values are kept for SECRET_CACHE_TTL. Then the manager is asked again; while
// it cannot answer, or what it has is no value, the last one stays in use. It
// stays too when the secret was disabled or our right to it was withdrawn: what
// a password opens decides whether it still does.
//
// Errors of this package have no kind of package errs. Whatever is wrong with a
// secret is ours to mend; it must never become the status that tells a phone to
// give up. They are one line, for the operator, and hold no value.
package secrets

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Settings say where secrets are. What a manager's own client reads (AWS_REGION,
// VAULT_ADDR, GOOGLE_APPLICATION_CREDENTIALS, AZURE_CLIENT_ID and so on)
// counts besides.
type Settings struct {
	Manager  string        `envconfig:"SECRET_MANAGER" default:"gcp" options:"gcp,aws,azure,vault,file" desc:"manager of the references that name none"`
	CacheTTL time.Duration `envconfig:"SECRET_CACHE_TTL" default:"5m" min:"1s" desc:"how long a secret counts as known; after that it is asked for again, where it can change while the program runs: DATABASE_URL, DB_USER, DB_PASSWORD"`
	Timeout  time.Duration `envconfig:"SECRET_TIMEOUT" default:"9s" min:"100ms" max:"1m" desc:"how long a manager is asked for one secret, repetitions included"`
	Dir      string        `envconfig:"SECRETS_DIR" default:"/run/secrets" desc:"folder of secret://file/NAME"`
	Vault    VaultSettings

	GoogleEndpoint string `envconfig:"DEBUG_GCP_SECRET_MANAGER_ENDPOINT" desc:"development only: host:port of another Google Secret Manager, asked without encryption or credentials"`
	AzureEndpoint  string `envconfig:"DEBUG_AZURE_KEY_VAULT_ENDPOINT" desc:"development only: https://host:port of what stands for every Azure Key Vault"`
}

// VaultSettings say who we are for HashiCorp Vault: a token of VAULT_TOKEN, a
// token in a file, or a Kubernetes service account.
type VaultSettings struct {
	TokenFile           string `envconfig:"VAULT_TOKEN_FILE" desc:"file with the token for Vault, read each time; replaces VAULT_TOKEN"`
	KubernetesRole      string `envconfig:"VAULT_KUBERNETES_ROLE" desc:"role with which the pod's service account logs in to Vault; replaces tokens"`
	KubernetesMount     string `envconfig:"VAULT_KUBERNETES_MOUNT" default:"kubernetes" desc:"where Vault's Kubernetes authentication is mounted"`
	KubernetesTokenFile string `envconfig:"VAULT_KUBERNETES_TOKEN_FILE" default:"/var/run/secrets/kubernetes.io/serviceaccount/token" desc:"file with the service account's token"`
}

// Deps are what a Resolver needs.
type Deps struct {
	Now func() time.Time

	// DevelopmentOnly refuses, in production, what is set.
	DevelopmentOnly func(name string, set bool) error
}

// Resolver gives the values of references. It opens a manager when the first
// reference to it is resolved.
type Resolver struct {
	settings Settings
	deps     Deps
	asking   singleflight.Group // by identity: one question at a time

	mu   sync.Mutex
	kept map[identity]*kept

	opening  sync.Mutex
	managers map[string]manager

	writing sync.Mutex
	files   map[string]string // paths, by content
}

// manager is where secrets are kept.
type manager interface {
	// read gives the content of a secret; for Vault, as a JSON object. An error
	// that is no *failure means that the manager could not be asked, or not now.
	read(ctx context.Context, id identity) ([]byte, error)
}

// New makes a Resolver. Nothing is opened, nobody is asked.
func New(s Settings, d Deps) (*Resolver, error) {
	for name, value := range map[string]string{
		"DEBUG_GCP_SECRET_MANAGER_ENDPOINT": s.GoogleEndpoint,
		"DEBUG_AZURE_KEY_VAULT_ENDPOINT":    s.AzureEndpoint,
	} {
		if err := d.DevelopmentOnly(name, value != ""); err != nil {
			return nil, err
		}
	}
	return &Resolver{
		settings: s, deps: d,
		kept: map[identity]*kept{}, managers: map[string]manager{}, files: map[string]string{},
	}, nil
}

// Value gives what a reference stands for. A value that is known already is
// waited for no longer than a moment, however its manager does.
func (r *Resolver) Value(ctx context.Context, ref string) (string, error) {
	return r.resolve(ctx, ref, r.current)
}

// Renewed is Value for who has tried the known value in vain: the manager is
// asked now.
func (r *Resolver) Renewed(ctx context.Context, ref string) (string, error) {
	return r.resolve(ctx, ref, r.renewed)
}

func (r *Resolver) resolve(ctx context.Context, ref string, content func(context.Context, identity) ([]byte, error)) (string, error) {
	p, err := parse(ref, r.settings.Manager)
	if err != nil {
		return "", err
	}
	value, err := content(ctx, p.identity)
	if err != nil {
		return "", err
	}
	if p.field != "" {
		if value, err = field(p, value); err != nil {
			return "", err
		}
	}
	if p.file {
		return r.file(value)
	}
	return text(p.identity, value)
}

// opened gives the manager of a secret. It is the one place where they are
// chosen. A failure is not remembered.
func (r *Resolver) opened(ctx context.Context, name string) (m manager, err error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	if m, ok := r.managers[name]; ok {
		return m, nil
	}
	// The client outlives the question for which it is opened.
	ctx = context.WithoutCancel(ctx)
	switch name {
	case nameGoogle:
		m = openGoogle(ctx, r.settings.GoogleEndpoint)
	case nameAWS:
		m, err = openAWS(ctx, r.deps.DevelopmentOnly)
	case nameAzure:
		m, err = openAzure(r.settings.AzureEndpoint)
	case nameVault:
		m, err = openVault(r.settings.Vault, r.deps.DevelopmentOnly)
	case nameFile:
		m = folder{r.settings.Dir}
	}
	if err != nil {
		return nil, err
	}
	r.managers[name] = m
	return m, nil
}

// warn tells that a secret is used although its manager could not confirm it.
func warn(ctx context.Context, err error) {
	slog.WarnContext(ctx, "a secret could not be read again: its last known value stays in use", "error", err)
}
