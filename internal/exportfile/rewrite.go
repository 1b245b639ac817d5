package exportfile

import (
	"path"
	"regexp"
	"strconv"
	"strings"

	"enkeyserver/internal/errs"
)

// Rewrite makes the name of a copy out of a file's name and header. Its text is
// the new name with these words in it:
//
//	{name}    what the file is called there, without folder and without .zip
//	{start}   the Unix seconds of the start in its header
//	{end}     those of the end
//	{number}  the digits after the last dash of its name there
//
// The name ends with .zip, and tells files apart: it has {name}, or {start} and
// {end}. An empty text keeps the names.
type Rewrite struct{ text string }

const rewriteNames = "{name}.zip"

var rewriteWord = regexp.MustCompile(`\{[^{}]*\}`)

// ParseRewrite reads the text of a rewrite.
func ParseRewrite(text string) (Rewrite, error) {
	if text == "" {
		return Rewrite{rewriteNames}, nil
	}
	for _, word := range rewriteWord.FindAllString(text, -1) {
		if !rewriteKnows(word) {
			return Rewrite{}, errs.Invalid("rewrite", "a rewrite knows {name}, {start}, {end} and {number}, and not %q", word)
		}
	}
	if !strings.HasSuffix(text, ".zip") {
		return Rewrite{}, errs.Invalid("rewrite", "a rewrite must end with .zip, as in {start}-{end}-{number}.zip")
	}
	if !strings.Contains(text, "{name}") && !(strings.Contains(text, "{start}") && strings.Contains(text, "{end}")) {
		return Rewrite{}, errs.Invalid("rewrite", "a rewrite must have {name}, or {start} and {end}: else two files would get one name")
	}
	if plain := rewriteWord.ReplaceAllString(text, "1"); !relative(plain) || hidden(plain) || strings.ContainsAny(plain, "{}") {
		return Rewrite{}, errs.Invalid("rewrite", "a rewrite must make the relative name of an object")
	}
	return Rewrite{text}, nil
}

func rewriteKnows(word string) bool {
	switch word {
	case "{name}", "{start}", "{end}", "{number}":
		return true
	}
	return false
}

// Name is what the copy of a file is called. The entry is from an index that
// was read, and the name is as safe as it.
func (w Rewrite) Name(entry string, m Meta) (string, error) {
	base := strings.TrimSuffix(path.Base(entry), ".zip")
	_, number, _ := cutLast(base, "-")
	if strings.Contains(w.text, "{number}") && !isNumber(number) {
		return "", errs.Invalid("rewrite", "the file's name does not end with a dash and a number, which {number} needs")
	}
	name := strings.NewReplacer(
		"{name}", base,
		"{start}", strconv.FormatInt(m.Start.Unix(), 10),
		"{end}", strconv.FormatInt(m.End.Unix(), 10),
		"{number}", number,
	).Replace(w.text)
	if !relative(name) || hidden(name) {
		return "", errs.Invalid("rewrite", "the rewritten name is not the relative name of an object")
	}
	return name, nil
}

// hidden tells whether a part of the name begins with a dot: buckets keep those
// for themselves.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 10 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
