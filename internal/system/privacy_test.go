package system_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/attestation/forge"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/system"
)

// What phones tell about where they are; no log may repeat it.
const (
	clientAddress    = "127.77.3.9"
	forwardedAddress = "203.0.113.77"
	userAgent        = "PrivacyProbe/7.7 (one particular phone)"
)

// secrets is a set of things that nobody may write down, and the reason why
// each is there.
type secrets map[string]string

// add notes all the ways in which bytes are written, and a piece of each: half
// a key in a log is a key.
func (s secrets) add(what string, raw []byte) {
	if len(raw) < 8 {
		return
	}
	for _, text := range []string{
		base64.RawStdEncoding.EncodeToString(raw),
		base64.RawURLEncoding.EncodeToString(raw),
		hex.EncodeToString(raw),
		strings.ToUpper(hex.EncodeToString(raw)),
		strings.Trim(fmt.Sprint(raw), "[]"),                               // a slice that was printed
		strings.Trim(strings.ReplaceAll(fmt.Sprint(raw), " ", ","), "[]"), // or written as JSON
	} {
		s.text(what, text)
	}
}

// text notes a text and both its halves.
func (s secrets) text(what, text string) {
	if len(text) < 16 {
		s[text] = what
		return
	}
	s[text[:len(text)/2]] = what
	s[text[len(text)/2:]] = what
}

func (s secrets) upload(up *phone.Upload) {
	for _, k := range up.Keys {
		if raw, err := exposure.DecodeBase64(k.Text); err == nil {
			s.add("a key", raw)
		}
	}
	secret, _ := base64.StdEncoding.DecodeString(up.HMACKey)
	s.add("an HMAC key", secret)
	s.add("an HMAC", certificate.MAC(up.Keys, secret))
	for _, part := range strings.Split(up.Certificate, ".")[1:] {
		s.text("a certificate", part)
		raw, _ := base64.RawURLEncoding.DecodeString(part)
		s.add("a part of a certificate", raw)
	}
	s.token(up.Token)
	s.add("a digest", up.Digest[:])
	s.proof(up.Proof)
}

// proof notes the proof of a device, a token of some parts or an object, and
// every piece of its text: it is long, and a log may have cut it. The pieces are
// longer than how all public keys of a curve begin.
func (s secrets) proof(proof string) {
	const piece = 48
	for part := range slices.Chunk([]byte(proof), piece) {
		if len(part) == piece {
			s[string(part)] = "a piece of a proof"
		}
	}
	for part := range strings.SplitSeq(proof, ".") {
		raw, err := exposure.DecodeBase64(part)
		if err == nil {
			s.add("a part of a proof", raw)
		}
	}
}

func (s secrets) token(token string) {
	if raw, err := base64.StdEncoding.DecodeString(token); err == nil {
		s.add("a revision token", raw)
	}
}

// probe is one run of TestPrivacyOfLogs.
type probe struct {
	*system.System
	*makers
	http    *http.Client
	secrets secrets
}

// Nothing that any process prints, at the level at which it prints the most,
// holds anything about a person: not of what goes well, not of what is refused,
// and not of what fails. PostgreSQL's own log counts too.
func TestPrivacyOfLogs(t *testing.T) {
	t.Parallel()
	p := newProbe(t)
	p.goesWell()
	p.isRefused()
	p.provesNothing()
	p.fails()
	p.publishes()
	p.search()
}

func newProbe(t *testing.T) *probe {
	t.Helper()
	m := newMakers(t)
	environment := map[string]string{"LOG_LEVEL": "debug", "DEBUG_SEAL_NOW": "true", "EXPORT_FILE_MIN_RECORDS": "50", "ENABLE_V1ALPHA1_API": "true"}
	maps.Copy(environment, m.environment())
	sys, err := system.New(t.Context(), system.Options{
		Binaries: binaries,
		Exports:  []configuration.Export{system.ExportOf("us", time.Hour, "US")},
		Attestation: map[string]attestation.Policy{
			system.AppUS:   m.policy(attestation.Required),
			system.AppCA:   m.policy(attestation.Required, vendorsAsked),
			system.AppBoth: m.policy(attestation.Optional),
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
	p := &probe{System: sys, makers: m, http: &http.Client{Transport: particular{}}, secrets: secrets{}}
	for _, text := range []string{clientAddress, forwardedAddress, userAgent} {
		p.secrets[text] = "something about the client"
	}
	for _, text := range []string{m.settings.PlayDecryptionKey, m.access, m.accounts.AppleKey, m.accounts.GoogleCredentials} {
		p.secrets.text("a secret of the server", text)
	}
	return p
}

// particular is the connection of one phone that could be told from others.
type particular struct{}

// RoundTrip is http.RoundTripper.
func (particular) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("X-Forwarded-For", forwardedAddress)
	r.Header.Set("Forwarded", "for="+forwardedAddress)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}}
	return (&http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}).RoundTrip(r)
}

// send uploads the keys of a phone once, whatever comes of it.
func (p *probe) send(who *phone.Phone, by phone.Authority, report exposure.Report, keys []exposure.Submitted, want int) *phone.Upload {
	p.t.Helper()
	return p.sendTo(system.AppUS, who, by, report, keys, want)
}

// prepare makes an upload, and notes all that nobody may write down of it.
func (p *probe) prepare(app string, who *phone.Phone, by phone.Authority, report exposure.Report, keys []exposure.Submitted) *phone.Upload {
	p.t.Helper()
	d := phone.Diagnosis{Report: report, Onset: exposure.IntervalOf(p.Now().Add(-72 * time.Hour)), Risk: 2}
	up, err := who.PrepareKeys(app, by, d, keys, p.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	p.secrets.upload(up)
	return up
}

func (p *probe) sendTo(app string, who *phone.Phone, by phone.Authority, report exposure.Report, keys []exposure.Submitted, want int) *phone.Upload {
	p.t.Helper()
	up := p.prepare(app, who, by, report, keys)
	server, err := p.Server(app)
	if err != nil {
		p.t.Fatal(err)
	}
	server.HTTP = p.http
	a, err := who.Send(p.t.Context(), server, up)
	if (err != nil) != (want == 0) || (err == nil && a.Status != want) {
		p.t.Errorf("upload answered %d %s, error %v; want %d", a.Status, a.Code, err, want)
	}
	p.secrets.token(a.Token)
	return up
}

func (p *probe) phone() *phone.Phone {
	return p.phoneWith(p.classic())
}

func (p *probe) phoneWith(device phone.Device) *phone.Phone {
	who := phone.New("p")
	who.Device = device
	today := exposure.DayOf(p.Now())
	who.Carry(today-5, today)
	return who
}

func (p *probe) goesWell() {
	who := p.phone()
	up := p.send(who, p.Authority, exposure.Likely, who.Keys(p.Now()), 200)
	p.post("/v1/publish", "application/json", up.Body, nil) // a retry
	p.send(who, p.Authority, exposure.Confirmed, who.Keys(p.Now()), 200)
	p.post("/v1/publish", "application/json", up.Body, http.Header{"X-Chaff": {"1"}})
}

// isRefused sends what is wrong in every way that the protocol knows.
func (p *probe) isRefused() {
	forger, err := p.Authority.Forged()
	if err != nil {
		p.t.Fatal(err)
	}
	known, who := p.phone(), p.phone()
	p.send(known, p.Authority, exposure.Likely, known.Keys(p.Now()), 200)
	p.send(who, p.Authority, exposure.Likely, known.Keys(p.Now()), 400) // no token
	p.send(who, forger, exposure.Likely, who.Keys(p.Now()), 401)        // a stranger's certificate
	p.send(known, p.Authority, exposure.Self, known.Keys(p.Now()), 400) // no such transition
	odd := p.phone().Keys(p.Now())
	odd[0].Period, odd[1].Risk, odd[2].Start = 900, 77, 7
	p.send(who, p.Authority, exposure.Likely, odd, 200) // some keys are dropped
	p.send(who, p.Authority, exposure.Likely, append(odd[3:], odd[3:]...), 200)

	up := p.send(p.phone(), p.Authority, exposure.Confirmed, p.phone().Keys(p.Now()), 200)
	for _, wrong := range []struct{ old, new string }{
		{`"healthAuthorityID":"org`, `"healthAuthorityID":"gro`},
		{`"hmackey":"`, `"hmackey":"AAAA`},
		{`"verificationPayload":"`, `"verificationPayload":"x`},
		{`"temporaryExposureKeys":[`, `"temporaryExposureKeys":[7,`},
		{`"padding"`, `"unheardOf"`},
		{`{`, `{{`},
		{`"rollingStartNumber":`, `"rollingStartNumber":9999999999`},
	} {
		p.post("/v1/publish", "application/json", bytes.Replace(up.Body, []byte(wrong.old), []byte(wrong.new), 1), nil)
	}
	// Too long by one byte: the server hangs up on who would go on sending.
	tooLong := append(bytes.Repeat([]byte(" "), 64_001-len(up.Body)), up.Body...)
	p.post("/v1/publish", "application/json", tooLong, nil)
	p.post("/v1/publish", "text/"+up.Keys[0].Text, up.Body, nil)
	p.post("/v1/stats", "application/json", []byte("{}"), http.Header{"Authorization": {"Bearer " + up.Certificate}})
	p.post("/"+up.Keys[0].Text+"?key="+up.Keys[0].Text, "application/json", up.Body, nil)
	p.post("/", "application/json", up.Body, nil)
	p.request(http.MethodPut, "/v1/publish?"+up.Certificate, "application/json", up.Body, http.Header{"Cookie": {up.Certificate}})
}

// provesNothing sends proofs that are wrong, that nobody can judge, and that are
// only doubted, and lets Google and Apple say in their answers what they were
// asked.
func (p *probe) provesNothing() {
	attempt := func(app string, device phone.Device, want int) {
		p.t.Helper()
		who := p.phoneWith(device)
		p.sendTo(app, who, p.Authority, exposure.Confirmed, who.Keys(p.Now()), want)
	}
	other := p.phone()
	stolen := p.send(other, p.Authority, exposure.Confirmed, other.Keys(p.Now()), 200).Proof
	game := p.of(forge.App{Package: "org.example.game", TeamID: p.app.TeamID, BundleID: "org.example.Game"})
	for _, device := range []phone.Device{saying(phone.Android, stolen), saying(phone.IOS, stolen), game.classic(), p.watched(game), {}} {
		attempt(system.AppUS, device, 401)
		attempt(system.AppBoth, device, 200)
	}
	attempt(system.AppUS, p.watched(p.makers), 200)
	for _, device := range []phone.Device{p.standard(), p.deviceCheck()} {
		attempt(system.AppCA, device, 200)
		for _, status := range []int32{http.StatusServiceUnavailable, http.StatusForbidden, http.StatusOK} {
			p.repeat.Store(status)
			who := p.phoneWith(device)
			p.post("/v1/publish", "application/json", p.prepare(system.AppCA, who, p.Authority, exposure.Confirmed, who.Keys(p.Now())).Body, nil)
		}
		p.repeat.Store(0)
	}
}

// watched is an iPhone, of whose key we know what nobody may write down.
func (p *probe) watched(m *makers) phone.Device {
	return phone.Device{Platform: phone.IOS, Prove: func(d phone.Digest, now time.Time) (string, error) {
		return m.apple.Proof(m.app, d, now, func(a *forge.Attestation) {
			point, err := a.Key.PublicKey.Bytes()
			if err != nil {
				p.t.Error(err)
			}
			id := sha256.Sum256(point)
			p.secrets.add("the key of a phone", point[1:])
			p.secrets.add("the name of a phone's key", id[:])
		})
	}}
}

// fails takes the database away, and makes it stumble over what was sent.
func (p *probe) fails() {
	if err := p.CrashDatabase(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	who := p.phone()
	p.send(who, p.Authority, exposure.Confirmed, who.Keys(p.Now()), 0)
	if err := p.RestartDatabase(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.eventually(func(ctx context.Context) error {
		_, err := p.Store.Exec(ctx, `ALTER TABLE arrival ADD CONSTRAINT broken CHECK (risk < 0) NOT VALID`)
		return err
	})
	p.send(who, p.Authority, exposure.Confirmed, who.Keys(p.Now()), 0)
	if _, err := p.Store.Exec(p.t.Context(), `ALTER TABLE arrival DROP CONSTRAINT broken`); err != nil {
		p.t.Error(err)
	}
	p.send(who, p.Authority, exposure.Confirmed, who.Keys(p.Now()), 200)
}

// publishes runs every job once, so that their logs are there too.
func (p *probe) publishes() {
	p.eventually(func(ctx context.Context) error { _, err := p.CreateBatches(ctx); return err })
	p.eventually(func(ctx context.Context) error { _, err := p.DoWork(ctx); return err })
	p.eventually(func(ctx context.Context) error { _, err := p.CleanupExposures(ctx); return err })
	p.eventually(func(ctx context.Context) error { _, err := p.CleanupExports(ctx); return err })
	published, err := p.Audit(p.t.Context(), "us")
	if err != nil || len(published.Files) == 0 {
		p.t.Fatalf("%d files are published, error %v", len(published.Files), err)
	}
	for _, f := range published.Files {
		for _, e := range append(f.Keys, f.Revised...) {
			p.secrets.add("a published key, real or not", e.Key[:])
		}
	}
	keys, err := database.All[[]byte](p.t.Context(), p.Store.DB, `SELECT hash FROM receipt`)
	if err != nil {
		p.t.Error(err)
	}
	for _, hash := range keys {
		p.secrets.add("the hash of a certificate", hash)
	}
	if err := p.Down(); err != nil {
		p.t.Error(err)
	}
}

// eventually tries again what fails once a connection after a crash.
func (p *probe) eventually(f func(context.Context) error) {
	p.t.Helper()
	var err error
	for range 20 {
		if err = f(p.t.Context()); err == nil {
			return
		}
	}
	p.t.Error(err)
}

func (p *probe) search() {
	output, err := p.Output()
	if err != nil {
		p.t.Fatal(err)
	}
	database, err := p.databaseLog()
	if err != nil {
		p.t.Fatal(err)
	}
	if n := bytes.Count(output, []byte(`"level":"ERROR"`)); n == 0 || !bytes.Contains(database, []byte("ERROR")) {
		p.t.Errorf("%d errors in the services' logs, %d bytes of PostgreSQL's: the test shows nothing", n, len(database))
	}
	for _, said := range []string{"attestation is refused", "vendor cannot be asked", "attestation is misconfigured"} {
		if !bytes.Contains(output, []byte(said)) {
			p.t.Errorf("no log says %q: the test shows nothing about proofs", said)
		}
	}
	for name, log := range map[string][]byte{"the services": output, "PostgreSQL": database} {
		for secret, what := range p.secrets {
			if i := bytes.Index(log, []byte(secret)); i >= 0 {
				p.t.Errorf("%s printed %s: …%s…", name, what, log[max(0, i-200):min(len(log), i+100)])
			}
		}
	}
	p.t.Logf("%d texts looked for in %d + %d bytes", len(p.secrets), len(output), len(database))
}

func (p *probe) databaseLog() ([]byte, error) {
	dir, _, err := database.One[string](p.t.Context(), p.Store.DB, `SELECT current_setting('data_directory')`)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "..", "log"))
}

func (p *probe) post(path, contentType string, body []byte, header http.Header) {
	p.t.Helper()
	p.request(http.MethodPost, path, contentType, body, header)
}

func (p *probe) request(method, path, contentType string, body []byte, header http.Header) {
	p.t.Helper()
	service, err := p.Some(system.Exposure)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, service.URL()+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := p.http.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer phone.Answer
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	p.secrets.token(answer.Token)
}
