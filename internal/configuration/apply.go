package configuration

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// Diff tells what Apply would do.
func Diff(ctx context.Context, db *store.DB, wanted store.Configuration, others Others, now time.Time) (_ Plan, err error) {
	defer errs.Wrap(&err, "configuration.Diff")
	current, err := db.Configuration(ctx)
	if err != nil {
		return Plan{}, err
	}
	return NewPlan(current, wanted, others, now)
}

// Order is a configuration that somebody wants.
type Order struct {
	Wanted store.Configuration
	Others Others
	Who    string // for the audit log
	Now    time.Time
}

// Apply makes the database say what is wanted: all of it in one transaction, or
// nothing. Nobody else can change the configuration between the moment at which
// show is given the plan and the end.
func Apply(ctx context.Context, db *store.DB, o Order, show func(Plan) error) (err error) {
	defer errs.Wrap(&err, "configuration.Apply")
	return db.Reconfigure(ctx, o.Now, func(current store.Configuration) (store.Reconfiguration, error) {
		p, err := NewPlan(current, o.Wanted, o.Others, o.Now)
		if err != nil {
			return store.Reconfiguration{}, err
		}
		for _, c := range p.Changes {
			p.reconfiguration.Audit = append(p.reconfiguration.Audit, store.AuditEntry{
				At: o.Now, Who: o.Who, Action: c.title(), Detail: c.detail("; "),
			})
		}
		return p.reconfiguration, show(p)
	})
}

// Write shows the plan to a reader.
func (p Plan) Write(w io.Writer) error {
	var b strings.Builder
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "%s\n", c.title())
		if detail := c.detail("\n    "); detail != "" {
			fmt.Fprintf(&b, "    %s\n", detail)
		}
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	if p.Empty() {
		b.WriteString("no changes\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c Change) title() string { return fmt.Sprintf("%s %s %s", c.Action, c.Kind, c.Name) }

func (c Change) detail(separator string) string {
	var parts []string
	for _, f := range c.Fields {
		switch {
		case c.Action == Remove:
			parts = append(parts, fmt.Sprintf("%s: %s", f.Name, f.Old))
		case c.Action == Add:
			parts = append(parts, fmt.Sprintf("%s: %s", f.Name, f.New))
		default:
			parts = append(parts, fmt.Sprintf("%s: %s -> %s", f.Name, shown(f.Old), shown(f.New)))
		}
	}
	return strings.Join(parts, separator)
}

func shown(value string) string {
	if value == "" {
		return "(none)"
	}
	return value
}
