package operator

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// output is the form in which a command answers.
type output struct {
	w    io.Writer
	form string
}

// outputFlag defines -o; the first form is the default.
func outputFlag(flags *flag.FlagSet, s *Session, forms ...string) *output {
	o := &output{w: s.Out, form: forms[0]}
	flags.Func("o", "the form of the answer: "+strings.Join(forms, " or ")+" (default "+forms[0]+")", func(form string) error {
		if !slices.Contains(forms, form) {
			return fmt.Errorf("it must be %s", strings.Join(forms, " or "))
		}
		o.form = form
		return nil
	})
	return o
}

func (o *output) json() bool { return o.form == "json" }

// show writes a value as JSON, or lets text write it for people.
func (o *output) show(v any, text func(w io.Writer) error) error {
	if !o.json() {
		return text(o.w)
	}
	e := json.NewEncoder(o.w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// line is show for a text of one line.
func (o *output) line(v any, format string, args ...any) error {
	return o.show(v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		return err
	})
}

// bar shows on a terminal how far long work has come.
type bar struct {
	w     io.Writer // nil: nobody watches
	what  string
	total int
	done  int
	width int // of what is on the line
}

func (s *Session) bar(what string, total int) *bar {
	b := &bar{what: what, total: total}
	if s.Terminal {
		b.w = s.Err
	}
	b.draw()
	return b
}

// step moves the bar on by one.
func (b *bar) step() {
	b.done++
	b.draw()
}

// clear takes the bar away.
func (b *bar) clear() {
	if b.w != nil {
		fmt.Fprintf(b.w, "\r%s\r", strings.Repeat(" ", b.width))
	}
}

func (b *bar) draw() {
	if b.w == nil || b.total == 0 {
		return
	}
	const cells = 30
	full := cells * b.done / b.total
	line := fmt.Sprintf("%s [%s%s] %d/%d", b.what, strings.Repeat("=", full), strings.Repeat(" ", cells-full), b.done, b.total)
	b.width = len(line)
	fmt.Fprintf(b.w, "\r%s", line)
}
