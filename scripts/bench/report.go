package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// report is all that a run found out.
type report struct {
	Machine []fact   `json:"machine"`
	Groups  []*group `json:"groups"`
}

// fact is something about the machine.
type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// group is figures that were measured together.
type group struct {
	Name    string    `json:"name"`
	About   string    `json:"about"`
	Figures []*figure `json:"figures"`
}

// figure is something that was measured a few times, and the same without us.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Goal   *goal     `json:"goal,omitempty"`
	Values []float64 `json:"values"`
	Limit  *limit    `json:"limit,omitempty"`
}

// limit is what nobody can do better who needs the same.
type limit struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
}

// goal is what a figure is to reach.
type goal struct {
	Is    string  `json:"is"` // ≤ or ≥
	Value float64 `json:"value"`
}

func atMost(v float64) *goal  { return &goal{"≤", v} }
func atLeast(v float64) *goal { return &goal{"≥", v} }

func (g goal) met(v float64) bool {
	if g.Is == "≤" {
		return v <= g.Value
	}
	return v >= g.Value
}

// group begins a group of figures.
func (r *report) group(name, about string, args ...any) *group {
	g := &group{Name: name, About: fmt.Sprintf(about, args...)}
	r.Groups = append(r.Groups, g)
	return g
}

// figure begins a figure; no goal is nil.
func (g *group) figure(name, unit string, goal *goal) *figure {
	f := &figure{Name: name, Unit: unit, Goal: goal}
	g.Figures = append(g.Figures, f)
	return f
}

// beside says what stands beside the figure.
func (f *figure) beside(name string) *figure {
	f.Limit = &limit{Name: name}
	return f
}

func (f *figure) add(v float64) { f.Values = append(f.Values, v) }

// reset forgets what was measured to warm up.
func (f *figure) reset() {
	f.Values = nil
	if f.Limit != nil {
		f.Limit.Values = nil
	}
}

func (f *figure) plain(v float64) { f.Limit.Values = append(f.Limit.Values, v) }

// MarshalJSON adds the summaries to the values.
func (f *figure) MarshalJSON() ([]byte, error) {
	type bare figure
	return json.Marshal(struct {
		*bare
		summary
	}{(*bare)(f), summarize(f.Values)})
}

func (r *report) write(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	for _, m := range r.Machine {
		fmt.Fprintf(&b, "%-12s %s\n", m.Name, m.Value)
	}
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "\n%s: %s\n", g.Name, g.About)
		writeTable(&b, g.rows())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// rows are the lines of a group's table.
func (g *group) rows() [][]string {
	rows := [][]string{{"", "unit", "median", "min", "max", "goal", "", "plain", "which is"}}
	for _, f := range g.Figures {
		rows = append(rows, f.row())
	}
	return rows
}

func (f *figure) row() []string {
	s := summarize(f.Values)
	row := []string{f.Name, f.Unit, number(s.Median), number(s.Min), number(s.Max), "", "", "", ""}
	if f.Goal != nil {
		row[5], row[6] = f.Goal.Is+" "+number(f.Goal.Value), "missed"
		if f.Goal.met(s.Median) {
			row[6] = "met"
		}
	}
	if f.Limit != nil {
		row[7], row[8] = number(summarize(f.Limit.Values).Median), f.Limit.Name
	}
	return row
}

// writeTable aligns texts left and numbers right.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < 2 || i == 6 || i == 8 {
				line.WriteString("  " + cell + space)
				continue
			}
			line.WriteString("  " + space + cell)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// number shows three digits at least, and thousands apart.
func number(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	decimals := 0
	for below := 99.95; decimals < 4 && math.Abs(v) < below && v != math.Trunc(v); below /= 10 {
		decimals++
	}
	return thousands(strconv.FormatFloat(v, 'f', decimals, 64))
}

// thousands sets a space between the thousands of a number.
func thousands(text string) string {
	whole, rest, _ := strings.Cut(text, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + " " + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return sign + whole
}
