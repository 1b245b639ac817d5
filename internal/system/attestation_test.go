package system_test

import (
	"context"
	"crypto/sha256"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/system"
)

// guarded is a system that asks devices for proofs.
//
// AppUS takes those that the server checks by itself, AppCA those about which it
// must ask, and AppBoth too, but Apple may be away.
type guarded struct {
	*system.System
	*makers
}

// Only genuine phones with the genuine app upload, and they warn whom they met;
// what the server cannot find out costs nobody's upload; and what operators
// change takes effect while the server runs.
func TestAttestation(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.genuinePhonesWarn()
	g.scriptsAreRefused()
	g.chaffAsksNobody()
	g.vendorsAreAsked()
	g.vendorsFail()
	g.policyChanges()
}

func newGuarded(t *testing.T) guarded {
	t.Helper()
	m := newMakers(t)
	environment := map[string]string{"DEBUG_SEAL_NOW": "true", "EXPORT_FILE_MIN_RECORDS": "50"}
	maps.Copy(environment, m.environment())
	sys, err := system.New(t.Context(), system.Options{
		Binaries: binaries,
		Exports:  []configuration.Export{system.ExportOf("us", time.Hour, "US")},
		Attestation: map[string]attestation.Policy{
			system.AppUS:   m.policy(attestation.Required),
			system.AppCA:   m.policy(attestation.Required, vendorsAsked),
			system.AppBoth: m.policy(attestation.Required, vendorsAsked, appleMayFail),
		},
		Environment: environment,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := sys.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return guarded{sys, m}
}

// phone is one with the keys of the last days.
func (g guarded) phone(d phone.Device) *phone.Phone {
	p := phone.New("p")
	p.Device = d
	today := exposure.DayOf(g.Now())
	p.Carry(today-5, today-1)
	return p
}

// upload is what a phone would send.
func (g guarded) upload(p *phone.Phone, app string) *phone.Upload {
	g.t.Helper()
	d := phone.Diagnosis{Report: exposure.Confirmed, Onset: exposure.IntervalOf(g.Now().Add(-72 * time.Hour)), Risk: 2}
	up, err := p.Prepare(app, g.Authority, d, g.Now())
	if err != nil {
		g.t.Fatal(err)
	}
	return up
}

func (g guarded) send(p *phone.Phone, app string, up *phone.Upload) phone.Answer {
	g.t.Helper()
	server, err := g.Server(app)
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := p.Send(g.t.Context(), server, up)
	if err != nil {
		g.t.Error(err)
	}
	return a
}

// wantTaken lets a phone upload all that it has, in so many tries.
func (g guarded) wantTaken(why string, p *phone.Phone, app string, tries int) *phone.Upload {
	g.t.Helper()
	up := g.upload(p, app)
	if a := g.send(p, app, up); !a.Accepted() || a.Inserted != len(up.Keys) || a.Tries != tries {
		g.t.Errorf("%s: answer %d %s %q after %d tries, %d keys taken; want 200 after %d, and all keys",
			why, a.Status, a.Code, a.Error, a.Tries, a.Inserted, tries)
	}
	return up
}

// wantRefused lets a phone try in vain.
func (g guarded) wantRefused(why string, p *phone.Phone, app string) {
	g.t.Helper()
	a := g.send(p, app, g.upload(p, app))
	if a.Status != http.StatusUnauthorized || a.Code != "device_attestation_invalid" || a.Tries != 1 {
		g.t.Errorf("%s: answer %d %s %q after %d tries; want 401 device_attestation_invalid at once", why, a.Status, a.Code, a.Error, a.Tries)
	}
	if len(a.Padding) < 1024 {
		g.t.Errorf("%s: the refusal is not padded", why)
	}
}

// genuinePhonesWarn from the meeting to the warning, with a lost answer between.
func (g guarded) genuinePhonesWarn() {
	feed, err := g.Feed("us")
	if err != nil {
		g.t.Fatal(err)
	}
	contacts := map[string]*phone.Client{}
	for platform, device := range map[string]phone.Device{phone.Android: g.classic(), phone.IOS: g.appAttest()} {
		ill, contact := g.phone(device), g.phone(phone.Device{})
		phone.Meet(exposure.IntervalOf(g.Now())-2*exposure.IntervalsPerDay, ill, contact) // a key of yesterday waits until two in the morning
		contacts[platform] = &phone.Client{Phone: contact, Feed: feed}
		up := g.wantTaken("a genuine phone, "+platform, ill, system.AppUS, 1)
		if a := g.send(ill, system.AppUS, up); !a.Accepted() || a.Inserted != 0 {
			g.t.Errorf("%s: the same upload again is answered %d %s %q, %d keys taken", platform, a.Status, a.Code, a.Error, a.Inserted)
		}
	}
	if _, err := g.CreateBatches(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.DoWork(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	for platform, c := range contacts {
		if _, err := c.Poll(g.t.Context(), g.Now()); err != nil || !c.Phone.Warned() {
			g.t.Errorf("who met the ill one with %s is warned: %t, error %v", platform, c.Phone.Warned(), err)
		}
	}
}

// scriptsAreRefused: all of these have a certificate that is in order.
func (g guarded) scriptsAreRefused() {
	before := g.stock()
	android, ios := g.upload(g.phone(g.classic()), system.AppUS), g.upload(g.phone(g.appAttest()), system.AppUS)
	repackaged := g.app
	repackaged.Certificate = sha256.Sum256([]byte("a certificate of somebody else"))
	another := forge.App{Package: "org.example.game", Certificate: g.app.Certificate, TeamID: g.app.TeamID, BundleID: "org.example.Game"}
	strangers := newMakers(g.t)
	for _, tc := range []struct {
		why    string
		device phone.Device
	}{
		{"a script that says nothing of a device", phone.Device{}},
		{"a script that says it is Android", saying(phone.Android, "")},
		{"a script that says it is an iPhone", saying(phone.IOS, "")},
		{"a script that says it is something else", saying("windows", "proof")},
		{"noise, Android", saying(phone.Android, "bm9pc2U.bm9pc2U.bm9pc2U.bm9pc2U.bm9pc2U")},
		{"noise, iPhone", saying(phone.IOS, "bm9pc2U=")},
		{"an Android phone's proof for other keys", saying(phone.Android, android.Proof)},
		{"an iPhone's proof for other keys", saying(phone.IOS, ios.Proof)},
		{"an Android phone's proof of an iPhone", saying(phone.IOS, android.Proof)},
		{"another app on a genuine Android phone", g.of(another).classic()},
		{"another app on a genuine iPhone", g.of(another).appAttest()},
		{"a repackaged app", g.of(repackaged).classic()},
		{"a proof of which Google knows nothing", strangers.classic()},
		{"a proof of which Apple knows nothing", strangers.appAttest()},
		{"a way that this app does not accept, Android", g.standard()},
		{"a way that this app does not accept, iPhone", g.deviceCheck()},
	} {
		g.wantRefused(tc.why, g.phone(tc.device), system.AppUS)
	}
	if after := g.stock(); after != before {
		g.t.Errorf("refused uploads left something behind: %+v, before %+v", after, before)
	}
	// Whoever stole the proofs took nothing from those who made them.
	for platform, up := range map[string]*phone.Upload{phone.Android: android, phone.IOS: ios} {
		if a := g.send(phone.New("p"), system.AppUS, up); !a.Accepted() || a.Inserted != len(up.Keys) {
			g.t.Errorf("%s: the upload of a stolen proof is answered %d %s %q", platform, a.Status, a.Code, a.Error)
		}
	}
}

func (g guarded) stock() system.Stock {
	g.t.Helper()
	stock, err := g.Stock(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return stock
}

// chaffAsksNobody, whatever stands in it.
func (g guarded) chaffAsksNobody() {
	before, google, apple := g.stock(), g.google.Asked(), g.apple.Asked()
	for _, app := range []string{system.AppUS, system.AppCA, system.AppBoth} {
		server, err := g.Server(app)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, device := range []phone.Device{{}, g.standard(), g.deviceCheck()} {
			a, err := g.phone(device).Chaff(g.t.Context(), server, g.Now())
			if err != nil || a.Status != http.StatusOK {
				g.t.Errorf("chaff of a %q phone is answered %d, error %v", device.Platform, a.Status, err)
			}
		}
	}
	if g.google.Asked() != google || g.apple.Asked() != apple || g.stock() != before {
		g.t.Error("chaff was asked about, or left something behind")
	}
}

// vendorsAreAsked once about each proof.
func (g guarded) vendorsAreAsked() {
	strangers := newMakers(g.t)
	for _, tc := range []struct {
		why             string
		device, foreign phone.Device
		asked           func() int
	}{
		{"Android", g.standard(), strangers.standard(), g.google.Asked},
		{"iPhone", g.deviceCheck(), strangers.deviceCheck(), g.apple.Asked},
	} {
		before := tc.asked()
		p := g.phone(tc.device)
		up := g.wantTaken(tc.why, p, system.AppCA, 1)
		if a := g.send(p, system.AppCA, up); !a.Accepted() {
			g.t.Errorf("%s: the same upload again is answered %d %s %q", tc.why, a.Status, a.Code, a.Error)
		}
		if n := tc.asked() - before; n != 1 {
			g.t.Errorf("%s: asked %d times about one proof, want once", tc.why, n)
		}
		g.wantRefused(tc.why+", a proof that the vendor does not know", g.phone(tc.foreign), system.AppCA)
	}
	// Google binds what it says to the upload. Apple's old way does not.
	stolen := g.upload(g.phone(g.standard()), system.AppCA).Proof
	g.wantRefused("a proof for other keys", g.phone(saying(phone.Android, stolen)), system.AppCA)
}

// How often the server asks before it gives up.
const (
	googleTries = 3
	appleTries  = 2
)

// vendorsFail, until the server gives up: then the phone sends again, or Apple's
// word is done without.
func (g guarded) vendorsFail() {
	fail := func(vendor interface{ Fail(...http.HandlerFunc) }, times int) {
		vendor.Fail(slices.Repeat([]http.HandlerFunc{forge.Answer(http.StatusServiceUnavailable, "away")}, times)...)
	}
	fail(g.google, googleTries)
	g.wantTaken("Google fails", g.phone(g.standard()), system.AppCA, 2)
	fail(g.apple, appleTries)
	g.wantTaken("Apple fails", g.phone(g.deviceCheck()), system.AppCA, 2)
	fail(g.apple, appleTries)
	g.wantTaken("Apple fails, and may", g.phone(g.deviceCheck()), system.AppBoth, 1)
	fail(g.google, googleTries)
	g.wantTaken("Google fails, and may not", g.phone(g.standard()), system.AppBoth, 2)
	g.wantRefused("Apple may fail, and does not", g.phone(saying(phone.IOS, "bm9pc2U=")), system.AppBoth)
}

// effect is for how long a change of the configuration may take to be followed.
const effect = time.Minute

// policyChanges while phones upload: the same process follows the operator.
func (g guarded) policyChanges() {
	server, err := g.Server(system.AppUS)
	if err != nil {
		g.t.Fatal(err)
	}
	g.wantRefused("a script", g.phone(phone.Device{}), system.AppUS)
	g.changes(attestation.Optional, http.StatusOK)
	for _, device := range []phone.Device{saying(phone.Android, "noise"), g.classic(), g.appAttest()} {
		g.wantTaken("proofs are optional, "+device.Platform, g.phone(device), system.AppUS, 1)
	}
	g.changes(attestation.Required, http.StatusUnauthorized)
	g.wantTaken("proofs are required again", g.phone(g.classic()), system.AppUS, 1)
	if now, err := g.Server(system.AppUS); err != nil || now.URL != server.URL {
		g.t.Errorf("another process answers, error %v", err)
	}
}

// changes the mode, and waits until what proves nothing is answered so.
func (g guarded) changes(to attestation.Mode, want int) {
	g.t.Helper()
	if err := g.Demand(g.t.Context(), system.AppUS, g.policy(to)); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), effect)
	defer cancel()
	begun := time.Now()
	for wait(ctx, 250*time.Millisecond) {
		p := g.phone(phone.Device{})
		if a := g.send(p, system.AppUS, g.upload(p, system.AppUS)); a.Status == want {
			g.t.Logf("%s holds after %s", to, time.Since(begun).Round(time.Second))
			return
		}
	}
	g.t.Fatalf("%s does not hold after %s", to, effect)
}
