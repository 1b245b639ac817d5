package operator

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apiv1 "enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/keys"
)

func certificateCommands() []command {
	return []command{{
		name: "certificate sign", args: "[FILE]", short: "certify a diagnosis for the keys of a publish request",
		help: `
For tests and demonstrations: it plays the health authority's verification
server. FILE, or the standard input, is a publish request in JSON. Its
temporaryExposureKeys and hmacKey count; the certificate is printed. --fill
prints the whole request instead, with the certificate in it, and with a new
hmacKey if it has none.

  enctl certificate sign --key ha.pem --kid v1 --issuer org.example.verification \
      --audience org.example.keyserver --report confirmed request.json
  enctl certificate sign --fill --key ha.pem --kid v1 --issuer org.example.verification \
      --audience org.example.keyserver request.json |
      curl -H content-type:application/json -d @- http://localhost:8080/v1/publish`,
		build: buildCertificateSign,
	}}
}

// authorityFlags are how a simulated health authority signs.
type authorityFlags struct {
	key, kid, issuer, audience, report, onset *string
	expires                                   *time.Duration
}

func newAuthorityFlags(flags *flag.FlagSet) authorityFlags {
	return authorityFlags{
		key:      flags.String("key", "", "`file` (or URL) with the authority's private key, in PEM"),
		kid:      flags.String("kid", "", "`id` of that key, as the configuration names it"),
		issuer:   flags.String("issuer", "", "the health authority's `issuer`"),
		audience: flags.String("audience", "", "the `audience` that the configuration names"),
		report:   flags.String("report", "confirmed", "the diagnosis: confirmed, likely, negative or user-report"),
		onset:    flags.String("onset", "", "`day` of the first symptom, 2020-11-05 or an interval number"),
		expires:  flags.Duration("expires", 15*time.Minute, "how long the certificate is valid"),
	}
}

func (f authorityFlags) check() error {
	return needFlags("key", *f.key, "kid", *f.kid, "issuer", *f.issuer, "audience", *f.audience)
}

func (f authorityFlags) signer(ctx context.Context) (crypto.Signer, error) {
	url := *f.key
	if !strings.Contains(url, ":") {
		path, err := filepath.Abs(url)
		if err != nil {
			return nil, err
		}
		url = fileURL(path)
	}
	return keys.OpenSigner(ctx, url)
}

func (f authorityFlags) diagnosis() (exposure.Report, exposure.Interval, error) {
	report, ok := exposure.ParseReport(*f.report)
	if !ok {
		return 0, 0, usageError("--report must be confirmed, likely, negative or user-report")
	}
	if *f.onset == "" {
		return report, 0, nil
	}
	if day, err := time.Parse(time.DateOnly, *f.onset); err == nil {
		return report, exposure.IntervalOf(day), nil
	}
	number, err := strconv.ParseInt(*f.onset, 10, 32)
	if err != nil || number <= 0 {
		return 0, 0, usageError("--onset must be a day such as 2020-11-05, or an interval number")
	}
	return report, exposure.Interval(number), nil
}

func buildCertificateSign(flags *flag.FlagSet, s *Session) action {
	authority := newAuthorityFlags(flags)
	fill := flags.Bool("fill", false, "print the whole request, ready to be sent")
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := authority.check(); err != nil {
			return err
		}
		text, err := inputOf(s, args)
		if err != nil {
			return err
		}
		request, err := readRequest(text, *fill || out.json())
		if err != nil {
			return err
		}
		jwt, err := authority.certify(ctx, request.Publish, s.Now())
		if err != nil {
			return err
		}
		if *fill {
			return request.write(s.Out, jwt)
		}
		return out.line(map[string]string{"certificate": jwt, "hmacKey": request.HMACKey}, "%s", jwt)
	}
}

func (f authorityFlags) certify(ctx context.Context, p apiv1.Publish, now time.Time) (string, error) {
	report, onset, err := f.diagnosis()
	if err != nil {
		return "", err
	}
	secret, err := exposure.DecodeBase64(p.HMACKey)
	if err != nil {
		return "", errs.Invalid("bad_request", "hmacKey must be base64")
	}
	key, err := f.signer(ctx)
	if err != nil {
		return "", err
	}
	return certificate.Sign(key, *f.kid, certificate.SignRequest{
		Issuer: *f.issuer, Audience: *f.audience, IssuedAt: now, Expires: now.Add(*f.expires),
		MAC: certificate.MAC(submitted(p), secret), Report: report, Onset: onset,
	})
}

func submitted(p apiv1.Publish) (sent []exposure.Submitted) {
	for _, k := range p.Keys {
		sent = append(sent, exposure.Submitted{Text: k.Key, Start: k.StartNumber, Period: k.Period, Risk: k.TransmissionRisk})
	}
	return sent
}

// request is a publish request with all that its JSON held.
type request struct {
	apiv1.Publish
	fields map[string]json.RawMessage
}

// readRequest makes a new hmacKey where there is none, if it may: whoever gets
// only the certificate would not learn it.
func readRequest(text []byte, mayMakeKey bool) (r request, err error) {
	if err := json.Unmarshal(text, &r.Publish); err != nil {
		return r, fmt.Errorf("the request is not the JSON of a publish request: %w", err)
	}
	if err := json.Unmarshal(text, &r.fields); err != nil {
		return r, err
	}
	if len(r.Keys) == 0 {
		return r, errors.New("the request has no temporaryExposureKeys")
	}
	if r.HMACKey == "" && !mayMakeKey {
		return r, errors.New("the request has no hmacKey: give it one, or let --fill or -o json make one")
	}
	if r.HMACKey == "" {
		secret := make([]byte, 16)
		rand.Read(secret) // it never fails
		r.HMACKey = base64.StdEncoding.EncodeToString(secret)
	}
	return r, nil
}

// write gives the request with its certificate. Names are matched without regard
// to case, as the server does, so that none is there twice.
func (r request) write(w interface{ Write([]byte) (int, error) }, jwt string) error {
	for name := range r.fields {
		if strings.EqualFold(name, "hmacKey") || strings.EqualFold(name, "verificationPayload") {
			delete(r.fields, name)
		}
	}
	for name, value := range map[string]string{"hmacKey": r.HMACKey, "verificationPayload": jwt} {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		r.fields[name] = text
	}
	text, err := json.MarshalIndent(r.fields, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// readPublicKey reads the key with which what is downloaded must be signed.
func readPublicKey(path string) (_ []byte, err error) {
	defer errs.Wrap(&err, "--public-key")
	return os.ReadFile(path)
}
