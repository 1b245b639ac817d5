package configuration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// maxFile bounds what is read: a country's configuration has a few kilobytes.
const maxFile = 1 << 20

// Read gives the configuration that a file holds, checked as far as it can be
// without the database. Files that it names are looked for beside it.
func Read(path string) (_ store.Configuration, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return store.Configuration{}, err
	}
	c, err := Parse(text, filepath.Dir(path))
	if err != nil {
		return store.Configuration{}, errs.From(err, errs.KindInvalid, "configuration", "%s cannot be applied", path)
	}
	return c, nil
}

// Parse is Read for text that is there already; dir is where files are that it
// names.
func Parse(text []byte, dir string) (store.Configuration, error) {
	f, err := decode(text)
	if err != nil {
		return store.Configuration{}, err
	}
	return f.check(dir)
}

// decode is strict: a field that is misspelled would else be one that is
// silently left at its default.
func decode(text []byte) (f File, err error) {
	if len(text) > maxFile {
		return f, problems{fmt.Sprintf("it is larger than %d bytes", maxFile)}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&f); errors.Is(err, io.EOF) {
		return f, problems{"it is empty"}
	} else if err != nil {
		return f, readable(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return f, problems{`it holds a second document: remove the line "---" and what follows`}
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return f, readable(err)
	}
	f.lines = linesOf(&root)
	return f, nil
}

// problems are everything that is wrong with a file, one a line.
type problems []string

func (p problems) Error() string { return "\n  " + strings.Join(p, "\n  ") }

var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// readable speaks of the file, where the decoder speaks of our types.
func readable(err error) error {
	var wrongTypes *yaml.TypeError
	if !errors.As(err, &wrongTypes) {
		return problems{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	var p problems
	for _, text := range wrongTypes.Errors {
		p = append(p, unknownField.ReplaceAllString(text, `there is no field "$1" here: correct its name or remove it`))
	}
	return p
}

// lines say where the entries of each section stand.
type lines map[string][]int

func linesOf(root *yaml.Node) lines {
	at := lines{}
	if len(root.Content) > 0 {
		at.note("", root.Content[0])
	}
	return at
}

// note writes down where the entries of a node's lists stand; a list in a
// section is named "section.list".
func (l lines) note(within string, node *yaml.Node) {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		name, value := within+node.Content[i].Value, node.Content[i+1]
		if value.Kind == yaml.MappingNode {
			l.note(name+".", value)
			continue
		}
		for _, entry := range value.Content {
			l[name] = append(l[name], entry.Line)
		}
	}
}

// of gives the words with which a problem of an entry starts.
func (l lines) of(section string, entry int) string {
	if at := l[section]; entry < len(at) {
		return fmt.Sprintf("line %d: ", at[entry])
	}
	return ""
}

// timeOf is the time without a part of a second, or the zero time for none.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}
