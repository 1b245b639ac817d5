package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"enkeyserver/internal/config"
	"enkeyserver/internal/secrets"
)

// OpenSecrets makes what resolves the references in the environment of a
// program, as that environment says. It asks nobody yet. The variables that it
// reads itself cannot be references.
func OpenSecrets(ctx context.Context) (*secrets.Resolver, error) {
	var s struct {
		Environment string `envconfig:"ENVIRONMENT" desc:"production refuses every DEBUG_ variable"`
		Secrets     secrets.Settings
	}
	if err := config.Read(ctx, &s, nil); err != nil {
		return nil, err
	}
	return secrets.New(s.Secrets, secrets.Deps{
		Now: time.Now,
		// It comes before there is a log. What is allowed is told when the
		// service starts, as every variable with DEBUG_ is.
		DevelopmentOnly: func(name string, set bool) error {
			if set && production(s.Environment) {
				return refusal(name)
			}
			return nil
		},
	})
}

func refusal(name string) error {
	return fmt.Errorf("%s must not be set when ENVIRONMENT=production: it is for development only", name)
}

// production forgives how the word is written: who wrote any form of it wants
// the rules kept.
func production(environment string) bool {
	switch strings.ToLower(strings.TrimSpace(environment)) {
	case "production", "prod":
		return true
	default:
		return false
	}
}
