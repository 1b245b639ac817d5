// Command bench measures what the system costs, on the machine that it runs on,
// with the real services, a private PostgreSQL that waits for the disk, and
// beside each figure what the same costs without us. docs/performance.md tells
// how to read it.
//
// It never fails because something was slow.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if slices.Equal(args, []string{plainServerArg}) {
		return servePlain(os.Stdout, os.Stdin)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	// The requests that wait to be sent are a large heap, and collecting it
	// would take the time of those who are measured.
	debug.SetGCPercent(400)
	b := &bench{options: o, progress: os.Stderr}
	if err := b.measure(ctx); err != nil {
		return err
	}
	return b.report.write(os.Stdout, o.format)
}

// options are what is asked for.
type options struct {
	only     []string
	retained int    // keys in the log beside which uploads are measured
	keys     int    // keys that are sealed, exported, forgotten
	uploads  int    // in each repetition
	chaff    int    // likewise, as fast as it goes; a quarter of that at a steady rate
	repeats  int    // of each figure
	format   string // text or json
	binaries string // folder with the services; empty: build them
}

// The sizes of a quick look, which shows that everything runs.
const (
	quickKeys    = 100_000
	quickUploads = 1500
	quickRepeats = 2
)

func parse(args []string) (options, error) {
	var o options
	var only string
	var quick bool
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&only, "only", strings.Join(groupNames(), ","), "measure these only")
	f.BoolVar(&quick, "quick", false, "a quick look with a tenth of the keys")
	f.IntVar(&o.retained, "retained", 1_000_000, "keys in the log while uploads are measured")
	f.IntVar(&o.keys, "keys", 1_000_000, "keys that are sealed, exported and forgotten at once")
	f.IntVar(&o.repeats, "repeats", 5, "how often each figure is measured (those that take long, less often)")
	f.StringVar(&o.format, "o", "text", "text or json")
	f.StringVar(&o.binaries, "binaries", "", "folder with the built services; they are built when this is empty")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.only = strings.Split(only, ",")
	o.uploads, o.chaff = 6000, 20_000
	if quick {
		o.retained, o.keys = min(o.retained, quickKeys), min(o.keys, quickKeys)
		o.uploads, o.chaff = quickUploads, 4*quickUploads
		o.repeats = min(o.repeats, quickRepeats)
	}
	return o, o.check(f.Args())
}

func (o options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("there is no argument %q", rest[0])
	}
	for _, name := range o.only {
		if !slices.Contains(groupNames(), name) {
			return fmt.Errorf("-only %s: there are %s", name, strings.Join(groupNames(), ", "))
		}
	}
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("-o %s: it is text or json", o.format)
	}
	if o.retained < leastKeys || o.keys < leastKeys || o.repeats < 1 {
		return fmt.Errorf("-retained and -keys must be at least %d, -repeats 1", leastKeys)
	}
	return nil
}

// bench is one run.
type bench struct {
	options
	progress io.Writer
	report   report
}

// measurement is a group of figures that are measured on one system.
type measurement struct {
	name string
	run  func(b *bench, ctx context.Context) error
}

func measurements() []measurement {
	return []measurement{
		{"publish", (*bench).publish},
		{"chaff", (*bench).chaffRequests},
		{"attestation", (*bench).attestation},
		{"log", (*bench).log},
		{"export", (*bench).export},
		{"cleanup", (*bench).cleanup},
		{"federation", (*bench).federation},
		{"federation-out", (*bench).federationOut},
		{"idle", (*bench).idle},
	}
}

func groupNames() (names []string) {
	for _, m := range measurements() {
		names = append(names, m.name)
	}
	return names
}

func (b *bench) measure(ctx context.Context) error {
	remove, err := b.build(ctx)
	if err != nil {
		return err
	}
	defer remove()
	for _, m := range measurements() {
		if !slices.Contains(b.only, m.name) {
			continue
		}
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// say shows progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}
