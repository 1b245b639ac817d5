package secrets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// text is a content as the value of a variable. One newline at the end is not
// part of it: whoever wrote the secret with echo, or in an editor, did not mean
// it.
func text(id identity, content []byte) (string, error) {
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return "", unusableFor(id, "is empty: give it a value")
	}
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return "", unusableFor(id, "is no text: add target=file if a file is wanted")
	}
	return value, nil
}

// field takes one member of a JSON object: a string, or a number or truth value
// as it is written. What the JSON library says about a wrong one could repeat
// the secret.
func field(p reference, content []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil || members == nil {
		return nil, unusableFor(p.identity, "is no JSON object, so it has no fields: leave out # and what follows")
	}
	member, ok := members[p.field]
	if !ok {
		return nil, unusableFor(p.identity, "does not have the field that stands after #: add it, or correct the reference")
	}
	if member[0] == '"' {
		var value string
		if json.Unmarshal(member, &value) != nil {
			return nil, unusableFor(p.identity, "is no JSON object")
		}
		return []byte(value), nil
	}
	if bytes.ContainsAny(member[:1], "{[n") {
		return nil, unusableFor(p.identity, "has no single value in the field that stands after #")
	}
	return member, nil
}

// file gives the path of a file with the content. Another content is another
// file, so that nobody reads half of each.
func (r *Resolver) file(content []byte) (path string, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	if path, ok := r.files[string(content)]; ok {
		return path, nil
	}
	if path, err = writePrivate(content); err != nil {
		return "", fmt.Errorf("a secret cannot be put into a private file: %w", err)
	}
	r.files[string(content)] = path
	return path, nil
}
