package keys

import (
	"net"
	"net/url"
	"os"
	"strings"
)

// The servers that stand in for a cloud on a developer's machine. AWS and Vault
// have variables of their own for that.
const (
	debugGoogle = "DEBUG_GCP_KMS_ENDPOINT"         // host:port, gRPC without TLS and without credentials
	debugAzure  = "DEBUG_AZURE_KEY_VAULT_ENDPOINT" // https://host:port, for every vault
)

// standIn gives the server that stands in for a cloud, or "". Services refuse
// the variable in production when they start; the command line does so here.
func standIn(name string) (string, error) {
	endpoint := os.Getenv(name)
	if endpoint != "" && production() {
		return "", refuse("%s must not be set when ENVIRONMENT=production: it is for development only", name)
	}
	return endpoint, nil
}

// notInTheClear refuses, in production, addresses that would carry tokens and
// keys over a wire without TLS; an agent on the same machine has no wire.
func notInTheClear(names ...string) error {
	for _, name := range names {
		u, err := url.Parse(os.Getenv(name))
		if err != nil {
			return refuse("%s must be a URL: https://HOST", name)
		}
		if u.Scheme == "http" && !loopback(u.Hostname()) && production() {
			return refuse("%s must start with https:// when ENVIRONMENT=production", name)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func production() bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(os.Getenv("ENVIRONMENT"))), "prod")
}
