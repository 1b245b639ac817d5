package attestation

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/exposure"
)

// How old a proof may be, at the least and at the most. A short time refuses
// phones on bad networks, a long one lets a stolen proof be used for longer;
// the binding to the upload is what really protects.
const (
	minMaxAge     = time.Minute
	defaultMaxAge = 10 * time.Minute
	maxMaxAge     = 24 * time.Hour
)

var (
	packageForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+$`)
	bundleForm  = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)
	teamForm    = regexp.MustCompile(`^[A-Z0-9]{10}$`)
)

func allSources() []Source {
	return []Source{FromAppStore, FromDevelopment, FromDeveloperID, FromEnterprise, FromAnotherPlace, FromSystem, FromTestFlight}
}

func productionSources() []Source { return []Source{FromAppStore} }

// Checked gives the policy in its one form, defaults written out, or an error
// that says all that is wrong with it. Two policies that mean the same are
// equal afterwards.
func (p Policy) Checked() (Policy, error) {
	c := &checker{}
	if p.Android != nil {
		a := *p.Android
		c.at = "android."
		c.android(&a)
		p.Android = &a
	}
	if p.IOS != nil {
		i := *p.IOS
		c.at = "ios."
		c.ios(&i)
		p.IOS = &i
	}
	if len(c.found) > 0 {
		return Policy{}, errors.Join(c.found...)
	}
	return p, nil
}

// checker collects everything that is wrong with a policy.
type checker struct {
	at    string
	found []error
}

func (c *checker) problem(format string, args ...any) {
	c.found = append(c.found, fmt.Errorf(c.at+format, args...))
}

func (c *checker) android(a *Android) {
	oneOf(c, "mode", &a.Mode, Required, Optional, Off)
	if a.Mode == Off && len(a.Kinds)+len(a.Packages)+len(a.Certificates) == 0 {
		return // nothing to complete: it stays as short as it was written
	}
	someOf(c, "kinds", &a.Kinds, []Kind{PlayIntegrityClassic}, PlayIntegrityClassic, PlayIntegrityStandard, SafetyNet)
	names(c, "packages", &a.Packages, packageForm, "org.example.app")
	c.certificates(a)
	oneOf(c, "device", &a.Device, Device, Basic, Strong)
	c.maxAge(&a.MaxAge)
	if slices.Contains(a.Kinds, PlayIntegrityStandard) && len(a.Packages) > 1 {
		c.problem("packages names %d, and only one can be asked about with %s: make an app of each", len(a.Packages), PlayIntegrityStandard)
	}
}

func (c *checker) ios(i *IOS) {
	oneOf(c, "mode", &i.Mode, Required, Optional, Off)
	if i.Mode == Off && len(i.Kinds)+len(i.BundleIDs)+len(i.TeamID) == 0 {
		return
	}
	someOf(c, "kinds", &i.Kinds, []Kind{AppAttest}, AppAttest, DeviceCheck)
	names(c, "bundleIDs", &i.BundleIDs, bundleForm, "org.example.app")
	if !teamForm.MatchString(i.TeamID) {
		c.problem("teamID must be the ten letters and digits of the app's team at Apple")
	}
	oneOf(c, "environment", &i.Environment, Production, Development)
	without := productionSources()
	if i.Environment == Development {
		without = allSources()
	}
	someOf(c, "sources", &i.Sources, without, allSources()...)
	oneOf(c, "onUnavailable", &i.OnUnavailable, Retry, Accept)
}

// oneOf checks a word; an empty one becomes the first of those known.
func oneOf[T ~string](c *checker, field string, value *T, known ...T) {
	if *value == "" {
		*value = known[0]
	}
	if !slices.Contains(known, *value) {
		c.problem("%s must be one of %s", field, list(known))
	}
}

// someOf checks a set of words and sorts it.
func someOf[T ~string](c *checker, field string, values *[]T, without []T, known ...T) {
	if len(*values) == 0 {
		*values = without
	}
	*values = set(c, field, *values)
	for _, v := range *values {
		if !slices.Contains(known, v) {
			c.problem("%s must be some of %s", field, list(known))
		}
	}
}

func names(c *checker, field string, values *[]string, form *regexp.Regexp, example string) {
	if len(*values) == 0 {
		c.problem("%s must name one at least, such as %s", field, example)
	}
	*values = set(c, field, *values)
	for _, v := range *values {
		if !form.MatchString(v) {
			c.problem("%s: %q must look like %s", field, v, example)
		}
	}
}

func set[T ~string](c *checker, field string, values []T) []T {
	sorted := slices.Sorted(slices.Values(values))
	if len(slices.Compact(slices.Clone(sorted))) < len(sorted) {
		c.problem("%s names one twice: remove it", field)
	}
	return sorted
}

func list[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return strings.Join(texts, ", ")
}

func (c *checker) maxAge(d *Duration) {
	if *d == 0 {
		*d = Duration(defaultMaxAge)
	}
	if age := time.Duration(*d); age < minMaxAge || age > maxMaxAge {
		c.problem("maxAge must be from %s to %s", minMaxAge, maxMaxAge)
	}
}

func (c *checker) certificates(a *Android) {
	if len(a.Certificates) == 0 {
		c.problem("certificates must name one at least: the SHA-256 of the certificate with which the app is signed")
	}
	digests := make([]string, len(a.Certificates))
	for n, text := range a.Certificates {
		raw, ok := fingerprint(text)
		if !ok {
			c.problem("certificates: number %d must be the SHA-256 of a certificate, as 64 hexadecimal digits with or without colons, or in base64", n+1)
		}
		digests[n] = hex.EncodeToString(raw)
	}
	a.Certificates = set(c, "certificates", digests)
}

// fingerprint reads a SHA-256 as keytool, the Play Console or a token write it.
func fingerprint(text string) ([]byte, bool) {
	if raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", "")); err == nil && len(raw) == 32 {
		return raw, true
	}
	if raw, err := exposure.DecodeBase64(text); err == nil && len(raw) == 32 {
		return raw, true
	}
	return nil, false
}

// knows tells whether a digest in base64, as tokens write it, is the app's.
func (a *Android) knows(digest string) bool {
	raw, err := exposure.DecodeBase64(digest)
	return err == nil && slices.Contains(a.Certificates, hex.EncodeToString(raw))
}
