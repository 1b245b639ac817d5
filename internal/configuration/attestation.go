package configuration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// attestation gives the policy as it is stored, or "" for none.
func (c *checker) attestation(p *attestation.Policy) string {
	if p == nil {
		return ""
	}
	if p.Android == nil && p.IOS == nil {
		c.problem("attestation must hold android or ios: without either it asks for nothing, so leave it out")
		return ""
	}
	checked, err := p.Checked()
	for _, problem := range each(err) {
		c.problem("attestation.%v", problem)
	}
	return string(compact(checked))
}

// each takes apart what errors.Join has put together.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func compact(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // words, numbers and lists never fail
	}
	return text
}

// policyOf reads what is stored; nil is none.
func policyOf(a store.AppConfig) (_ *attestation.Policy, err error) {
	defer errs.Wrap(&err, "app %s", a.AppID)
	if a.Attestation == "" {
		return nil, nil
	}
	p, err := attestation.ParsePolicy([]byte(a.Attestation))
	return &p, err
}

// policyFields are the rules of a policy, one by one. One that cannot be read,
// because another release wrote it, is shown as it is: it differs from all that
// can be wanted.
func policyFields(a store.AppConfig) []Field {
	p, err := policyOf(a)
	if err != nil {
		return []Field{{Name: "attestation", New: "unreadable: " + a.Attestation}}
	}
	var rules map[string]any
	if json.Unmarshal(compact(p), &rules) != nil {
		return nil
	}
	return flat("attestation", rules)
}

func flat(name string, value any) (fields []Field) {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			fields = append(fields, flat(name+"."+key, v[key])...)
		}
		return fields
	case []any:
		return []Field{{Name: name, New: strings.Trim(fmt.Sprint(v), "[]")}}
	case bool:
		return []Field{{Name: name, New: yes(v)}}
	}
	return []Field{{Name: name, New: fmt.Sprint(value)}}
}

// noteAttestation tells what of a policy is perhaps not meant.
func (p *planner) noteAttestation(a store.AppConfig) {
	policy, err := policyOf(a)
	if err != nil || policy == nil {
		return // an unreadable one is about to be replaced, or stays as loud as it is
	}
	for _, weakness := range policy.Weaknesses() {
		p.Notes = append(p.Notes, fmt.Sprintf("app %s: %s is for development only, and not followed in production", a.AppID, weakness))
	}
	if platform := missing(*policy); platform != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("app %s: attestation does not list %s, so all its phones are refused: list it as optional while it is not ready", a.AppID, platform))
	}
}

// missing is the platform that a policy refuses for not listing it.
func missing(p attestation.Policy) string {
	switch {
	case p.IOS == nil && p.Android != nil && p.Android.Mode == attestation.Required:
		return "ios"
	case p.Android == nil && p.IOS != nil && p.IOS.Mode == attestation.Required:
		return "android"
	}
	return ""
}
