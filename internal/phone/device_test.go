package phone_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// proving is a device that proves with so many characters.
func proving(platform string, length int, asked *int) phone.Device {
	return phone.Device{Platform: platform, Prove: func(phone.Digest, time.Time) (string, error) {
		*asked++
		return strings.Repeat("x", length), nil
	}}
}

// TestDigest compares with the vectors that authors of apps are given.
func TestDigest(t *testing.T) {
	t.Parallel()
	const app, certificate = "org.example.app", "header.payload.signature"
	for _, tc := range []struct {
		why  string
		keys []exposure.Submitted
		want string
	}{
		{"keys are sorted", []exposure.Submitted{
			{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 1, Period: 144, Risk: 3},
			{Text: "dPCphLzfG4uzXneNimkPRQ==", Start: 144, Period: 144, Risk: 5},
		}, "873503b3ef13d30fe0910513dfaa19d8158842a9750a1c2240b461e909bf4382"},
		{"no risk is 0", []exposure.Submitted{
			{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 2649312, Period: 144},
		}, "4803fdf96c3ed45088cd298dee8e18823648db4cbb67fc0125d04deb30b2db54"},
	} {
		got := phone.DigestOf(app, tc.keys, certificate)
		if text := hex.EncodeToString(got[:]); text != tc.want {
			t.Errorf("%s: digest %s, want %s", tc.why, text, tc.want)
		}
		if server := attestation.DigestOf(app, tc.keys, certificate); got != server {
			t.Errorf("%s: phones and server make two digests of one upload", tc.why)
		}
	}
}

func TestProof(t *testing.T) {
	t.Parallel()
	p := carried(3)
	var asked phone.Digest
	p.Device = phone.Device{Platform: phone.Android, Prove: func(d phone.Digest, now time.Time) (string, error) {
		asked = d
		return "a proof of " + now.Format(time.TimeOnly), nil
	}}
	up, err := p.Prepare("app", authority(t), phone.Diagnosis{Report: exposure.Confirmed, Risk: 2}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if want := attestation.DigestOf("app", up.Keys, up.Certificate); asked != want || up.Digest != want {
		t.Error("the proof is not for this upload")
	}
	var sent struct{ Platform, DeviceVerificationPayload string }
	if err := json.Unmarshal(up.Body, &sent); err != nil {
		t.Fatal(err)
	}
	if sent.Platform != "android" || sent.DeviceVerificationPayload != "a proof of 12:00:00" {
		t.Errorf("sent %+v", sent)
	}
	p.Device.Prove = func(phone.Digest, time.Time) (string, error) { return "", errors.New("no network") }
	if _, err := p.Prepare("app", authority(t), phone.Diagnosis{Report: exposure.Confirmed}, noon); err == nil {
		t.Error("a phone without a proof uploads all the same")
	}
}

// Nobody learns from the length of a request whether it is chaff, which
// platform it comes from, or how many keys it has.
func TestRequestsOfOneApp(t *testing.T) {
	t.Parallel()
	server := answering(t, answer(200, `{"revisionToken":"dG9rZW4="}`))
	to := phone.Server{URL: server.URL, App: "app"}
	asked := 0
	for _, tc := range []struct {
		why    string
		device phone.Device
		days   exposure.Day
		size   int
		proofs int
	}{
		{"the deployed app", phone.Device{}, 15, 5000, 0},
		{"Android, and one key", proving(phone.Android, 2000, &asked), 1, 16000, 1},
		{"an iPhone, and all keys that there can be", proving(phone.IOS, 8200, &asked), 15, 16000, 1},
		{"an iPhone whose app makes no proof", phone.Device{Platform: phone.IOS}, 3, 16000, 0},
	} {
		p := carried(tc.days)
		p.Device, asked = tc.device, 0
		up, err := p.Prepare(to.App, authority(t), phone.Diagnosis{Report: exposure.Confirmed, Risk: 2}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Chaff(t.Context(), to, noon); err != nil {
			t.Fatal(err)
		}
		bodies, _ := server.received()
		chaff := bodies[len(bodies)-1]
		if len(up.Body) != tc.size || len(chaff) != tc.size {
			t.Errorf("%s: an upload of %d bytes, chaff of %d; want %d", tc.why, len(up.Body), len(chaff), tc.size)
		}
		if asked != tc.proofs {
			t.Errorf("%s: the system was asked for %d proofs, want %d: none for chaff", tc.why, asked, tc.proofs)
		}
	}
}
