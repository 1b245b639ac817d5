package phone

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"enkeyserver/internal/certificate"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// The deployed app gives up on an answer after ten seconds and sends the same
// body again, three times in all.
const (
	answerTimeout = 10 * time.Second
	tries         = 3
)

// Server is a key server as an app knows it.
type Server struct {
	URL   string        // of the publish endpoint
	App   string        // the healthAuthorityID
	HTTP  *http.Client  // nil: http.DefaultClient
	Pause time.Duration // between tries
}

// Diagnosis is what a health authority says about the owner of a phone.
type Diagnosis struct {
	Report exposure.Report
	Onset  exposure.Interval // of symptoms; 0: not known
	Risk   int32             // transmission risk of every key; the deployed app never sends 0

	Traveler bool // the owner has been abroad
}

// Upload is a publish request, ready to be sent, and sent again as it is.
type Upload struct {
	Keys        []exposure.Submitted
	Certificate string
	HMACKey     string // base64
	Token       string // the revision token that went with it
	Platform    string
	Digest      Digest // which the proof is made for
	Proof       string // of the device; "" if it gives none
	Body        []byte
}

// Answer is what the server says to an upload.
type Answer struct {
	Status   int      `json:"-"`
	Tries    int      `json:"-"`
	Bytes    int      `json:"-"` // of the answer
	Token    string   `json:"revisionToken"`
	Inserted int      `json:"insertedExposures"`
	Error    string   `json:"error"`
	Code     string   `json:"code"`
	Padding  string   `json:"padding"`
	Warnings []string `json:"warnings"`
}

// Accepted tells whether the phone takes the answer for a success: a 200
// without a token is none.
func (a Answer) Accepted() bool { return a.Status == http.StatusOK && a.Token != "" }

// publishRequest is the body of POST /v1/publish as the deployed apps spell it,
// "hmackey" included.
type publishRequest struct {
	Keys        []publishKey `json:"temporaryExposureKeys"`
	App         string       `json:"healthAuthorityID"`
	Certificate string       `json:"verificationPayload"`
	HMACKey     string       `json:"hmackey"`
	Onset       int32        `json:"symptomOnsetInterval,omitempty"`
	Traveler    bool         `json:"traveler"`
	Token       string       `json:"revisionToken"`
	Platform    string       `json:"platform,omitempty"`
	Proof       string       `json:"deviceVerificationPayload,omitempty"`
	Padding     string       `json:"padding"`
}

type publishKey struct {
	Key    string `json:"key"`
	Start  int32  `json:"rollingStartNumber"`
	Period int32  `json:"rollingPeriod"`
	Risk   int32  `json:"transmissionRisk"`
}

// Prepare makes the upload of all keys that the phone has, as the owner agrees
// to it: the health authority certifies the diagnosis for exactly these keys.
func (p *Phone) Prepare(app string, authority Authority, d Diagnosis, now time.Time) (*Upload, error) {
	return p.PrepareKeys(app, authority, d, p.Keys(now), now)
}

// PrepareKeys makes the upload of some keys only.
func (p *Phone) PrepareKeys(app string, authority Authority, d Diagnosis, own []exposure.Submitted, now time.Time) (_ *Upload, err error) {
	defer errs.Wrap(&err, "PrepareKeys(%s, %d keys)", d.Report, len(own))
	keys := make([]exposure.Submitted, len(own))
	for i, k := range own {
		k.Risk = d.Risk
		keys[i] = k
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails: see crypto/rand
	cert, err := authority.certify(certificate.MAC(keys, secret), d, now)
	if err != nil {
		return nil, err
	}
	up := &Upload{
		Keys: keys, Certificate: cert, HMACKey: base64.StdEncoding.EncodeToString(secret),
		Token: p.Token(), Platform: p.Device.Platform,
	}
	up.Digest = up.digest(app)
	if up.Proof, err = p.Device.prove(up.Digest, now); err != nil {
		return nil, err
	}
	up.Body, err = up.encode(app, d, p.Device.size())
	return up, err
}

func (up *Upload) encode(app string, d Diagnosis, size int) ([]byte, error) {
	r := publishRequest{
		App:         app,
		Certificate: up.Certificate,
		HMACKey:     up.HMACKey,
		Onset:       int32(d.Onset),
		Traveler:    d.Traveler,
		Token:       up.Token,
		Platform:    up.Platform,
		Proof:       up.Proof,
	}
	for _, k := range up.Keys {
		r.Keys = append(r.Keys, publishKey{k.Text, k.Start, k.Period, k.Risk})
	}
	return pad(r, size)
}

// pad encodes a request and fills it up to exactly the size that all requests
// have: a few bytes more or less would tell some of them from others.
func pad(r publishRequest, size int) ([]byte, error) {
	bare, err := json.Marshal(r)
	if err != nil || len(bare) >= size {
		return bare, err
	}
	missing := size - len(bare)
	r.Padding = noise(missing)[:missing] // base64 is longer than what it encodes
	return json.Marshal(r)
}

// Token is the newest revision token that the phone got.
func (p *Phone) Token() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token
}

// Send uploads as the deployed app does: it gives up on an answer after ten
// seconds, sends the same body again, and tries three times in all. An error
// means that the phone does not know whether the server took the keys.
func (p *Phone) Send(ctx context.Context, to Server, up *Upload) (_ Answer, err error) {
	defer errs.Wrap(&err, "Send(%d keys)", len(up.Keys))
	var failures []error
	for try := range tries {
		if try > 0 {
			if err := pause(ctx, to.Pause); err != nil {
				return Answer{}, errors.Join(append(failures, err)...)
			}
		}
		a, err := to.post(ctx, up.Body, nil)
		a.Tries = try + 1
		if err == nil && final(a) {
			p.keep(a)
			return a, nil
		}
		if err == nil {
			err = fmt.Errorf("answer %d %s", a.Status, a.Code)
		}
		failures = append(failures, err)
	}
	return Answer{}, errors.Join(failures...)
}

// final tells whether sending the same again would change nothing.
func final(a Answer) bool {
	return a.Accepted() || (a.Status >= 400 && a.Status < 500 && a.Status != http.StatusTooManyRequests)
}

// keep remembers the newest token only, as the deployed app does.
func (p *Phone) keep(a Answer) {
	if !a.Accepted() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = a.Token
}

// Chaff sends the request with which phones that have nothing to say hide those
// that have: invalid on purpose, marked by its header alone.
func (p *Phone) Chaff(ctx context.Context, to Server, now time.Time) (_ Answer, err error) {
	defer errs.Wrap(&err, "Chaff")
	r := publishRequest{
		App: to.App, Certificate: noise(300), HMACKey: noise(16), Token: noise(64),
		Platform: p.Device.Platform, Proof: p.Device.noise(),
	}
	for range 14 {
		start := exposure.DayOf(now.Add(-3 * Memory)).Start()
		r.Keys = append(r.Keys, publishKey{noise(exposure.KeySize), int32(start), exposure.IntervalsPerDay, 1})
	}
	body, err := pad(r, p.Device.size())
	if err != nil {
		return Answer{}, err
	}
	return to.post(ctx, body, http.Header{"X-Chaff": {"1"}})
}

func (s Server) post(ctx context.Context, body []byte, extra http.Header) (a Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header = extra.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client(s.HTTP).Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	a.Status, a.Bytes = resp.StatusCode, len(raw)
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("answer %d is no JSON: %w", resp.StatusCode, err)
	}
	return a, nil
}

func client(c *http.Client) *http.Client {
	if c == nil {
		return http.DefaultClient
	}
	return c
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
