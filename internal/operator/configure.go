package operator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/store"
)

func configurationCommands() []command {
	return []command{
		{
			name: "apply", short: "make the database say what a configuration file says",
			help: `
It shows the difference first, then makes all of it in one transaction and
records who did what in the audit log. What the file lacks stays, unless
--prune is given. An export that is pruned ends: it publishes what has been
sealed, and its files stay until their time comes. Put back into the file it
goes on.

  enctl apply -f en.yaml
  enctl apply -f en.yaml --prune --as "ann, ticket 4711"
  enctl get | sed s/4h/2h/ | enctl apply -f -`,
			build: buildApply,
		},
		{
			name: "diff", short: "show what apply would do", failed: 2,
			help: `
The exit status is that of diff(1): 0 when nothing would change, 1 when
something would, 2 when that could not be found out.

  enctl diff -f en.yaml --prune && echo "the database is as the file says"`,
			build: buildDiff,
		},
		{
			name: "get", short: "write the configuration file from the database",
			help: `
Applying what it writes changes nothing. Exports that have ended are left out.

  enctl get > en.yaml
  enctl get -o json | jq '.exports[].name'`,
			build: buildGet,
		},
	}
}

// fileFlags are what apply and diff have in common.
type fileFlags struct {
	file  *string
	prune *bool
}

func newFileFlags(flags *flag.FlagSet) fileFlags {
	return fileFlags{
		file:  flags.String("f", "", "configuration `file`; - is the standard input"),
		prune: flags.Bool("prune", false, "remove what the file lacks; exports end"),
	}
}

func (f fileFlags) others() configuration.Others {
	if *f.prune {
		return configuration.RemoveOthers
	}
	return configuration.KeepOthers
}

func (f fileFlags) read(s *Session, args []string) (store.Configuration, error) {
	if err := exactly(args); err != nil {
		return store.Configuration{}, err
	}
	switch *f.file {
	case "":
		return store.Configuration{}, usageError("-f must name the configuration file")
	case "-":
		text, err := io.ReadAll(s.In)
		if err != nil {
			return store.Configuration{}, err
		}
		c, err := configuration.Parse(text, ".")
		if err != nil {
			return c, fmt.Errorf("the standard input cannot be applied: %w", err)
		}
		return c, nil
	}
	return configuration.Read(*f.file)
}

func buildApply(flags *flag.FlagSet, s *Session) action {
	file := newFileFlags(flags)
	who := flags.String("as", "", "`name` for the audit log (default: the user of this system)")
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		wanted, err := file.read(s, args)
		if err != nil {
			return err
		}
		if *who == "" {
			*who = osUser()
		}
		return s.withStore(ctx, func(db *store.DB) error {
			order := configuration.Order{Wanted: wanted, Others: file.others(), Who: *who, Now: s.Now()}
			var plan configuration.Plan
			err := configuration.Apply(ctx, db, order, func(p configuration.Plan) error {
				plan = p
				return out.show(p, p.Write)
			})
			if err == nil && !plan.Empty() && !out.json() {
				_, err = fmt.Fprintf(s.Out, "applied: %d changes\n", len(plan.Changes))
			}
			return err
		})
	}
}

func buildDiff(flags *flag.FlagSet, s *Session) action {
	file := newFileFlags(flags)
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		wanted, err := file.read(s, args)
		if err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			plan, err := configuration.Diff(ctx, db, wanted, file.others(), s.Now())
			if err != nil {
				return err
			}
			if err := out.show(plan, plan.Write); err != nil || plan.Empty() {
				return err
			}
			return exit(1)
		})
	}
}

func buildGet(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "yaml", "json")
	return func(ctx context.Context, args []string) error {
		if err := exactly(args); err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			c, err := db.Configuration(ctx)
			if err != nil {
				return err
			}
			file, err := configuration.FileOf(c, s.Now())
			if err != nil {
				return err
			}
			write := file.YAML
			if out.json() {
				write = file.JSON
			}
			text, err := write()
			if err != nil {
				return err
			}
			_, err = s.Out.Write(text)
			return err
		})
	}
}

// inputOf reads a file, or the standard input for "-" or nothing.
func inputOf(s *Session, args []string) ([]byte, error) {
	switch {
	case len(args) > 1:
		return nil, usageError("one file at most can be read")
	case len(args) == 0 || args[0] == "-":
		return io.ReadAll(io.LimitReader(s.In, maxInput))
	}
	file, err := os.Open(args[0])
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxInput))
	return text, errors.Join(err, file.Close())
}

// maxInput bounds what is read as a whole.
const maxInput = 1 << 20
