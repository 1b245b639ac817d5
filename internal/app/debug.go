package app

import (
	"slices"
	"strings"
)

// debugPrefix starts the names of the variables that weaken a rule, for
// development and tests.
const debugPrefix = "DEBUG_"

// DevelopmentOnly allows what must never be in production. When set, it is an
// error there, and a loud warning, once, everywhere else. Variables that start
// with DEBUG_ have been through it when a service starts.
func (a *App) DevelopmentOnly(name string, set bool) error {
	if !set || a.warned[name] {
		return nil
	}
	if production(a.settings.Environment) {
		return refusal(name)
	}
	a.warned[name] = true
	a.log.Warn("DEVELOPMENT ONLY: a rule that protects people is weakened", "variable", name)
	return nil
}

// refuseDebugging looks at the environment itself, so that a DEBUG_ variable
// meant for another service is refused in production too.
func (a *App) refuseDebugging(environ []string) error {
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if err := a.DevelopmentOnly(name, strings.HasPrefix(name, debugPrefix) && value != ""); err != nil {
			return err
		}
	}
	return nil
}
