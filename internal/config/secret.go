package config

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"
)

// Secrets gives what references like secret://… stand for.
type Secrets interface {
	// Value is the secret as its manager had it some minutes ago at most.
	Value(ctx context.Context, ref string) (string, error)

	// Renewed is the secret as its manager has it now, for who has tried the
	// value in vain. When the manager cannot say, it is the last one known.
	Renewed(ctx context.Context, ref string) (string, error)
}

// Keeper is a struct of settings, inside the one that is read, some of whose
// secrets may change while the program runs.
type Keeper interface {
	// KeepSecret tells that a variable is a reference, and how to ask again for
	// its value: current as Secrets.Value, renewed as Secrets.Renewed.
	KeepSecret(variable string, current, renewed func(context.Context) (string, error))
}

// secretScheme starts a value that is a reference.
const secretScheme = "secret://"

// secretsTimeout bounds how long a start may wait for all secrets together.
const secretsTimeout = 20 * time.Second

// secret is what a reference stands for, and how to ask again.
type secret struct {
	value            string
	err              error
	current, renewed func(context.Context) (string, error)
}

// resolve asks for the values of all variables that are references, at once:
// each may take a trip to another continent. The map is by variable.
func resolve(ctx context.Context, vars []variable, secrets Secrets) map[string]secret {
	ctx, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	found := map[string]secret{}
	for _, v := range vars {
		ref := os.Getenv(v.name)
		if !strings.HasPrefix(ref, secretScheme) {
			continue
		}
		all.Go(func() {
			s := secretOf(ctx, ref, secrets)
			mu.Lock()
			defer mu.Unlock()
			found[v.name] = s
		})
	}
	all.Wait()
	return found
}

func secretOf(ctx context.Context, ref string, secrets Secrets) secret {
	if secrets == nil {
		return secret{err: errors.New("secret:// references are not resolved here; set the value itself")}
	}
	s := secret{
		current: func(ctx context.Context) (string, error) { return secrets.Value(ctx, ref) },
		renewed: func(ctx context.Context) (string, error) { return secrets.Renewed(ctx, ref) },
	}
	s.value, s.err = s.current(ctx)
	if s.err == nil && s.value == "" {
		s.err = errors.New("the secret is empty")
	}
	return s
}

// keep tells the struct that the variable belongs to, if it wants to know. One
// that is embedded under a name of its package's own cannot be told.
func (v variable) keep(s secret) {
	if !v.owner.Addr().CanInterface() {
		return
	}
	if keeper, ok := reflect.TypeAssert[Keeper](v.owner.Addr()); ok {
		keeper.KeepSecret(v.name, s.current, s.renewed)
	}
}
