package app_test

import (
	"bytes"
	"fmt"
	"os/exec"
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
			tells(t, m, "it's s3same\n", child(t, "password", "DB_PASSWORD="+m.Reference("db-password")))
		})
	}
}

func TestSecretThatWasFoundElsewhere(t *testing.T) {
	t.Parallel()
	folder := secretstest.NewFolder(t)
	folder.Put(t, "found-elsewhere", "s3same")
	tells(t, folder, "s3same\n", child(t, "secret"))
}

// tells runs a service beside a manager, and wants it to print this.
func tells(t *testing.T, m secretstest.Manager, want string, cmd *exec.Cmd) {
	t.Helper()
	for name, value := range m.Env() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stdout.String() != want {
		t.Errorf("it printed %q (error %v), want %q\n%s", &stdout, err, want, &stderr)
	}
}
