package attestation

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ahead is how far Google's clock may be before ours.
const ahead = 2 * time.Minute

// playVerdict is what a token of Play Integrity says, as far as it matters.
type playVerdict struct {
	Request struct {
		Package string `json:"requestPackageName"`
		Nonce   string `json:"nonce"`       // of classic tokens
		Hash    string `json:"requestHash"` // of standard tokens
		Time    millis `json:"timestampMillis"`
	} `json:"requestDetails"`
	App struct {
		Recognition  string   `json:"appRecognitionVerdict"`
		Package      string   `json:"packageName"`
		Certificates []string `json:"certificateSha256Digest"`
	} `json:"appIntegrity"`
	Device struct {
		Labels []string `json:"deviceRecognitionVerdict"` // none: it failed
	} `json:"deviceIntegrity"`
	Testing struct {
		MadeUp bool `json:"isTestingResponse"`
	} `json:"testingDetails"`
}

// Words of Google's.
const (
	playRecognized  = "PLAY_RECOGNIZED"
	playUnevaluated = "UNEVALUATED"
	meetsBasic      = "MEETS_BASIC_INTEGRITY"
	meetsDevice     = "MEETS_DEVICE_INTEGRITY"
	meetsStrong     = "MEETS_STRONG_INTEGRITY"
)

func parsePlay(payload []byte) (v playVerdict, err error) {
	if json.Unmarshal(payload, &v) != nil {
		return playVerdict{}, Refused("its verdict is not the JSON that Google documents")
	}
	return v, nil
}

func (v playVerdict) checkClassic(digest Digest, a *Android, now time.Time) error {
	if err := v.checkRequest(a, now); err != nil {
		return err
	}
	if !digest.isBase64(v.Request.Nonce) {
		return Refused("its nonce is not the digest of this upload")
	}
	return v.checkIntegrity(a)
}

func (v playVerdict) checkStandard(digest Digest, a *Android, now time.Time) error {
	if err := v.checkRequest(a, now); err != nil {
		return err
	}
	if v.Request.Hash != digest.Text() {
		return Refused("its requestHash is not the digest of this upload")
	}
	if v.App.Recognition == playUnevaluated && len(v.Device.Labels) == 0 {
		return spent()
	}
	return v.checkIntegrity(a)
}

func (v playVerdict) checkRequest(a *Android, now time.Time) error {
	if v.Testing.MadeUp && !a.TestResponses {
		return Refused("it is a response made up for a tester")
	}
	if !slices.Contains(a.Packages, v.Request.Package) {
		return Refused("it was requested by another package")
	}
	return fresh(v.Request.Time.time(), a, now)
}

func fresh(made time.Time, a *Android, now time.Time) error {
	if now.Sub(made) > time.Duration(a.MaxAge) {
		return Refused("it is too old: make a new one")
	}
	if made.Sub(now) > ahead {
		return Refused("it was made in the future: make a new one")
	}
	return nil
}

func (v playVerdict) checkIntegrity(a *Android) error {
	if v.App.Recognition != playRecognized {
		return Refused("Google does not recognise the app")
	}
	if v.App.Package != v.Request.Package {
		return Refused("it is about another package")
	}
	if !a.signs(v.App.Certificates) {
		return Refused("the app is not signed with the certificate of this app")
	}
	if !a.trusts(v.Device.Labels) {
		return Refused("the device does not meet the integrity that this app needs")
	}
	return nil
}

// signs tells whether an app with these signing certificates is ours. One of
// somebody else beside them makes it somebody else's.
func (a *Android) signs(digests []string) bool {
	stranger := func(d string) bool { return !a.knows(d) }
	return len(digests) > 0 && !slices.ContainsFunc(digests, stranger)
}

// trusts tells whether labels reach the level. Each level includes those below,
// whether Google lists them all or not.
func (a *Android) trusts(labels []string) bool {
	strong := slices.Contains(labels, meetsStrong)
	device := strong || slices.Contains(labels, meetsDevice)
	basic := device || slices.Contains(labels, meetsBasic)
	switch a.Device {
	case Basic:
		return basic
	case Device:
		return device
	case Strong:
		return strong
	}
	return false
}

// millis is a time in milliseconds since 1970, in JSON a string or a number.
type millis int64

// UnmarshalJSON takes both forms.
func (m *millis) UnmarshalJSON(raw []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
	*m = millis(n)
	return err
}

// secondsUntil is a number that is surely seconds: as milliseconds it would be
// in 1973.
const secondsUntil = 100_000_000_000

// time also understands seconds, which Google's own example shows.
func (m millis) time() time.Time {
	if m < secondsUntil {
		return time.Unix(int64(m), 0)
	}
	return time.UnixMilli(int64(m))
}
