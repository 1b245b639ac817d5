package app_test

import (
	"bytes"
	"fmt"
	"testing"

	"enkeyserver/internal/secrets/secretstest"
)

// Every manager, asked by a process of its own as a service is one.
func TestSecretsOfAService(t *testing.T) {
	t.Parallel()
	for _, m := range []secretstest.Manager{
		secretstest.NewGoogle(t), secretstest.NewAWS(t), secretstest.NewAzure(t), secretstest.NewVault(t), secretstest.NewFolder(t),
	} {
		t.Run(fmt.Sprintf("%T", m), func(t *testing.T) {
			t.Parallel()
			m.Put(t, "db-password", "it's s3same")
			cmd := child(t, "password", "DB_PASSWORD="+m.Reference("db-password"))
			for name, value := range m.Env() {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil || stdout.String() != "it's s3same\n" {
				t.Errorf("the password is %q (error %v)\n%s", &stdout, err, &stderr)
			}
		})
	}
}
