package config

import (
	"encoding"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// variable is one field of a settings struct, and so one variable of the
// environment.
type variable struct {
	name     string
	field    reflect.Value
	owner    reflect.Value // the struct with the field
	tag      reflect.StructTag
	required bool
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	urlType         = reflect.TypeFor[url.URL]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// variables lists the variables of the struct that of points to, in the order
// of its fields.
func variables(of any) ([]variable, error) {
	v := reflect.ValueOf(of)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: %T is not a pointer to a struct", of)
	}
	return gather(v.Elem())
}

func gather(s reflect.Value) (vars []variable, err error) {
	for i := range s.NumField() {
		f := s.Type().Field(i)
		name, named := f.Tag.Lookup("envconfig")
		switch {
		case named && !f.IsExported():
			return nil, unreadable(s.Type(), f.Name, "is not exported")
		case named:
			vars = append(vars, variable{name, s.Field(i), s, f.Tag, f.Tag.Get("required") == "true"})
		case f.Type.Kind() == reflect.Struct && (f.IsExported() || f.Anonymous):
			inner, err := gather(s.Field(i))
			if err != nil {
				return nil, err
			}
			vars = append(vars, inner...)
		case f.IsExported():
			return nil, unreadable(s.Type(), f.Name, "names no variable in an envconfig tag")
		}
	}
	return vars, nil
}

// option finds the accepted word that value is, whatever its case.
func (v variable) option(value string) (string, bool) {
	list := v.tag.Get("options")
	if list == "" || value == "" {
		return value, true
	}
	for word := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(word, value) {
			return word, true
		}
	}
	return "", false
}

// inBounds checks the field as it is now against min and max. A URL must have
// a scheme: without one, nearly every text is a URL.
func (v variable) inBounds() bool {
	if u, ok := reflect.TypeAssert[url.URL](v.field); ok {
		return u == (url.URL{}) || u.IsAbs()
	}
	low, err := v.bound("min", math.MinInt64)
	if err != nil {
		return false
	}
	high, err := v.bound("max", math.MaxInt64)
	if err != nil {
		return false
	}
	return !v.field.CanInt() || (low <= v.field.Int() && v.field.Int() <= high)
}

// bound reads a bound from the tag. One that cannot be read, or on a field that
// has no bounds, is an error, and so allows nothing: it is noticed at once.
func (v variable) bound(tag string, without int64) (int64, error) {
	text, ok := v.tag.Lookup(tag)
	switch {
	case !ok:
		return without, nil
	case !v.field.CanInt():
		return 0, fmt.Errorf("%s cannot bound a %s", tag, v.field.Type())
	case v.field.Type() == durationType:
		d, err := time.ParseDuration(text)
		return int64(d), err
	default:
		return strconv.ParseInt(text, 10, 64)
	}
}

// accepts says which values are right: "a duration such as 90s, 15m or 336h, at least 1s".
func (v variable) accepts() string {
	if list := v.tag.Get("options"); list != "" {
		return "one of " + strings.ReplaceAll(list, ",", ", ")
	}
	return v.kind() + v.bounds()
}

func (v variable) bounds() string {
	low, high := v.tag.Get("min"), v.tag.Get("max")
	switch {
	case low != "" && high != "":
		return fmt.Sprintf(", from %s to %s", low, high)
	case low != "":
		return ", at least " + low
	case high != "":
		return ", at most " + high
	default:
		return ""
	}
}

func (v variable) kind() string {
	t := v.field.Type()
	switch {
	case t == durationType:
		return "a duration such as 90s, 15m or 336h"
	case t == urlType:
		return "a URL with its scheme"
	case reflect.PointerTo(t).Implements(unmarshalerType):
		return v.meaning()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list with commas between"
	case reflect.Map:
		return "a list like name:value,name:value"
	default:
		return v.meaning()
	}
}

// meaning is what the settings struct says about the variable.
func (v variable) meaning() string { return v.tag.Get("desc") }
