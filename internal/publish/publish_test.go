package publish_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
)

// Every row of the table of answers that the wire contract has, of one upload
// by itself.
func TestAnswers(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.addApp("org.example.nowhere")
	d.addApp("org.example.unreadable", "US")
	d.exec(`INSERT INTO health_authority (issuer, audience, name) VALUES ('org.example.broken', 'x', 'Broken')`)
	d.exec(`
		INSERT INTO health_authority_key (authority_id, version, public_key)
		SELECT authority_id, 'v1', 'not PEM' FROM health_authority WHERE issuer = 'org.example.broken'`)
	d.exec(`
		INSERT INTO authorized_app_authority (app_id, authority_id)
		SELECT 'org.example.unreadable', authority_id FROM health_authority WHERE issuer = 'org.example.broken'`)
	d.addApp("org.example.proving", "US")
	d.exec(`UPDATE authorized_app SET attestation = '{"ios":{"teamID":"ABCDE12345","bundleIDs":["org.example.App"]}}' WHERE app_id = 'org.example.proving'`)
	d.addApp("org.example.garbled", "US")
	d.exec(`UPDATE authorized_app SET attestation = '{"symbian":{}}' WHERE app_id = 'org.example.garbled'`)
	d.refresh()
	now := d.now()
	stranger := certtest.New(t, issuer, audience)
	keyNumber := 0
	fresh := func(days int, edits ...func(*exposure.Submitted)) []exposure.Submitted {
		first := keyNumber
		keyNumber += days
		return entest.Upload(first, days, now, edits...)
	}
	edited := func(up upload, edit func(*upload)) upload { edit(&up); return up }

	for _, tc := range []struct {
		why      string
		up       upload
		status   int
		code     string
		inserted int
		warnings int
	}{
		{"good keys are taken", d.upload(fresh(14)), 200, "", 14, 0},
		{"the app's name may be in any case", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = strings.ToUpper(appID) }), 200, "", 1, 0},
		{"a key that is sent twice counts once", d.upload(twice(fresh(2))), 200, "", 2, 0},
		{"without a risk the short HMAC will do", d.upload(entest.Upload(8000, 1, now), shortMAC(d.secret, entest.Upload(8000, 1, now))), 200, "", 1, 0},
		{"noise for a token is no token", d.upload(fresh(1)).withToken("bm9pc2U="), 200, "", 1, 0},
		{"nor is what is no base64", d.upload(fresh(1)).withToken("%%%"), 200, "", 1, 0},
		{"a traveller's keys are taken", edited(d.upload(fresh(1)), func(up *upload) { up.Traveler = true }), 200, "", 1, 0},
		{"nobody need tell the onset", edited(d.upload(fresh(1)), func(up *upload) { up.SymptomOnset = 0 }), 200, "", 1, 0},
		{"a first negative is taken and not published", d.upload(fresh(3), report(exposure.Revoked)), 200, "", 0, 0},
		{"an old key goes, the others are saved", d.upload(append(fresh(2), old(fresh(1))...)), 200, "partial_failure", 2, 1},
		{"a key far from the onset is left out with a warning", edited(d.upload(fresh(14)), func(up *upload) { up.SymptomOnset = int32(entest.DaysAgo(now, 20)) }), 200, "", 9, 5},
		{"when all are, that is still no error", edited(d.upload(fresh(1)), func(up *upload) { up.SymptomOnset = int32(entest.DaysAgo(now, 28)) + 143 }), 200, "", 0, 1},

		{"an unknown app", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "org.example.other" }), 401, "unknown_health_authority_id", 0, 0},
		{"no app", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "" }), 401, "unknown_health_authority_id", 0, 0},
		{"an app without regions", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "org.example.nowhere" }), 500, "health_authority_missing_region_config", 0, 0},
		{"an authority whose key we cannot read may have signed this", edited(d.upload(fresh(1)), func(up *upload) {
			up.HealthAuthorityID, up.Certificate = "org.example.unreadable", stranger.Certificate(t, up.keys, d.secret, now)
		}), 500, "unable_to_load_health_authority", 0, 0},
		{"one whose key we can read did", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "org.example.unreadable" }), 200, "", 1, 0},

		{"no certificate", edited(d.upload(fresh(1)), func(up *upload) { up.Certificate = "" }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"nonsense for a certificate", edited(d.upload(fresh(1)), func(up *upload) { up.Certificate = "a.b.c" }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"somebody else signed", edited(d.upload(fresh(1)), func(up *upload) { up.Certificate = stranger.Certificate(t, up.keys, d.secret, now) }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"an authority that the app does not list", d.upload(fresh(1), func(c *certificate.SignRequest) { c.Issuer = "org.example.broken" }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"for somebody else", d.upload(fresh(1), func(c *certificate.SignRequest) { c.Audience = "org.example.other" }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"expired, and never used before", d.upload(fresh(1), func(c *certificate.SignRequest) { c.Expires = now.Add(-time.Second) }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"another HMAC", d.upload(fresh(1), func(c *certificate.SignRequest) { c.MAC = []byte("another") }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"another secret", edited(d.upload(fresh(1)), func(up *upload) { up.HMACKey = base64.StdEncoding.EncodeToString([]byte("x")) }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"a secret that is no base64", edited(d.upload(fresh(1)), func(up *upload) { up.HMACKey = "%" }), 401, "health_authority_verification_certificate_invalid", 0, 0},
		{"a key that the certificate does not cover", edited(d.upload(fresh(2)), func(up *upload) { up.Keys = up.Keys[:1] }), 401, "health_authority_verification_certificate_invalid", 0, 0},

		{"a device that proves nothing", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "org.example.proving" }), 401, "device_attestation_invalid", 0, 0},
		{"what it had to prove cannot be read", edited(d.upload(fresh(1)), func(up *upload) { up.HealthAuthorityID = "org.example.garbled" }), 500, "internal_error", 0, 0},

		{"no keys", d.upload(nil), 400, "bad_request", 0, 0},
		{"none that can be kept", d.upload(old(fresh(2))), 400, "bad_request", 0, 0},
		{"too many keys", d.upload(many(now, 31)), 400, "bad_request", 0, 0},
		{"keys that overlap", d.upload([]exposure.Submitted{entest.Submitted(9001, now, 1), entest.Submitted(9002, now, 1, func(s *exposure.Submitted) { s.Start += 6 })}), 400, "bad_request", 0, 0},
		{"four that share a start", d.upload(sameStart(now, 4)), 400, "bad_request", 0, 0},
		{"three that do are fine", d.upload(sameStart(now, 3)), 200, "", 3, 0},
	} {
		t.Run(tc.why, func(t *testing.T) {
			before := d.count(`SELECT count(*)::int FROM arrival`)
			a := d.send(tc.up)
			type seen struct {
				Status   int
				Code     string
				Inserted int
				Warnings int
				Stored   int
				Token    bool
			}
			want := seen{tc.status, tc.code, tc.inserted, tc.warnings, tc.inserted, tc.status == 200}
			got := seen{a.Status, a.Code, a.InsertedExposures, len(a.Warnings), d.count(`SELECT count(*)::int FROM arrival`) - before, a.RevisionToken != ""}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s%s", diff, a.Error)
			}
			if tc.code != "" && a.Error == "" {
				t.Error("there is a code and no sentence")
			}
			checkEnvelope(t, a)
		})
	}
}

// What is wrong before anybody looks at keys.
func TestAnswersAtTheDoor(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	good := string(d.upload(entest.Upload(1, 2, d.now())).body())
	with := func(member string) string { return strings.Replace(good, "{", "{"+member+",", 1) }

	for _, tc := range []struct {
		why         string
		method      string
		path        string
		contentType string
		body        string
		status      int
	}{
		{"wrong method", "GET", "/v1/publish", "application/json", "", 405},
		{"wrong path", "POST", "/v1/publishe", "application/json", good, 404},
		{"wrong content type", "POST", "/v1/publish", "text/plain", good, 415},
		{"no content type", "POST", "/v1/publish", "", good, 415},
		{"JSON with another name", "POST", "/v1/publish", "application/json-patch", good, 415},
		{"too long", "POST", "/v1/publish", "application/json", with(`"padding":"` + strings.Repeat("x", 64_000) + `"`), 413},
		{"nothing", "POST", "/v1/publish", "application/json", "", 400},
		{"no JSON", "POST", "/v1/publish", "application/json", "keys", 400},
		{"no object", "POST", "/v1/publish", "application/json", "[]", 400},
		{"null", "POST", "/v1/publish", "application/json", "null", 400},
		{"half an object", "POST", "/v1/publish", "application/json", good[:len(good)/2], 400},
		{"two objects", "POST", "/v1/publish", "application/json", good + good, 400},
		{"an unknown member", "POST", "/v1/publish", "application/json", with(`"regions":["US"]`), 400},
		{"an unknown member of a key", "POST", "/v1/publish", "application/json", strings.Replace(good, `"key":`, `"keyy":"","key":`, 1), 400},
		{"a number for a text", "POST", "/v1/publish", "application/json", with(`"padding":1`), 400},
		{"a start that is no int32", "POST", "/v1/publish", "application/json", with(`"symptomOnsetInterval":2147483648`), 400},
		{"a charset is fine", "POST", "/v1/publish", "application/json; charset=utf-8", good, 200},
		{"names in any case", "POST", "/v1/publish", "application/json", strings.Replace(good, `"hmacKey"`, `"HMACkey"`, 1), 200},
	} {
		t.Run(tc.why, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
			r.Header.Set("Content-Type", tc.contentType)
			a := d.do(r)
			if a.Status != tc.status {
				t.Errorf("got status %d (%s), want %d", a.Status, a.Error, tc.status)
			}
			if tc.status != 200 && a.Code != apiv1.CodeBadRequest {
				t.Errorf("got code %q, want bad_request", a.Code)
			}
			if tc.status == 405 && a.Header.Get("Allow") != "POST" {
				t.Errorf("got Allow %q, want POST", a.Header.Get("Allow"))
			}
			checkEnvelope(t, a)
		})
	}
}

// checkEnvelope checks what every answer has, good or bad.
func checkEnvelope(t *testing.T, a answer) {
	t.Helper()
	want := http.Header{
		"Content-Type":   {"application/json"},
		"X-Api-Version":  {"v1"},
		"Cache-Control":  {"no-store"},
		"Content-Length": nil, "X-Content-Type-Options": nil, "Allow": nil, "Retry-After": nil,
	}
	ignoreValues := cmpopts.IgnoreMapEntries(func(name string, _ []string) bool { return want[name] == nil && has(want, name) })
	if diff := gocmp.Diff(want, a.Header, ignoreValues); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if n := len(a.Padding); n < 1024 || n > 2048 {
		t.Errorf("got %d bytes of padding, want 1024 to 2048", n)
	}
	if _, err := base64.StdEncoding.DecodeString(a.Padding); err != nil {
		t.Errorf("the padding is no base64: %v", err)
	}
}

func has(h http.Header, name string) bool { _, ok := h[name]; return ok }

// The older API is the same with other names.
func TestV1Alpha1(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	up := d.upload(entest.Upload(1, 3, d.now()))
	body := string(up.body())
	body = strings.Replace(body, `"healthAuthorityID"`, `"regions":["CA"],"appPackageName"`, 1)
	body = strings.Replace(body, `"hmacKey"`, `"hmackey"`, 1)

	a := d.post("/", []byte(body))
	if a.Status != 200 || a.RevisionToken == "" || a.InsertedExposures != 3 {
		t.Errorf("got %d, %d keys, code %q (%s); want 200 and 3 keys", a.Status, a.InsertedExposures, a.Code, a.Error)
	}
	checkEnvelope(t, a)
	if n := d.count(`SELECT count(*)::int FROM arrival WHERE regions = '{US}'`); n != 3 {
		t.Errorf("%d keys go to the app's region, want 3", n)
	}
	if a := d.post("/v1/publish", []byte(body)); a.Status != 400 {
		t.Errorf("the newer API took the older words: %d", a.Status)
	}
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(_ *publish.Settings, deps *publish.Deps) { deps.Maintenance = true })
	up := d.upload(entest.Upload(1, 3, d.now()))
	for _, path := range []string{"/v1/publish", "/v1/stats", "/"} {
		a := d.post(path, up.body())
		if a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: got %d, Retry-After %q; want 429 and a time", path, a.Status, a.Header.Get("Retry-After"))
		}
		checkEnvelope(t, a)
	}
	if a := d.post("/v1/publish", up.body(), "X-Chaff", "1"); a.Status != http.StatusOK {
		t.Errorf("chaff got %d: phones would stop sending it", a.Status)
	}
	if n := d.count(`SELECT count(*)::int FROM arrival`); n != 0 {
		t.Errorf("%d keys were stored during maintenance", n)
	}
}

// An app without certificates is for development; production asks for one
// whatever is configured.
func TestSkipCertificate(t *testing.T) {
	t.Parallel()
	refuse := func(name string, set bool) error {
		if !set {
			return nil
		}
		return bytes.ErrTooLarge
	}
	for _, tc := range []struct {
		why             string
		developmentOnly func(string, bool) error
		status          int
	}{
		{"in development", func(string, bool) error { return nil }, 200},
		{"in production", refuse, 401},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(_ *publish.Settings, deps *publish.Deps) { deps.DevelopmentOnly = tc.developmentOnly })
			d.exec(`UPDATE authorized_app SET skip_certificate = true`)
			d.refresh()
			up := d.upload(entest.Upload(1, 3, d.now()))
			up.Certificate, up.HMACKey = "", ""
			if a := d.send(up); a.Status != tc.status {
				t.Errorf("got status %d, want %d", a.Status, tc.status)
			}
			if tc.status != 200 {
				return
			}
			if n := d.count(`SELECT count(*)::int FROM arrival WHERE report = 1`); n != 3 {
				t.Errorf("%d confirmed keys are stored, want 3", n)
			}
			d.accept(up) // a retry
			up.SymptomOnset -= 144
			up.Certificate = "x"
			if a := d.send(up); a.Code != apiv1.CodeMissingRevisionToken {
				t.Errorf("other content without a token: got code %q", a.Code)
			}
		})
	}
}

// What phones say of themselves is reduced to a word, and only that is kept.
func TestPlatform(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		declared, agent string
		want            int
	}{
		{"android", "", 1},
		{"iOS", "", 2},
		{"", "", 0},
		{"symbian", "curl/8", 0},
		{"", "Dalvik/2.1.0 (Linux; U; Android 10)", 1},
		{"", "okhttp/4.9", 1},
		{"", "ENX/1 CFNetwork/1220.1 Darwin/20.3.0", 2},
		{"ios", "okhttp/4.9", 2},
	} {
		t.Run(cmp.Or(tc.declared, "-")+" "+tc.agent, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			up := d.upload(entest.Upload(1, 1, d.now()))
			up.Platform = tc.declared
			if a := d.post("/v1/publish", up.body(), "User-Agent", tc.agent); a.Status != 200 {
				t.Fatalf("got status %d (%s)", a.Status, a.Error)
			}
			if got := d.count(`SELECT platform::int FROM upload_fact`); got != tc.want {
				t.Errorf("got platform %d, want %d", got, tc.want)
			}
		})
	}
}

func twice(keys []exposure.Submitted) []exposure.Submitted { return append(keys, keys...) }

// shortMAC is the HMAC of phones that know no transmission risk: one key.
func shortMAC(secret []byte, keys []exposure.Submitted) func(*certificate.SignRequest) {
	return func(c *certificate.SignRequest) { c.MAC = macWithoutRisk(secret, keys[0]) }
}

// old makes keys too old to be taken.
func old(keys []exposure.Submitted) []exposure.Submitted {
	for i := range keys {
		keys[i].Start -= 20 * exposure.IntervalsPerDay
	}
	return keys
}

func many(now time.Time, n int) []exposure.Submitted {
	keys := make([]exposure.Submitted, n)
	for i := range keys {
		keys[i] = entest.Submitted(5000+i, now, 1, func(s *exposure.Submitted) {
			s.Start += int32(4 * i)
			s.Period = 4
		})
	}
	return keys
}

func sameStart(now time.Time, n int) []exposure.Submitted {
	keys := make([]exposure.Submitted, n)
	for i := range keys {
		keys[i] = entest.Submitted(6000+10*n+i, now, 1)
	}
	return keys
}
