package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Reference writes the rows of a Markdown table for the struct that of is, or
// points to: name, default, meaning. They stand in the order of the fields, so
// that the same struct always gives the same text.
func Reference(w io.Writer, of any) error {
	vars, err := variables(blank(of))
	if err != nil {
		return err
	}
	for _, v := range vars {
		if _, err := fmt.Fprintf(w, "| `%s` | %s | %s |\n", v.name, v.defaultCell(), v.meaningCell()); err != nil {
			return err
		}
	}
	return nil
}

// Names lists the variables of the struct that of is, or points to, in the
// order of its fields.
func Names(of any) ([]string, error) {
	vars, err := variables(blank(of))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(vars))
	for i, v := range vars {
		names[i] = v.name
	}
	return names, nil
}

// blank makes a new struct of the same type.
func blank(of any) any {
	t := reflect.TypeOf(of)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return of
	}
	return reflect.New(t).Interface()
}

func (v variable) defaultCell() string {
	value := v.tag.Get("default")
	switch {
	case v.required:
		return "required"
	case value == "":
		return ""
	default:
		return "`" + escape(value) + "`"
	}
}

// meaningCell adds to the description what else is checked.
func (v variable) meaningCell() string {
	text := v.meaning() + v.bounds()
	if list := v.tag.Get("options"); list != "" {
		text += ": " + strings.ReplaceAll(list, ",", ", ")
	}
	return escape(text)
}

// escape keeps a text inside its cell.
func escape(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}
