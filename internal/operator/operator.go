// Package operator is the commands with which people look after the system.
package operator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"enkeyserver/internal/app"
	"enkeyserver/internal/config"
	"enkeyserver/internal/database"
	"enkeyserver/internal/store"
)

// Session is one call of the command line.
type Session struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time
	Terminal bool // somebody watches Err

	// Database connects to the database that commands work on; they close it.
	Database func(ctx context.Context) (*store.DB, error)
}

// Terminal is the session of this process.
func Terminal() *Session {
	return &Session{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Now: time.Now,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())), Database: openStore,
	}
}

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line makes no sense
)

// exit ends the program with a status and without another word.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that makes no sense.
type usageError string

func (e usageError) Error() string { return string(e) }

// command is one thing that the command line can do.
type command struct {
	name   string // one or two words
	args   string // as the usage shows them
	short  string
	help   string // what the usage adds: reasons, exit statuses, examples
	failed int    // exit status of an error; 0: exitFailed

	// build defines the flags and gives what runs when they are read.
	build func(flags *flag.FlagSet, s *Session) action
}

// action does the work of a command with what is not a flag.
type action func(ctx context.Context, args []string) error

// commands in the order in which people meet them.
func commands() []command {
	return slices.Concat(
		configurationCommands(),
		keyCommands(),
		certificateCommands(),
		authorityCommands(),
		exportCommands(),
		federationCommands(),
		signingCommands(),
		whyCommands(),
		triggerCommands(),
		simulateCommands(),
	)
}

// Run does what the arguments say, and gives the exit status of the program.
func Run(ctx context.Context, s *Session, args []string) int {
	if len(args) == 0 {
		overview(s.Err)
		return exitUsage
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" || args[0] == "-help" {
		return help(s, args[1:])
	}
	c, rest, ok := find(args)
	if !ok {
		fmt.Fprintf(s.Err, "enctl: there is no command %q: \"enctl help\" lists them\n", strings.Join(args[:min(2, len(args))], " "))
		return exitUsage
	}
	return c.run(ctx, s, rest)
}

func find(args []string) (command, []string, bool) {
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return c, args[len(words):], true
		}
	}
	return command{}, nil, false
}

func help(s *Session, args []string) int {
	if len(args) == 0 {
		overview(s.Out)
		return exitOK
	}
	if c, _, ok := find(args); ok {
		c.usage(s.Out, s)
		return exitOK
	}
	fmt.Fprintf(s.Err, "enctl: there is no command %q: \"enctl help\" lists them\n", strings.Join(args, " "))
	return exitUsage
}

func overview(w io.Writer) {
	fmt.Fprint(w, "enctl looks after an Exposure Notifications key server.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-18s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, `
"enctl help COMMAND" says more. Every command takes -o json, for programs.
Commands that need the database take its address from DATABASE_URL, or DB_HOST,
DB_NAME and so on. The exit status is 0, or 1 when something failed, or 2 when
the command line makes no sense.
`)
}

func (c command) usage(w io.Writer, s *Session) {
	flags := c.flags(w)
	c.build(flags, s)
	fmt.Fprintf(w, "usage: enctl %s [flags] %s\n\n%s\n", c.name, c.args, c.short)
	if c.help != "" {
		fmt.Fprintf(w, "\n%s\n", strings.Trim(c.help, "\n"))
	}
	fmt.Fprintln(w, "\nflags:")
	flags.PrintDefaults()
}

func (c command) flags(w io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(w)
	flags.Usage = func() {}
	return flags
}

func (c command) run(ctx context.Context, s *Session, args []string) int {
	flags := c.flags(io.Discard)
	act := c.build(flags, s)
	rest, err := parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		c.usage(s.Out, s)
		return exitOK
	}
	if err != nil {
		err = usageError(err.Error())
	} else if err = s.shiftClock(ctx); err == nil {
		err = act(ctx, rest)
	}
	return c.status(s, err)
}

// status says an error in one line and turns it into the exit status.
func (c command) status(s *Session, err error) int {
	var status exit
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		fmt.Fprintf(s.Err, "enctl: %v: see \"enctl help %s\"\n", err, c.name)
		return exitUsage
	}
	fmt.Fprintf(s.Err, "enctl: %v\n", err)
	return max(c.failed, exitFailed)
}

// parse reads flags wherever they stand. What follows "--" is no flag.
func parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	var plain []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, plain = args[:i], args[i+1:]
	}
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return append(rest, plain...), nil
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

// clock is what of the environment counts for every command.
type clock struct {
	Environment string        `envconfig:"ENVIRONMENT" desc:"production refuses every DEBUG_ variable"`
	Offset      time.Duration `envconfig:"DEBUG_CLOCK_OFFSET" default:"0s" desc:"development only: added to the clock"`
}

// shiftClock lets tools live in the time of the services that they look after.
func (s *Session) shiftClock(ctx context.Context) error {
	var c clock
	if err := config.Read(ctx, &c, nil); err != nil {
		return err
	}
	if c.Offset == 0 {
		return nil
	}
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(c.Environment)), "prod") {
		return errors.New("DEBUG_CLOCK_OFFSET must not be set when ENVIRONMENT=production: it is for development only")
	}
	fmt.Fprintf(s.Err, "enctl: DEVELOPMENT ONLY: the clock is shifted by %s\n", c.Offset)
	now := s.Now
	s.Now = func() time.Time { return now().Add(c.Offset) }
	return nil
}

// openStore connects to the database that the environment names.
func openStore(ctx context.Context) (*store.DB, error) {
	resolver, err := app.OpenSecrets(ctx)
	if err != nil {
		return nil, err
	}
	var settings database.Settings
	if err := config.Read(ctx, &settings, resolver); err != nil {
		return nil, err
	}
	return store.Open(ctx, settings)
}

// withStore runs f with the database.
func (s *Session) withStore(ctx context.Context, f func(db *store.DB) error) error {
	db, err := s.Database(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return f(db)
}

// osUser is who the audit log should name.
func osUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// exactly refuses another number of arguments than these.
func exactly(args []string, names ...string) error {
	if len(args) != len(names) {
		return usageError(fmt.Sprintf("%d arguments are needed (%s), not %d", len(names), strings.Join(names, " "), len(args)))
	}
	return nil
}

// needFlags refuses flags that are empty; names and values alternate.
func needFlags(pairs ...string) error {
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] == "" {
			return usageError("--" + pair[0] + " must be given")
		}
	}
	return nil
}
