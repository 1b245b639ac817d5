package secrets

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// verdict is what a manager said about a secret.
type verdict uint8

const (
	missing  verdict = iota + 1 // there is none of this name, or version
	disabled                    // it is there, and not to be used any more
	denied                      // not for us
	unusable                    // no text, too long, empty
	unopened                    // the manager's client finds its settings wrong
)

// failure is a manager's answer that will be the same when asked again soon.
type failure struct {
	verdict
	identity
	detail string // of the last two: what is wrong
}

// Error says what to do. It holds the name of the secret and nothing of its
// value.
func (f *failure) Error() string {
	k := kinds()[f.manager]
	switch f.verdict {
	case missing:
		return fmt.Sprintf("there is no secret %s in %s: create it, or correct the reference", f.name, k.title)
	case disabled:
		return fmt.Sprintf("the version of secret %s in %s is disabled or deleted: enable it, or refer to another one", f.name, k.title)
	case denied:
		return fmt.Sprintf("%s does not let this service read secret %s: %s", k.title, f.name, k.right)
	case unopened:
		return fmt.Sprintf("%s cannot be asked: %s", k.title, f.detail)
	default:
		return fmt.Sprintf("the secret %s in %s %s", f.name, k.title, f.detail)
	}
}

func unusableFor(id identity, detail string) error {
	return &failure{verdict: unusable, identity: id, detail: detail}
}

// down is a manager that could not be asked.
type down struct {
	identity
	cause error
}

// Error puts the cause on one line. The vendors' own texts hold addresses of
// managers and reasons, not values: no value has arrived.
func (d *down) Error() string {
	return fmt.Sprintf("%s could not be asked for secret %s: %s", kinds()[d.manager].title, d.name, brief(d.cause))
}

// Unwrap gives the cause.
func (d *down) Unwrap() error { return d.cause }

// brief is an error as one short line, without the address that was asked.
func brief(err error) string {
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err
	}
	words := []rune(strings.Join(strings.Fields(err.Error()), " "))
	const enough = 300
	if len(words) > enough {
		return string(words[:enough]) + "…"
	}
	return string(words)
}
