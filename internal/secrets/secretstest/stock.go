package secretstest

import (
	"encoding/json"
	"sync"
	"testing"
)

// Fault is how a server fails.
type Fault string

// The faults.
const (
	Unavailable Fault = "unavailable" // an answer of the kind 503
	Stalled     Fault = "stalled"     // half an answer, then silence
	Cut         Fault = "cut"         // half an answer, then the end of the connection
)

// Stock is what a fake server has, and how it fails.
type Stock struct {
	whole bool // of Vault: secrets are objects

	mu      sync.Mutex
	secrets map[string]*item
	tokens  map[string]bool // of those who may ask, where there are tokens
}

// item is one secret.
type item struct {
	versions            [][]byte
	disabled, forbidden bool

	fault Fault // of the next answers
	times int   // how many
	asked int
}

// refusal is why a server gives no value.
type refusal string

const (
	missing   refusal = "missing"
	disabled  refusal = "disabled"
	forbidden refusal = "forbidden"
)

func newStock() *Stock { return &Stock{secrets: map[string]*item{}, tokens: map[string]bool{}} }

// Trust lets who shows this token ask: a fake that stands beside another one,
// behind one address, knows the other's token so.
func (s *Stock) Trust(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = true
}

func (s *Stock) trusts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[token]
}

// Put gives a secret a new version with this value.
func (s *Stock) Put(_ testing.TB, name, value string) {
	if s.whole {
		value = object(map[string]string{"value": value})
	}
	s.put(name, value)
}

// PutFields gives a secret a new version that is a JSON object.
func (s *Stock) PutFields(_ testing.TB, name string, fields map[string]string) {
	s.put(name, object(fields))
}

func (s *Stock) put(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.secrets[name]
	if !ok {
		i = &item{}
		s.secrets[name] = i
	}
	i.versions = append(i.versions, []byte(value))
}

// Disable takes a secret out of use, as its manager does that.
func (s *Stock) Disable(name string) { s.change(name, func(i *item) { i.disabled = true }) }

// Forbid takes the right to read a secret.
func (s *Stock) Forbid(name string) { s.change(name, func(i *item) { i.forbidden = true }) }

func (s *Stock) change(name string, f func(*item)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.secrets[name])
}

// Break makes the next answers to questions for a secret fail.
func (s *Stock) Break(name string, fault Fault, times int) {
	s.change(name, func(i *item) { i.fault, i.times = fault, times })
}

// Mend ends what Break began.
func (s *Stock) Mend(name string) { s.Break(name, "", 0) }

// Asked counts the questions for a secret, those in vain included.
func (s *Stock) Asked(name string) (n int) {
	s.change(name, func(i *item) { n = i.asked })
	return n
}

// fails tells how the answer to a question fails, if it does.
func (s *Stock) fails(name string) (fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.secrets[name]
	if !ok {
		return ""
	}
	i.asked++
	if i.times > 0 {
		i.times--
		fault = i.fault
	}
	return fault
}

// version gives a version of a secret, counted from 1; 0 is the last one.
func (s *Stock) version(name string, number int) ([]byte, refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.secrets[name]
	switch {
	case ok && i.forbidden:
		return nil, forbidden
	case !ok || number > len(i.versions) || number < 0:
		return nil, missing
	case i.disabled:
		return nil, disabled
	case number == 0:
		number = len(i.versions)
	}
	return i.versions[number-1], ""
}

// object writes a JSON object.
func object(fields map[string]string) string {
	text, _ := json.Marshal(fields) // texts always have a form in JSON
	return string(text)
}
