package keys_test

import (
	"cmp"
	"log/slog"
	"os"
	"testing"

	"enkeyserver/internal/keys"
	"enkeyserver/internal/keys/keystest"
)

// The managers of this test program. Programs find theirs through the
// environment, and so does this one: that is part of what is tested.
type managers struct {
	google *keystest.Google
	aws    *keystest.AWS
	azure  *keystest.Azure
	vault  *keystest.Vault
}

var running managers // set once, by TestMain

func TestMain(m *testing.M) {
	os.Exit(withManagers(m.Run))
}

func withManagers(run func() int) int {
	var errs [4]error
	running.google, errs[0] = keystest.StartGoogle()
	running.aws, errs[1] = keystest.StartAWS()
	running.azure, errs[2] = keystest.StartAzure()
	running.vault, errs[3] = keystest.StartVault()
	if err := cmp.Or(errs[0], errs[1], errs[2], errs[3]); err != nil {
		slog.Error("the managers cannot be started", "error", err)
		return 1
	}
	for _, m := range running.all() {
		defer m.Close()
		for name, value := range m.Env() {
			if err := os.Setenv(name, value); err != nil {
				slog.Error("the environment cannot be set", "error", err)
				return 1
			}
		}
	}
	return run()
}

func (m managers) all() map[string]keystest.Manager {
	return map[string]keystest.Manager{"Google": m.google, "AWS": m.aws, "Azure": m.azure, "Vault": m.vault}
}

func TestManagedSigners(t *testing.T) {
	t.Parallel()
	for name, m := range running.all() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keystest.RunManagedSigner(t, keystest.Signers{Manager: m, Open: keys.OpenSignerPatiently, Hurried: keys.Hurried})
		})
	}
}

func TestManagedWrappers(t *testing.T) {
	t.Parallel()
	for name, m := range running.all() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keystest.RunManagedWrapper(t, keystest.Wrappers{Manager: m, New: m.NewWrapping, Open: keys.OpenWrapperPatiently})
		})
	}
	t.Run("Azure HSM", func(t *testing.T) {
		t.Parallel()
		m := running.azure
		keystest.RunManagedWrapper(t, keystest.Wrappers{Manager: m, New: m.NewWrappingInHSM, Open: keys.OpenWrapperPatiently})
	})
}
