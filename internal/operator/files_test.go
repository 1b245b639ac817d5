package operator_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	apiv1 "enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
)

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// newKey makes a signing key with the command, and gives where it is and where
// its public half is.
func (d *desk) newKey() (private, public string) {
	d.t.Helper()
	private = filepath.Join(d.t.TempDir(), "key.pem")
	public = private + ".pub"
	if err := os.WriteFile(public, []byte(d.must("", "keys", "create", "signing", private)), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return private, public
}

func TestKeyCommands(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: entest.Noon()}
	private, public := d.newKey()
	text := string(readFile(t, public))
	if _, err := keys.ParsePublicPEM([]byte(text)); err != nil {
		t.Errorf("what was printed is no public key: %v", err)
	}
	d.says(text, "", "keys", "public", "file://"+private)
	if got := decode[map[string]string](t, d.must("", "keys", "public", "file://"+private, "-o", "json")); got["publicKey"] != text {
		t.Errorf("in JSON the key is %q, want %q", got["publicKey"], text)
	}
	d.fails(1, "keys are never overwritten", "", "keys", "create", "signing", private)
	d.fails(2, "either signing or wrapping", "", "keys", "create", "skeleton", private+"2")

	wrapping := filepath.Join(t.TempDir(), "wrapping.key")
	d.must("", "keys", "create", "wrapping", wrapping)
	if _, err := keys.OpenWrapper(t.Context(), "file://"+wrapping); err != nil {
		t.Error(err)
	}
	d.fails(1, "keys are never overwritten", "", "keys", "create", "wrapping", wrapping)
}

func TestCertificateSign(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: entest.Noon()}
	private, public := d.newKey()
	pub, err := keys.ParsePublicPEM(readFile(t, public))
	if err != nil {
		t.Fatal(err)
	}
	trusted := map[string]certificate.Authority{"ha": {Issuer: "ha", Audience: "us", Keys: []certificate.Key{{Version: "v1", Public: pub}}}}
	sign := []string{"certificate", "sign", "--key", private, "--kid", "v1", "--issuer", "ha", "--audience", "us", "--report", "likely", "--onset", "2020-11-01"}
	const sent = `"traveler": true, "temporaryExposureKeys": [{"key": "z2Cx9hdz2SlxZ8GEgqTYpA==", "rollingStartNumber": 1, "rollingPeriod": 144, "transmissionRisk": 3}]`
	const withKey = `{"hmackey": "AQIDBAUGBwgJCgsMDQ4PEA==", ` + sent + `}`

	verify := func(jwt, hmacKey string) {
		t.Helper()
		secret, err := exposure.DecodeBase64(hmacKey)
		if err != nil {
			t.Fatal(err)
		}
		keys := []exposure.Submitted{{Text: "z2Cx9hdz2SlxZ8GEgqTYpA==", Start: 1, Period: 144, Risk: 3}}
		got, err := certificate.Verify(strings.TrimSpace(jwt), trusted, keys, secret, d.now)
		want := certificate.Claims{
			Issuer: "ha", Report: exposure.Likely, Expires: d.now.Add(15 * time.Minute),
			Onset: exposure.IntervalOf(time.Date(2020, 11, 1, 0, 0, 0, 0, time.UTC)),
		}
		got.Expires = got.Expires.UTC()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("the certificate says (error %v, -want +got):\n%s", err, diff)
		}
	}
	verify(d.must(withKey, sign...), "AQIDBAUGBwgJCgsMDQ4PEA==")

	answer := decode[map[string]string](t, d.must("{"+sent+"}", append(sign, "-o", "json")...))
	verify(answer["certificate"], answer["hmacKey"])

	filled := d.must(withKey, append(sign, "--fill")...)
	var request apiv1.Publish
	if err := json.Unmarshal([]byte(filled), &request); err != nil {
		t.Fatal(err)
	}
	verify(request.Certificate, request.HMACKey)
	if !request.Traveler || strings.Contains(filled, "hmackey") {
		t.Errorf("the filled request lost something, or has its hmacKey twice:\n%s", filled)
	}

	d.fails(1, "the request has no hmacKey", "{"+sent+"}", sign...)
	d.fails(1, "no temporaryExposureKeys", "{}", sign...)
	d.fails(1, "not the JSON of a publish request", "x", sign...)
	d.fails(2, "--kid must be given", withKey, "certificate", "sign", "--key", private)
	d.fails(2, "--report must be", withKey, append(sign, "--report", "dead")...)
	d.fails(2, "--onset must be", withKey, append(sign, "--onset", "soon")...)
}

// exportOf writes a signed file.
func exportOf(t *testing.T, signer crypto.Signer, all, revised []exposure.Exposure) []byte {
	t.Helper()
	var file bytes.Buffer
	meta := exportfile.Meta{Start: entest.Noon().Add(-4 * time.Hour), End: entest.Noon(), Region: "US"}
	signers := []exportfile.Signer{{Key: signer, ID: "310", Version: "v1"}}
	if _, err := exportfile.Write(t.Context(), &file, meta, signers, each(all), each(revised)); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func each(all []exposure.Exposure) iter.Seq2[exposure.Exposure, error] {
	return func(yield func(exposure.Exposure, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestExportFiles(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, now: entest.Noon()}
	private, public := d.newKey()
	signer, err := keys.OpenSigner(t.Context(), "file://"+private)
	if err != nil {
		t.Fatal(err)
	}
	key := entest.Exposure(1, d.now)
	revised := entest.Exposure(2, d.now, func(e *exposure.Exposure) { e.Report = exposure.Revoked })
	good := filepath.Join(t.TempDir(), "good.zip")
	bad := filepath.Join(t.TempDir(), "bad.zip")
	file := exportOf(t, signer, []exposure.Exposure{key}, []exposure.Exposure{revised})
	for path, content := range map[string][]byte{good: file, bad: file[:len(file)-10]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := []string{"export", "verify", "--public-key", public, "--key-id", "310", "--key-version", "v1"}

	d.says(good+": ok, 1 keys and 1 revised keys of US, 2020-11-05T08:00:00Z to 2020-11-05T12:00:00Z\n", "", append(verify, good)...)
	got := d.run("", append(verify, bad, good, "none.zip", "-o", "json")...)
	verdicts := decode[[]struct {
		File, Rule, Error, Region string
		OK                        bool
		Keys, RevisedKeys         int
		Start, End                time.Time
	}](t, got.Out)
	if got.Status != 1 || len(verdicts) != 3 || verdicts[0].Rule != "zip" || !verdicts[1].OK || verdicts[2].Rule != "unreadable" {
		t.Errorf("status %d and %+v", got.Status, verdicts)
	}
	_, other := d.newKey()
	got = d.run("", "export", "verify", "--public-key", other, "--key-id", "310", "--key-version", "v1", good)
	if got.Status != 1 || !strings.HasPrefix(got.Out, good+": signature: ") {
		t.Errorf("with another key: status %d and %q", got.Status, got.Out)
	}
	d.fails(2, "--public-key must be given", "", "export", "verify", good)
	d.fails(2, "no file is named", "", verify...)

	d.watched = true
	got = d.run("", append(verify, good, good)...)
	if !strings.Contains(got.Err, "checking [===============               ] 1/2") || !strings.HasSuffix(got.Err, " \r") || strings.Contains(got.Out, "\r") {
		t.Errorf("the progress is shown as %q", got.Err)
	}
	d.watched = false

	inspected := d.must("", "export", "inspect", good)
	spaces := regexp.MustCompile(` {2,}`)
	for _, want := range []string{"\nkeys: 1\n", "\nrevised keys: 1\n", "\nsignature: 310-v1\n", "\nreport negative (revised): 1\n"} {
		if !strings.Contains(spaces.ReplaceAllString(inspected, ": "), want) {
			t.Errorf("what was inspected lacks %q:\n%s", want, inspected)
		}
	}
	if strings.Contains(inspected, key.Key.Base64()) {
		t.Error("inspecting shows a key")
	}
	d.fails(1, "no such file", "", "export", "inspect", "none.zip")
}
