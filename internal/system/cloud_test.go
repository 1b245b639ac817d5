package system_test

import (
	"context"
	"maps"
	"testing"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/blob/blobtest"
	"enkeyserver/internal/blob/emulators"
	"enkeyserver/internal/keys/keystest"
	"enkeyserver/internal/secrets/secretstest"
	"enkeyserver/internal/system"
)

// The same story, kept by others: nothing that a provider keeps is in a file or
// in the environment of a service.
func TestEndToEndInClouds(t *testing.T) {
	t.Parallel()
	for name, provider := range map[string]func(t *testing.T) *system.Cloud{
		"Google":       google,
		"S3 and Vault": vaultAndS3,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud := provider(t)
			var err error
			if cloud.Files, err = blob.Open(t.Context(), cloud.Bucket); err != nil {
				t.Fatal(err)
			}
			counts, err := system.Tell(t.Context(), t.Output(), system.Options{Binaries: binaries, Cloud: cloud}, 30)
			if err != nil {
				t.Fatal(err)
			}
			if counts.Warned != 13 || counts.NotWarned != 17 || counts.Withdrawn != 3 {
				t.Errorf("%d phones were warned, %d never, %d no longer; want 13, 17 and 3", counts.Warned, counts.NotWarned, counts.Withdrawn)
			}
		})
	}
}

// manager is a fake manager of keys.
type manager interface {
	NewSigning(kind keystest.Kind) string
	NewWrapping() string
	Env() map[string]string
	Close()
}

// secretManager is a fake manager of secrets.
type secretManager interface {
	Put(tb testing.TB, name, value string)
	Reference(name string) string
}

// cloudOf is a cloud with a bucket and keys. Where no emulator of the bucket is
// installed the test is skipped.
func cloudOf(t *testing.T, bucket emulators.Kind, keeper manager, secrets secretManager, more map[string]string) *system.Cloud {
	t.Helper()
	t.Cleanup(keeper.Close)
	c := &system.Cloud{
		Bucket:      blobtest.CloudURL(t, bucket),
		SigningKeys: [2]string{keeper.NewSigning(keystest.P256), keeper.NewSigning(keystest.P256)},
		WrappingKey: keeper.NewWrapping(),
		Environment: emulators.Environment(),
		Keep: func(_ context.Context, name, value string) (string, error) {
			secrets.Put(t, name, value)
			return secrets.Reference(name), nil
		},
	}
	maps.Copy(c.Environment, keeper.Env())
	maps.Copy(c.Environment, more)
	return c
}

func google(t *testing.T) *system.Cloud {
	t.Helper()
	keeper, err := keystest.StartGoogle()
	if err != nil {
		t.Fatal(err)
	}
	secrets := secretstest.NewGoogle(t)
	return cloudOf(t, emulators.Google, keeper, secrets, secrets.Env())
}

func vaultAndS3(t *testing.T) *system.Cloud {
	t.Helper()
	keeper, err := keystest.StartVault()
	if err != nil {
		t.Fatal(err)
	}
	secrets := secretstest.NewVault(t)
	secrets.Trust(keystest.VaultToken)
	keeper.Handle("/v1/team/", secrets.Handler())
	return cloudOf(t, emulators.Amazon, keeper, secrets, nil)
}
