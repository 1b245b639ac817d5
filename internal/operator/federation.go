package operator

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"enkeyserver/internal/store"
)

func federationCommands() []command {
	return []command{{
		name: "federation restart", args: "NAME", short: "let the next run ask a neighbour from the beginning",
		help: `
For a neighbour that lets us have more than before: older keys are told only to
who starts anew. What we know already comes again, and does no harm. A change of
regions in our own configuration does this by itself.

  enctl federation restart ca`,
		build: buildFederationRestart,
	}, {
		name: "federation status", args: "[NAME...]", short: "tell how it stands with neighbours",
		help: `
Each neighbour that we pull from, import or mirror gets a line: when we last had
all that it had, how far we are behind it, when its cursor was saved, and how
much of what was taken and left out since it is our neighbour. What went wrong
in the last run follows below. A neighbour that is named must be there.

  enctl federation status
  enctl federation status -o json ca`,
		build: buildFederationStatus,
	}}
}

func buildFederationRestart(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := exactly(args, "NAME"); err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			if err := db.RestartPull(ctx, args[0]); err != nil {
				return err
			}
			return out.line(map[string]string{"neighbour": args[0]}, "the next run of federation-in asks %s from the beginning", args[0])
		})
	}
}

func buildFederationStatus(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, names []string) error {
		return s.withStore(ctx, func(db *store.DB) error {
			all, err := db.Neighbours(ctx)
			if err != nil {
				return err
			}
			standings, err := standingsOf(all, names, s.Now())
			if err != nil {
				return err
			}
			return out.show(standings, func(w io.Writer) error { return writeStandings(w, standings) })
		})
	}
}

// standing is how it stands with a neighbour, in the words of the answer.
type standing struct {
	Kind      string           `json:"kind"`
	Name      string           `json:"name"`
	Attempted time.Time        `json:"attempted,omitzero"`
	Succeeded time.Time        `json:"succeeded,omitzero"`
	Lag       *seconds         `json:"lagSeconds,omitempty"`       // absent: we never had anything
	CursorAge *seconds         `json:"cursorAgeSeconds,omitempty"` // absent: it has none
	Counts    map[string]int64 `json:"counts"`
	FailedAt  time.Time        `json:"failedAt,omitzero"`
	Failure   string           `json:"failure,omitempty"` // of the last run
}

// seconds is a duration since a time, whole and never negative.
type seconds int64

func since(t, now time.Time) *seconds {
	if t.IsZero() {
		return nil
	}
	s := seconds(max(now.Sub(t), 0) / time.Second)
	return &s
}

func (s *seconds) String() string {
	if s == nil {
		return "-"
	}
	return (time.Duration(*s) * time.Second).String()
}

// standingsOf are those of the neighbours that are named, or of all.
func standingsOf(all []store.Neighbour, names []string, now time.Time) ([]standing, error) {
	standings := []standing{}
	for _, n := range all {
		if len(names) > 0 && !slices.Contains(names, n.Name) {
			continue
		}
		standings = append(standings, standing{
			Kind: n.Kind, Name: n.Name, Attempted: n.Attempted.UTC(), Succeeded: n.Succeeded.UTC(), Lag: since(n.HadAllAt(now), now),
			CursorAge: since(n.CursorAt, now), Counts: n.Counts, FailedAt: n.FailedAt.UTC(), Failure: n.Failure,
		})
	}
	for _, name := range names {
		if !slices.ContainsFunc(standings, func(s standing) bool { return s.Name == name }) {
			return nil, fmt.Errorf("there is no neighbour %q: \"enctl federation status\" lists them", name)
		}
	}
	return standings, nil
}

func writeStandings(w io.Writer, standings []standing) error {
	if len(standings) == 0 {
		_, err := fmt.Fprintln(w, "the configuration has no neighbours to take keys or files from")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tKIND\tLAST SUCCESS\tLAG\tCURSOR AGE\tCOUNTS")
	for _, s := range standings {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Kind, at(s.Succeeded), s.Lag, s.CursorAge, s.counts())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range standings {
		if s.Failure == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s, %s: %s\n", s.Name, at(s.FailedAt), s.Failure); err != nil {
			return err
		}
	}
	return nil
}

func at(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

func (s standing) counts() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(s.Counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, s.Counts[what]))
	}
	return strings.Join(parts, ", ")
}
