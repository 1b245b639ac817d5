package phone

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/exposure"
)

// The platforms, as apps name them.
const (
	Android = "android"
	IOS     = "ios"
)

// Digest names one upload: what the proof of a device is made for.
type Digest = [sha256.Size]byte

// Device is how a phone shows that it is genuine. The zero value shows nothing,
// as apps do whose servers do not ask.
type Device struct {
	Platform string

	// Prove asks the system that the phone runs on for a proof. It is never
	// asked for chaff: Google and Apple would learn when somebody sends it.
	Prove func(d Digest, now time.Time) (proof string, err error)
}

func (d Device) prove(digest Digest, now time.Time) (string, error) {
	if d.Prove == nil {
		return "", nil
	}
	return d.Prove(digest, now)
}

// digest is that of an upload as docs/app-developers.md tells authors of apps
// to make it.
func (up *Upload) digest(app string) Digest {
	var keys []string
	for _, k := range slices.SortedFunc(slices.Values(up.Keys), byText) {
		keys = append(keys, fmt.Sprintf("%s.%d.%d.%d", k.Text, k.Start, k.Period, k.Risk))
	}
	text := strings.Join([]string{"v1", app, strings.Join(keys, ","), up.Certificate}, "|")
	return sha256.Sum256([]byte(text))
}

func byText(a, b exposure.Submitted) int { return cmp.Compare(a.Text, b.Text) }

// Sizes of what is sent, in bytes. The deployed app pads its requests to the
// first. The proof of an iPhone alone is longer, so an app whose phones prove
// themselves pads to the second: on all platforms, and chaff too, or the length
// would tell who sends what.
const (
	bodySize   = 5000
	provenSize = 16_000
	proofNoise = 5600 // in chaff in place of a proof; a third longer as base64
)

// size is that of all requests of phones like this.
func (d Device) size() int {
	if d.Platform == "" {
		return bodySize
	}
	return provenSize
}

// noise stands for a proof in chaff.
func (d Device) noise() string {
	if d.Platform == "" {
		return ""
	}
	return noise(proofNoise)
}
