package operator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

func exportCommands() []command {
	return []command{
		{
			name: "export verify", args: "FILE...", short: "check files with the rules that phones enforce",
			help: `
Each file gets a line: what it holds, or the rule that it breaks. The exit
status is 1 when a file breaks one. Phones that refuse one file of an index
refuse all that follow, so run this on what you mean to publish.

  enctl export verify --public-key export.pub.pem --key-id 310 --key-version v1 us/*.zip`,
			build: buildVerify,
		},
		{
			name: "export inspect", args: "FILE", short: "show what a file holds, without judging it",
			help: `
Keys are counted, not shown. The signatures are not verified.

  enctl export inspect us/1604577600-1604592000-00001.zip`,
			build: buildInspect,
		},
		{
			name: "export reindex", args: "NAME", short: "let the next run of a worker write an export's index again",
			help: `
For an index that was damaged or deleted in the bucket. The list comes from the
database and is the same; phones notice nothing.

  enctl export reindex us`,
			build: buildReindex,
		},
	}
}

// trustFlags name the key that must have signed.
type trustFlags struct{ file, id, version *string }

func newTrustFlags(flags *flag.FlagSet) trustFlags {
	return trustFlags{
		file:    flags.String("public-key", "", "`file` with the public key that must have signed, in PEM"),
		id:      flags.String("key-id", "", "`id` under which phones know the key, such as 310"),
		version: flags.String("key-version", "", "`version` of that key, such as v1"),
	}
}

func (f trustFlags) trusted() ([]exportfile.PublicKey, error) {
	if err := needFlags("public-key", *f.file, "key-id", *f.id, "key-version", *f.version); err != nil {
		return nil, err
	}
	text, err := readPublicKey(*f.file)
	if err != nil {
		return nil, err
	}
	key, err := keys.ParsePublicPEM(text)
	if err != nil {
		return nil, err
	}
	return []exportfile.PublicKey{{ID: *f.id, Version: *f.version, Key: key}}, nil
}

// verdict is what is found about one file.
type verdict struct {
	File    string    `json:"file"`
	OK      bool      `json:"ok"`
	Rule    string    `json:"rule,omitempty"` // the broken one
	Error   string    `json:"error,omitempty"`
	Keys    int       `json:"keys"`
	Revised int       `json:"revisedKeys"`
	Start   time.Time `json:"start,omitzero"`
	End     time.Time `json:"end,omitzero"`
	Region  string    `json:"region,omitempty"`
}

func (v verdict) line() string {
	if !v.OK {
		return fmt.Sprintf("%s: %s: %s", v.File, v.Rule, v.Error)
	}
	return fmt.Sprintf("%s: ok, %d keys and %d revised keys of %s, %s to %s",
		v.File, v.Keys, v.Revised, v.Region, v.Start.Format(time.RFC3339), v.End.Format(time.RFC3339))
}

func buildVerify(flags *flag.FlagSet, s *Session) action {
	trust := newTrustFlags(flags)
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return usageError("no file is named")
		}
		trusted, err := trust.trusted()
		if err != nil {
			return err
		}
		verdicts, err := verifyAll(ctx, s, args, trusted)
		if err != nil {
			return err
		}
		if err := out.show(verdicts, func(w io.Writer) error { return writeVerdicts(w, verdicts) }); err != nil {
			return err
		}
		if slices.ContainsFunc(verdicts, func(v verdict) bool { return !v.OK }) {
			return exit(exitFailed)
		}
		return nil
	}
}

func verifyAll(ctx context.Context, s *Session, files []string, trusted []exportfile.PublicKey) (verdicts []verdict, err error) {
	progress := s.bar("checking", len(files))
	defer progress.clear()
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		verdicts = append(verdicts, verify(file, trusted, s.Now()))
		progress.step()
	}
	return verdicts, nil
}

func verify(path string, trusted []exportfile.PublicKey, now time.Time) verdict {
	var contents exportfile.Contents
	err := withFile(path, func(r io.ReaderAt, size int64) (err error) {
		contents, err = exportfile.Check(r, size, trusted, now)
		return err
	})
	if errs.KindOf(err) == errs.KindInvalid {
		return verdict{File: path, Rule: errs.CodeOf(err), Error: errs.MessageOf(err)}
	}
	if err != nil {
		return verdict{File: path, Rule: "unreadable", Error: err.Error()}
	}
	return verdict{
		File: path, OK: true, Keys: contents.Keys, Revised: contents.Revised,
		Start: contents.Start.UTC(), End: contents.End.UTC(), Region: contents.Region,
	}
}

func writeVerdicts(w io.Writer, verdicts []verdict) error {
	for _, v := range verdicts {
		if _, err := fmt.Fprintln(w, v.line()); err != nil {
			return err
		}
	}
	return nil
}

func withFile(path string, f func(r io.ReaderAt, size int64) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		err = f(file, info.Size())
	}
	return errors.Join(err, file.Close())
}

// inspection is what a file says about itself, and how its keys spread.
type inspection struct {
	Start      time.Time      `json:"start"`
	End        time.Time      `json:"end"`
	Region     string         `json:"region"`
	Keys       int            `json:"keys"`
	Revised    int            `json:"revisedKeys"`
	SHA256     string         `json:"exportBinSHA256"`
	Signatures []string       `json:"signatures"`
	Days       map[string]int `json:"days"` // of the first interval of each key
	Reports    map[string]int `json:"reports"`
	Risks      map[string]int `json:"transmissionRisks"`
}

func buildInspect(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(_ context.Context, args []string) error {
		if err := exactly(args, "FILE"); err != nil {
			return err
		}
		found := inspection{Days: map[string]int{}, Reports: map[string]int{}, Risks: map[string]int{}}
		if err := withFile(args[0], found.read); err != nil {
			return err
		}
		return out.show(found, found.write)
	}
}

func (x *inspection) read(r io.ReaderAt, size int64) error {
	contents, err := exportfile.Read(r, size, func(e exposure.Exposure, revised bool) error {
		list := ""
		if revised {
			list = " (revised)"
		}
		x.Days[e.Start.Time().Format(time.DateOnly)+list]++
		x.Reports[e.Report.String()+list]++
		x.Risks[fmt.Sprint(e.Risk)+list]++
		return nil
	})
	if err != nil {
		return err
	}
	x.Start, x.End, x.Region = contents.Start.UTC(), contents.End.UTC(), contents.Region
	x.Keys, x.Revised, x.SHA256 = contents.Keys, contents.Revised, fmt.Sprintf("%x", contents.BinSHA256)
	for _, name := range contents.Signatures {
		x.Signatures = append(x.Signatures, name.String())
	}
	return nil
}

func (x *inspection) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "region\t%s\n", x.Region)
	fmt.Fprintf(t, "start\t%s\n", x.Start.Format(time.RFC3339))
	fmt.Fprintf(t, "end\t%s\n", x.End.Format(time.RFC3339))
	fmt.Fprintf(t, "keys\t%d\n", x.Keys)
	fmt.Fprintf(t, "revised keys\t%d\n", x.Revised)
	fmt.Fprintf(t, "export.bin\tSHA-256 %s\n", x.SHA256)
	for _, name := range x.Signatures {
		fmt.Fprintf(t, "signature\t%s\n", name)
	}
	writeCounts(t, "day", x.Days)
	writeCounts(t, "report", x.Reports)
	writeCounts(t, "risk", x.Risks)
	return t.Flush()
}

func writeCounts(w io.Writer, what string, counts map[string]int) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%s %s\t%d\n", what, name, counts[name])
	}
}

func buildReindex(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := exactly(args, "NAME"); err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			if err := db.RenumberIndex(ctx, args[0]); err != nil {
				return err
			}
			return out.line(map[string]string{"export": args[0]}, "the next run of a worker writes the index of %s", args[0])
		})
	}
}
