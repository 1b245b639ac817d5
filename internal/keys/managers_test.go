package keys_test

import (
	"errors"
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
	if err := running.start(); err != nil {
		slog.Error("the managers cannot be started", "error", err)
		return 1
	}
	defer running.close()
	return run()
}

func (m *managers) start() error {
	var errs [4]error
	m.google, errs[0] = keystest.StartGoogle()
	m.aws, errs[1] = keystest.StartAWS()
	m.azure, errs[2] = keystest.StartAzure()
	m.vault, errs[3] = keystest.StartVault()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	for _, one := range m.all() {
		for name, value := range one.Env() {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *managers) close() {
	for _, one := range m.all() {
		one.Close()
	}
}

func (m *managers) all() map[string]keystest.Manager {
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
