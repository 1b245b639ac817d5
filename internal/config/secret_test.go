package config_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/config"
)

// manager knows a few secrets by heart.
type manager struct{}

func (manager) Value(_ context.Context, ref string) (string, error) {
	switch ref {
	case "secret://host", "secret://word":
		return "s3same", nil
	case "secret://port":
		return "5432", nil
	case "secret://on":
		return "true", nil
	case "secret://empty":
		return "", nil
	default:
		return "", errors.New("there is no such secret")
	}
}

func (m manager) Renewed(_ context.Context, ref string) (string, error) { return "new " + ref, nil }

// keeper goes on asking for its secrets.
type keeper struct {
	Host string `envconfig:"T_HOST" desc:"host name"`
	Name string `envconfig:"T_NAME" desc:"name"`
	kept map[string]func(context.Context) (string, error)
}

func (k *keeper) KeepSecret(variable string, current, renewed func(context.Context) (string, error)) {
	k.kept = map[string]func(context.Context) (string, error){variable: current, variable + " renewed": renewed}
}

// Whoever goes on asking is told how, wherever in the settings it stands, and
// for references alone.
func TestReadLetsSecretsBeKept(t *testing.T) {
	t.Setenv("T_HOST", "secret://host")
	t.Setenv("T_NAME", "plain")
	t.Setenv("T_ON", "secret://on") // of a struct that cannot be told
	var s struct {
		embedded
		Inner keeper
	}
	if err := config.Read(t.Context(), &s, manager{}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for variable, ask := range s.Inner.kept {
		value, err := ask(t.Context())
		if err != nil {
			t.Error(err)
		}
		got[variable] = value
	}
	want := map[string]string{"T_HOST": "s3same", "T_HOST renewed": "new secret://host"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}
}

// meeting answers when everybody has asked.
type meeting struct {
	manager
	all *sync.WaitGroup
}

func (m meeting) Value(context.Context, string) (string, error) {
	m.all.Done()
	m.all.Wait()
	return "80", nil
}

func TestSecretsAreAskedForAtOnce(t *testing.T) {
	t.Setenv("T_HOST", "secret://host")
	t.Setenv("T_PORT", "secret://port")
	var all sync.WaitGroup
	all.Add(2)
	if err := config.Read(t.Context(), new(inner), meeting{all: &all}); err != nil {
		t.Error(err)
	}
}

// silence answers when nobody waits any more.
type silence struct{ manager }

func (silence) Value(ctx context.Context, _ string) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

func TestAStartDoesNotWaitForEver(t *testing.T) {
	t.Setenv("T_HOST", "secret://host")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		err := config.Read(t.Context(), new(inner), silence{})
		if err == nil || !strings.HasPrefix(err.Error(), "T_HOST: ") {
			t.Errorf("error %v, want one that names the variable", err)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}
