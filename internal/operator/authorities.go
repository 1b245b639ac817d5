package operator

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"enkeyserver/internal/store"
)

func authorityCommands() []command {
	return []command{{
		name: "authorities status", short: "show whose certificates are accepted, with which keys, and how their key sets are",
		help: `
A key counts if it stands in the configuration, or in the key set that the
authority publishes (jwksURI). Where both have one of the same name, that of the
configuration counts. Keys that were discovered are shown here alone: they are
nobody's configuration.

  enctl authorities status`,
		build: buildAuthorities,
	}}
}

func buildAuthorities(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			return usageError("nothing can be chosen: all health authorities are shown")
		}
		return s.withStore(ctx, func(db *store.DB) error {
			all, err := db.AuthorityStatuses(ctx)
			if err != nil {
				return err
			}
			answer := authoritiesAnswer{Authorities: make([]authorityAnswer, len(all))}
			for i, a := range all {
				answer.Authorities[i] = authorityAnswer(a)
			}
			return out.show(answer, answer.write)
		})
	}
}

type authoritiesAnswer struct {
	Authorities []authorityAnswer `json:"authorities"`
}

// authorityAnswer is store.AuthorityStatus for programs.
type authorityAnswer struct {
	Issuer     string    `json:"issuer"`
	KeySet     string    `json:"jwksURI,omitempty"`
	Configured []string  `json:"configuredKeys"`
	Discovered []string  `json:"discoveredKeys"`
	ReadAt     time.Time `json:"readAt,omitzero"`
	FailedAt   time.Time `json:"failedAt,omitzero"`
	Failure    string    `json:"failure,omitempty"`
}

func (a authoritiesAnswer) write(w io.Writer) error {
	if len(a.Authorities) == 0 {
		_, err := fmt.Fprintln(w, "there is no health authority")
		return err
	}
	for _, one := range a.Authorities {
		if err := one.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (a authorityAnswer) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", a.Issuer)
	if len(a.Configured)+len(a.Discovered) == 0 {
		b.WriteString("  no key: every certificate of it is refused\n")
	}
	for _, kid := range a.Configured {
		fmt.Fprintf(&b, "  key %q, of the configuration\n", kid)
	}
	for _, kid := range a.Discovered {
		fmt.Fprintf(&b, "  key %q, discovered\n", kid)
	}
	if a.KeySet != "" {
		fmt.Fprintf(&b, "  key set %s\n  last read %s\n", a.KeySet, moment(a.ReadAt))
	}
	if a.Failure != "" {
		fmt.Fprintf(&b, "  last failure %s: %s\n", moment(a.FailedAt), a.Failure)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
