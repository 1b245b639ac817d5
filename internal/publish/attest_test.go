package publish_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

// lab is a desk that believes forged vendors, and the phones that they vouch
// for.
type lab struct {
	*desk
	google *forge.Google
	apple  *forge.Apple
	app    forge.App
	tokens *revision.Keyring
	keys   int // that were used so far
}

func newLab(t *testing.T, edits ...func(*publish.Settings, *publish.Deps)) *lab {
	t.Helper()
	app := forge.NewApp()
	l := &lab{google: must(forge.NewGoogle()), app: app}
	l.apple = must(forge.NewApple(app.TeamID, func() time.Time { return l.now() }))
	note := func(_ *publish.Settings, d *publish.Deps) { l.tokens = d.Tokens }
	edits = append([]func(*publish.Settings, *publish.Deps){l.believe(t), note}, edits...)
	l.desk = newDesk(t, edits...)
	l.demand(must(app.Policy()))
	return l
}

// believe gives a service a verifier that believes this lab.
func (l *lab) believe(t *testing.T) func(*publish.Settings, *publish.Deps) {
	t.Helper()
	google, apple := httptest.NewServer(l.google), httptest.NewServer(l.apple)
	t.Cleanup(google.Close)
	t.Cleanup(apple.Close)
	return func(_ *publish.Settings, d *publish.Deps) {
		accounts := vendors.Settings{GoogleEndpoint: google.URL}
		must(0, l.apple.Account(&accounts, apple.URL))
		anything := func(string, bool) error { return nil }
		deps := must(vendors.Open(t.Context(), accounts, vendors.Deps{Tokens: l.google.Tokens(), Now: d.Now, DevelopmentOnly: anything}))
		var settings attestation.Settings
		must(0, l.google.Trust(&settings))
		l.apple.Trust(&settings)
		d.Devices = must(attestation.New(settings, deps))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// demand makes a policy that of the app.
func (l *lab) demand(p attestation.Policy) {
	l.t.Helper()
	l.exec(`UPDATE authorized_app SET attestation = $1::text::jsonb`, string(must(json.Marshal(p))))
	l.refresh()
}

// policy is the app's, edited.
func (l *lab) policy(edit func(*attestation.Android, *attestation.IOS)) attestation.Policy {
	p := must(l.app.Policy())
	edit(p.Android, p.IOS)
	return p
}

// A phone makes the proof for an upload.
type phone struct {
	name, platform string
	prove          func(l *lab, d attestation.Digest) (string, error)
}

func classic() phone {
	return phone{"classic", "android", func(l *lab, d attestation.Digest) (string, error) { return l.google.Classic(l.app, d, l.now()) }}
}

func standard() phone {
	return phone{"standard", "Android", func(l *lab, d attestation.Digest) (string, error) { return l.google.Standard(l.app, d, l.now()) }}
}

func safetyNet() phone {
	return phone{"SafetyNet", "android", func(l *lab, d attestation.Digest) (string, error) { return l.google.SafetyNet(l.app, d, l.now()) }}
}

func appAttest() phone {
	return phone{"App Attest", "ios", func(l *lab, d attestation.Digest) (string, error) { return l.apple.Proof(l.app, d, l.now()) }}
}

func deviceCheck() phone {
	return phone{"DeviceCheck", "iOS", func(l *lab, _ attestation.Digest) (string, error) { return l.apple.DeviceToken(), nil }}
}

// unproved is an upload of a phone that proves nothing, with keys of its own.
func (l *lab) unproved(platform string, edits ...func(*certificate.SignRequest)) upload {
	l.t.Helper()
	l.keys += 10
	up := l.upload(entest.Upload(l.keys, 2, l.now()), edits...)
	up.Platform = platform
	return up
}

func (l *lab) proved(p phone, edits ...func(*certificate.SignRequest)) upload {
	l.t.Helper()
	up := l.unproved(p.platform, edits...)
	return l.prove(p, up)
}

func (l *lab) prove(p phone, up upload) upload {
	l.t.Helper()
	up.DeviceProof = must(p.prove(l, attestation.DigestOf(up.HealthAuthorityID, up.keys, up.Certificate)))
	return up
}

func (l *lab) refuse(why string, up upload) {
	l.t.Helper()
	a := l.send(up)
	if a.Status != http.StatusUnauthorized || a.Code != apiv1.CodeInvalidAttestation {
		l.t.Errorf("%s: got status %d, code %q (%s); want a refusal", why, a.Status, a.Code, a.Error)
	}
	checkEnvelope(l.t.(*testing.T), a)
}

func (l *lab) putOff(why string, up upload) {
	l.t.Helper()
	if a := l.send(up); a.Status != http.StatusInternalServerError || a.Code != apiv1.CodeInternal || a.Error == "" {
		l.t.Errorf("%s: got status %d, code %q (%s); want to be told to try again", why, a.Status, a.Code, a.Error)
	}
}

// trips counts how often the database was gone to.
func (l *lab) trips(f func()) int64 {
	before := l.store.Pool().Stat().AcquireCount()
	f()
	return l.store.Pool().Stat().AcquireCount() - before
}

func down(n int) (all []http.HandlerFunc) {
	for range n {
		all = append(all, forge.Answer(http.StatusServiceUnavailable, ""))
	}
	return all
}

// Every kind of proof carries its upload, its repetition, and nothing else.
// What is judged here costs no trip to the database.
func TestProofs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		phone
		bound bool
		trips int64 // of an upload
		asked int   // in all: a retry asks nobody
	}{
		{classic(), true, 1, 0},
		{safetyNet(), true, 1, 0},
		{appAttest(), true, 1, 0},
		{standard(), true, 2, 1},
		{deviceCheck(), false, 2, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.demand(attestation.Policy{})
			l.accept(l.unproved("")) // the first one also reads what is remembered later
			if n := l.trips(func() { l.accept(l.unproved("")) }); n != 1 {
				t.Errorf("an upload without a policy takes %d trips, want 1", n)
			}
			l.demand(must(l.app.Policy()))

			up := l.proved(tc.phone)
			if n := l.trips(func() { l.accept(up) }); n != tc.trips {
				t.Errorf("an upload takes %d trips, want %d", n, tc.trips)
			}
			if n := l.trips(func() { l.accept(up) }); n != 1 {
				t.Errorf("a retry takes %d trips, want 1", n)
			}
			if asked := l.google.Asked() + l.apple.Asked(); asked != tc.asked {
				t.Errorf("the vendors were asked %d times, want %d", asked, tc.asked)
			}
			if n := l.count(`SELECT count(*)::int FROM upload_fact WHERE attestation = $1`, store.AttestationGenuine); n != 1 {
				t.Errorf("%d uploads count as genuine, want 1", n)
			}
			stolen := l.unproved(tc.platform)
			stolen.DeviceProof = up.DeviceProof
			if tc.bound {
				l.refuse("the proof of another upload", stolen)
			}
			l.refuse("no proof", l.unproved(tc.platform))
			noise := l.unproved(tc.platform)
			noise.DeviceProof = "bm9pc2U="
			l.refuse("noise", noise)
		})
	}
}

// The older API binds the same digest to its own names.
func TestProofV1Alpha1(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	body := strings.Replace(string(l.proved(classic()).body()), `"healthAuthorityID"`, `"regions":["CA"],"appPackageName"`, 1)
	if a := l.post("/", []byte(body)); a.Status != http.StatusOK {
		t.Errorf("got status %d, code %q (%s)", a.Status, a.Code, a.Error)
	}
}

// What the policy says of each platform, for phones that prove themselves and
// others.
func TestPolicies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const genuine, doubtful, none, refused = "genuine", "doubtful", "none", "refused"
	words := map[int]string{0: none, 1: genuine, 2: doubtful}
	both := func(android, ios attestation.Mode) attestation.Policy {
		return l.policy(func(a *attestation.Android, i *attestation.IOS) { a.Mode, i.Mode = android, ios })
	}
	only := func(p attestation.Policy, platform string) attestation.Policy {
		if platform == "ios" {
			return attestation.Policy{IOS: p.IOS}
		}
		return attestation.Policy{Android: p.Android}
	}
	type want = map[string]string
	for _, tc := range []struct {
		why    string
		policy attestation.Policy
		want   want
	}{
		{
			"both required", both("required", "required"),
			want{"android proves": genuine, "android": refused, "ios proves": genuine, "ios": refused, "neither": refused},
		},
		{
			"one is not ready yet", both("required", "optional"),
			want{"android proves": genuine, "android": refused, "ios proves": genuine, "ios": doubtful, "neither": refused},
		},
		{
			"nobody is ready yet", both("optional", "optional"),
			want{"android proves": genuine, "android": doubtful, "ios proves": genuine, "ios": doubtful, "neither": none},
		},
		{
			"one is off", both("off", "required"),
			want{"android proves": none, "android": none, "ios proves": genuine, "ios": refused, "neither": refused},
		},
		{
			"one is not listed", only(both("required", "required"), "ios"),
			want{"android proves": refused, "android": refused, "ios proves": genuine, "ios": refused, "neither": refused},
		},
		{
			"one is optional, the other not listed", only(both("optional", "optional"), "android"),
			want{"android proves": genuine, "android": doubtful, "ios proves": none, "ios": none, "neither": none},
		},
	} {
		l.demand(tc.policy)
		got := want{}
		for name, up := range map[string]upload{
			"android proves": l.proved(classic()), "android": l.unproved("android"),
			"ios proves": l.proved(appAttest()), "ios": l.unproved("ios"), "neither": l.unproved(""),
		} {
			l.exec(`DELETE FROM upload_fact`)
			switch a := l.send(up); {
			case a.Status == http.StatusOK:
				got[name] = words[l.count(`SELECT attestation::int FROM upload_fact`)]
			case a.Code == apiv1.CodeInvalidAttestation:
				got[name] = refused
			default:
				got[name] = a.Code + " " + a.Error
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.why, diff)
		}
	}
}

// A repetition succeeds whatever has happened to its proof since: it is spent,
// too old, or there is nobody to ask.
func TestRetryOfProof(t *testing.T) {
	t.Parallel()
	for _, p := range []phone{classic(), standard(), appAttest(), deviceCheck()} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			up := l.proved(p, func(c *certificate.SignRequest) { c.Expires = l.now().Add(20 * time.Hour) })
			l.accept(up)
			l.google.Fail(down(10)...)
			l.apple.Fail(down(10)...)
			l.accept(up)
			l.pass(15*time.Minute + time.Second) // longer than a proof is good, and an answer remembered
			l.accept(up)

			// Another instance, that knows nothing of the first try.
			other := openDesk(t, l.url, l.believe(t), func(_ *publish.Settings, d *publish.Deps) { d.Tokens = l.tokens })
			other.clock, other.authority = l.clock, l.authority
			if a := other.send(up); a.Status != http.StatusOK || a.InsertedExposures != 0 {
				t.Errorf("another instance: got status %d, code %q (%s)", a.Status, a.Code, a.Error)
			}
			if n := l.count(`SELECT count(*)::int FROM upload_fact`); n != 1 {
				t.Errorf("%d uploads are counted, want 1", n)
			}
		})
	}
}

// An upload that could not be stored spends its proof once: the next try finds
// the answer of the vendor.
func TestProofOutlivesDatabase(t *testing.T) {
	t.Parallel()
	for _, p := range []phone{standard(), deviceCheck()} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.accept(l.proved(classic())) // the first one also reads what is remembered later
			up := l.proved(p)
			l.exec(`ALTER TABLE arrival RENAME TO gone`)
			l.putOff("without its table", up)
			l.exec(`ALTER TABLE gone RENAME TO arrival`)
			l.accept(up)
			if n := l.google.Asked() + l.apple.Asked(); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
		})
	}
}

// A vendor that is down costs no upload: the phone tries again, or the policy
// takes it.
func TestVendorDown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.google.Fail(down(3)...) // as often as each is asked
	l.apple.Fail(down(2)...)
	for _, p := range []phone{standard(), deviceCheck()} {
		up := l.proved(p)
		l.putOff(p.name+", required", up)
		l.accept(up)
	}
	l.demand(l.policy(func(_ *attestation.Android, i *attestation.IOS) { i.OnUnavailable = attestation.Accept }))
	l.apple.Fail(down(2)...)
	l.exec(`DELETE FROM upload_fact`)
	l.accept(l.proved(deviceCheck()))
	if got := l.count(`SELECT attestation::int FROM upload_fact`); got != int(store.AttestationDoubtful) {
		t.Errorf("taken unproved, it counts as %d, want doubtful", got)
	}
	l.refuse("a vendor that says no is not down", func() upload {
		up := l.unproved("ios")
		up.DeviceProof = "bm9pc2U="
		return up
	}())
}

// A vendor that never answers keeps no phone waiting until it gives up.
func TestVendorHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until then a server does not notice who leaves
		<-r.Context().Done()
	}
	for range 3 { // as often as Google is asked
		l.google.Fail(hang)
	}
	began := time.Now()
	l.putOff("a vendor that hangs", l.proved(standard()))
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("answered after %v, want within 8s", took)
	}
}

// A key that is missing is our mistake, and not the phone's.
func TestVerifierWithoutKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ *publish.Settings, d *publish.Deps) {
		d.Devices = must(attestation.New(attestation.Settings{}, attestation.Deps{DevelopmentOnly: d.DevelopmentOnly}))
	})
	for _, p := range []phone{classic(), standard(), safetyNet(), deviceCheck()} {
		l.putOff(p.name, l.proved(p))
	}
}

// In production what is for development only is not followed.
func TestStrictInProduction(t *testing.T) {
	t.Parallel()
	weak := func(l *lab) {
		l.demand(l.policy(func(a *attestation.Android, i *attestation.IOS) {
			a.Mode, i.Environment, i.Sources = attestation.Off, attestation.Development, nil
		}))
	}
	l := newLab(t)
	weak(l)
	l.accept(l.unproved("android"))

	production := newLab(t, func(_ *publish.Settings, d *publish.Deps) {
		d.DevelopmentOnly = func(name string, set bool) error {
			if set {
				return http.ErrNotSupported
			}
			return nil
		}
	})
	weak(production)
	production.refuse("off in production", production.unproved("android"))
	production.accept(production.proved(classic()))
	production.accept(production.proved(appAttest()))
}

// A policy counts a minute after it was applied, without a restart; while it
// cannot be read, nothing is taken.
func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.refuse("as configured", l.unproved("ios"))
	l.exec(`UPDATE authorized_app SET attestation = NULL`)
	l.refuse("at once", l.unproved("ios"))
	l.pass(time.Minute)
	l.accept(l.unproved("ios"))
	l.exec(`UPDATE authorized_app SET attestation = '{"ios":{"mode":"later"}}'`)
	l.pass(time.Minute)
	l.putOff("not understood", l.unproved("ios"))
	l.putOff("not understood, of another platform", l.proved(classic()))
}

// Chaff makes no work and cannot be told from the answer to an upload; who has
// no certificate cannot make the vendors work either.
func TestNothingIsProvedInVain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.accept(l.proved(classic()))
	for _, p := range []phone{standard(), deviceCheck()} {
		up := l.proved(p)
		if n := l.trips(func() {
			if a := l.post("/v1/publish", up.body(), "X-Chaff", "1"); a.Status != http.StatusOK || a.RevisionToken == "" {
				t.Errorf("chaff got status %d", a.Status)
			}
		}); n != 0 {
			t.Errorf("chaff takes %d trips to the database", n)
		}
		expired := l.proved(p, func(c *certificate.SignRequest) { c.Expires = l.now().Add(-time.Hour) })
		if a := l.send(expired); a.Code != apiv1.CodeInvalidCertificate {
			t.Errorf("an expired certificate: got code %q", a.Code)
		}
	}
	if n := l.google.Asked() + l.apple.Asked(); n != 0 {
		t.Errorf("the vendors were asked %d times", n)
	}
}
