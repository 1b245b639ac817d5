package publish

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
	"enkeyserver/internal/web"
)

// PublishHandler answers POST /v1/publish.
func (s *Service) PublishHandler() http.Handler {
	return s.uploads(func(w http.ResponseWriter, r *http.Request) (apiv1.Publish, error) {
		var body apiv1.Publish
		err := web.ReadJSON(w, r, apiv1.MaxBody, &body)
		return body, err
	})
}

// V1Alpha1Handler answers the older POST /.
func (s *Service) V1Alpha1Handler() http.Handler {
	return s.uploads(func(w http.ResponseWriter, r *http.Request) (apiv1.Publish, error) {
		var body apiv1.PublishV1Alpha1
		err := web.ReadJSON(w, r, apiv1.MaxBody, &body)
		return body.V1(), err
	})
}

// UnknownHandler answers every path that there is none for.
func (s *Service) UnknownHandler() http.Handler {
	return s.responder().Wrap(func(http.ResponseWriter, *http.Request) error {
		return errs.NotFound(apiv1.CodeBadRequest, "there is nothing at this path")
	})
}

// reader reads the body of an upload, whatever version it has.
type reader func(w http.ResponseWriter, r *http.Request) (apiv1.Publish, error)

// uploads answers one version of the upload. Chaff turns off before anything
// else: whatever is wrong with it, and even during maintenance, its answer is
// 200, because after an error phones stop sending it.
func (s *Service) uploads(read reader) http.Handler {
	real := web.Maintenance(s.maintenance, web.Methods(s.upload(read), http.MethodPost))
	return s.responder().Wrap(func(w http.ResponseWriter, r *http.Request) error {
		if _, marked := r.Header[apiv1.HeaderChaff]; marked {
			return s.chaff(w, r)
		}
		return real(w, r)
	})
}

// upload answers a real upload. The log record of a success gets no note: it
// must look like that of chaff, or the log would tell when somebody was ill.
func (s *Service) upload(read reader) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		body := &timedBody{ReadCloser: r.Body}
		r.Body = body
		sent, err := read(w, r)
		if err != nil {
			return err
		}
		out, err := s.Publish(r.Context(), requestOf(sent, r.UserAgent()))
		if err != nil {
			return err
		}
		answer := answerTo(len(sent.Keys), out)
		s.recent.add(sampleOf(body.since(), answer))
		s.answer(w, http.StatusOK, answer, 0)
		return nil
	}
}

// timedBody notes when a request has arrived whole. The time before that is the
// phone's and its network's; the time after it is ours, and chaff must match it.
type timedBody struct {
	io.ReadCloser
	whole time.Time
}

// Read notes the end.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.whole = time.Now()
	}
	return n, err
}

// since is how long ago the request was there whole.
func (b *timedBody) since() time.Duration {
	if b.whole.IsZero() {
		return 0
	}
	return time.Since(b.whole)
}

// requestOf takes the wire's words in.
func requestOf(sent apiv1.Publish, userAgent string) Request {
	// A secret that is not base64 proves nothing; the certificate's HMAC fails.
	secret, _ := exposure.DecodeBase64(sent.HMACKey)
	r := Request{
		App:         sent.HealthAuthorityID,
		Keys:        make([]exposure.Submitted, len(sent.Keys)),
		Certificate: sent.Certificate,
		HMACKey:     secret,
		Onset:       exposure.Interval(sent.SymptomOnset),
		Traveler:    sent.Traveler,
		Token:       sent.RevisionToken,
		Platform:    platformOf(sent.Platform, userAgent),
	}
	for i, k := range sent.Keys {
		r.Keys[i] = exposure.Submitted{Text: k.Key, Start: k.StartNumber, Period: k.Period, Risk: k.TransmissionRisk}
	}
	return r
}

// platformOf is all that is kept of what a phone says about itself.
func platformOf(declared, userAgent string) store.Platform {
	switch strings.ToLower(declared) {
	case apiv1.PlatformAndroid:
		return store.PlatformAndroid
	case apiv1.PlatformIOS:
		return store.PlatformIOS
	}
	agent := strings.ToLower(userAgent)
	for _, hint := range []struct {
		word     string
		platform store.Platform
	}{
		{"android", store.PlatformAndroid},
		{"dalvik", store.PlatformAndroid},
		{"okhttp", store.PlatformAndroid},
		{"iphone", store.PlatformIOS},
		{"cfnetwork", store.PlatformIOS},
		{"darwin", store.PlatformIOS},
	} {
		if strings.Contains(agent, hint.word) {
			return hint.platform
		}
	}
	return store.PlatformUnknown
}

// answerTo puts an outcome into the wire's words.
func answerTo(sent int, out Outcome) apiv1.PublishResponse {
	answer := apiv1.PublishResponse{
		RevisionToken:     out.Token,
		InsertedExposures: out.Inserted,
		Warnings:          out.Warnings,
	}
	if len(out.Dropped) > 0 {
		answer.Code = apiv1.CodePartialFailure
		answer.Error = fmt.Sprintf("%d of %d keys are left out, the others are saved", len(out.Dropped), sent)
		for _, d := range out.Dropped {
			answer.Warnings = append(answer.Warnings, d.String())
		}
	}
	return answer
}

// responder answers errors as phones expect them.
func (s *Service) responder() web.Responder {
	return web.Responder{Error: func(w http.ResponseWriter, _ *http.Request, err error) {
		s.answer(w, errs.KindOf(err).Status(), apiv1.PublishResponse{Error: errs.MessageOf(err), Code: errs.CodeOf(err)}, 0)
	}}
}
