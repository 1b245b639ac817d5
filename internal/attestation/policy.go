package attestation

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"enkeyserver/internal/errs"
)

// Policy says which devices an app's uploads may come from. It is part of the
// configuration, and stored as JSON; Checked completes and checks it.
type Policy struct {
	Android *Android `yaml:"android,omitempty" json:"android,omitempty"`
	IOS     *IOS     `yaml:"ios,omitempty" json:"ios,omitempty"`
}

// Mode says what a missing or wrong proof does.
type Mode string

// The modes.
const (
	Required Mode = "required" // it refuses the upload
	Optional Mode = "optional" // it is only told in Verdict: to see what would be refused
	Off      Mode = "off"      // nothing is looked at; for development
)

// Kind is a way to prove that a device is genuine.
type Kind string

// The kinds.
const (
	PlayIntegrityClassic  Kind = "play-integrity-classic"  // opened here, with keys of our own
	PlayIntegrityStandard Kind = "play-integrity-standard" // opened by Google, who so learns when an upload happens
	SafetyNet             Kind = "safetynet"               // turned off by Google in January 2025; for tests
	AppAttest             Kind = "app-attest"              // checked here
	DeviceCheck           Kind = "devicecheck"             // checked by Apple; not bound to the upload
)

// Level is how much Google must find in order about a device.
type Level string

// The levels, each including the one before.
const (
	Basic  Level = "basic"  // it may be unlocked or unknown to Google
	Device Level = "device" // it is one that Google has certified, as it was delivered
	Strong Level = "strong" // and its hardware says so
)

// Android is the policy for Android phones.
type Android struct {
	Mode         Mode     `yaml:"mode" json:"mode"`
	Kinds        []Kind   `yaml:"kinds,flow" json:"kinds"`
	Packages     []string `yaml:"packages,flow" json:"packages"`
	Certificates []string `yaml:"certificates" json:"certificates"` // SHA-256 of the app's signing certificates
	Device       Level    `yaml:"device" json:"device"`
	MaxAge       Duration `yaml:"maxAge" json:"maxAge"` // of a proof

	// TestResponses accepts what testers made up in the Play Console. It is for
	// development only.
	TestResponses bool `yaml:"testResponses,omitempty" json:"testResponses,omitempty"`
}

// Environment is which of Apple's two worlds an app lives in.
type Environment string

// The environments.
const (
	Production  Environment = "production"
	Development Environment = "development" // apps that Xcode put on a phone
)

// Source is where a phone got its app from, as iOS 27 and later tell.
type Source string

// The sources.
const (
	FromAppStore     Source = "app-store"
	FromTestFlight   Source = "testflight"
	FromEnterprise   Source = "enterprise" // or ad hoc
	FromDevelopment  Source = "development"
	FromSystem       Source = "system" // part of the operating system
	FromDeveloperID  Source = "developer-id"
	FromAnotherPlace Source = "other"
)

// Unavailability is what happens while Apple cannot be asked.
type Unavailability string

// The two ways.
const (
	Retry  Unavailability = "retry"  // the phone is told to try again
	Accept Unavailability = "accept" // the upload is taken without the proof
)

// IOS is the policy for iPhones.
type IOS struct {
	Mode        Mode        `yaml:"mode" json:"mode"`
	Kinds       []Kind      `yaml:"kinds,flow" json:"kinds"`
	TeamID      string      `yaml:"teamID" json:"teamID"`
	BundleIDs   []string    `yaml:"bundleIDs,flow" json:"bundleIDs"`
	Environment Environment `yaml:"environment" json:"environment"`

	// Sources holds for phones that tell; older systems do not.
	Sources []Source `yaml:"sources,flow" json:"sources"`

	// OnUnavailable matters for DeviceCheck alone: nobody else is asked.
	OnUnavailable Unavailability `yaml:"onUnavailable" json:"onUnavailable"`
}

// ParsePolicy reads a policy as it is stored. What it does not know it refuses:
// a rule that is not understood must not count as kept.
func ParsePolicy(text []byte) (p Policy, err error) {
	defer errs.Wrap(&err, "ParsePolicy")
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return Policy{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Policy{}, errors.New("there is something behind the policy")
	}
	return p.Checked()
}

// Weaknesses names what of the policy is for development only.
func (p Policy) Weaknesses() (names []string) {
	add := func(is bool, name string) {
		if is {
			names = append(names, name)
		}
	}
	if a := p.Android; a != nil {
		add(a.Mode == Off, "attestation.android.mode off")
		add(a.TestResponses, "attestation.android.testResponses")
	}
	if i := p.IOS; i != nil {
		add(i.Mode == Off, "attestation.ios.mode off")
		add(i.Mode != Off && i.Environment == Development, "attestation.ios.environment development")
	}
	return names
}

// Strict is the policy without its weaknesses, for production. What it then
// lacks, such as the packages of a section that was off, refuses everybody.
func (p Policy) Strict() Policy {
	if p.Android != nil {
		a := *p.Android
		a.Mode = enforced(a.Mode)
		a.TestResponses = false
		p.Android = &a
	}
	if p.IOS != nil {
		i := *p.IOS
		i.Mode = enforced(i.Mode)
		if i.Environment == Development {
			i.Environment, i.Sources = Production, productionSources()
		}
		p.IOS = &i
	}
	return p
}

// demands tells whether a proof is needed. What is not known is taken strictly.
func (m Mode) demands() bool { return m != Optional && m != Off }

func enforced(m Mode) Mode {
	if m == Optional {
		return Optional
	}
	return Required
}

// required tells whether any phone needs a proof.
func (p Policy) required() bool {
	return p.Android != nil && p.Android.Mode.demands() || p.IOS != nil && p.IOS.Mode.demands()
}

// Duration is written as "10m0s", in YAML and in JSON.
type Duration time.Duration

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads "10m" as well as "600s".
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New(`a duration must look like "10m"`)
	}
	*d = Duration(parsed)
	return nil
}
