// Package config reads a struct from the environment, and prints the reference
// of its variables for the documentation.
//
// A settings struct names each variable in a tag:
//
//	Timeout time.Duration `envconfig:"WORKER_TIMEOUT" default:"5m" min:"1s" desc:"one run at most"`
//
// Besides default, required and desc there are options (a list of the accepted
// words), min and max (for numbers and durations). Structs inside are
// flattened, without a prefix. An empty variable counts as one that is not set.
package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/kelseyhightower/envconfig"
)

// Read fills the struct that into points to. A value that is a reference is
// replaced by what it stands for; when secrets is nil, references are refused.
//
// An error is one line that names the variable and says what is accepted. It
// never repeats the value, which may be a password in the wrong place.
func Read(ctx context.Context, into any, secrets Secrets) error {
	vars, err := variables(into)
	if err != nil {
		return err
	}
	found := resolve(ctx, vars, secrets)
	for _, v := range vars {
		if err := v.read(found[v.name]); err != nil {
			return err
		}
	}
	return nil
}

// read sets the variable's field from the environment, or to its default.
func (v variable) read(found secret) error {
	value := os.Getenv(v.name)
	if found.err != nil {
		return fmt.Errorf("%s: %w", v.name, found.err)
	}
	if found.current != nil {
		value = found.value
		v.keep(found)
	}
	if value == "" && v.required {
		return fmt.Errorf("%s must be set: %s", v.name, v.meaning())
	}
	value, ok := v.option(value)
	if !ok || v.parse(value) != nil || !v.inBounds() {
		return fmt.Errorf("%s must be %s", v.name, v.accepts())
	}
	return nil
}

// parse lets envconfig turn the text into the field's type. It knows only how
// to read the environment, so the value stands there for that moment: what
// was a reference must not stay, for programs that are started later.
func (v variable) parse(value string) (err error) {
	before, wasSet := os.LookupEnv(v.name)
	defer func() {
		if wasSet {
			err = errors.Join(err, os.Setenv(v.name, before))
		}
	}()
	if value == "" {
		err = os.Unsetenv(v.name)
	} else if value != before {
		err = os.Setenv(v.name, value)
	}
	if err != nil {
		return err
	}

	// One struct a variable: envconfig would put the names of the outer fields
	// before those of the inner ones.
	one := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: v.field.Type(), Tag: v.tag}}))
	if err := envconfig.Process("", one.Interface()); err != nil {
		return err
	}
	v.field.Set(one.Elem().Field(0))
	return nil
}

// unreadable is a struct that cannot be read: a mistake in the program, not in
// its environment.
func unreadable(t reflect.Type, field, why string) error {
	return fmt.Errorf("config: field %s of %s %s", field, t, why)
}
