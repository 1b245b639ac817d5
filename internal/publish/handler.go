package publish

import (
	"bytes"
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
	genuine := web.Maintenance(s.maintenance, web.Methods(s.upload(read), http.MethodPost))
	return s.responder().Wrap(func(w http.ResponseWriter, r *http.Request) error {
		body := s.receive(r)
		if _, marked := r.Header[apiv1.HeaderChaff]; marked {
			s.buffers.Put(body.buffer)
			return s.chaff(w, r, body.at)
		}
		defer s.buffers.Put(body.buffer)
		return genuine(w, r)
	})
}

// received is a body that was read whole, as far as we read bodies.
type received struct {
	io.Reader
	io.Closer
	buffer *bytes.Buffer
	at     time.Time // when it was there
}

// receive waits until a request is there whole, and puts what was received in
// the place of its body. The time until then is the phone's and its network's;
// the time after it is ours, and chaff must match it.
func (s *Service) receive(r *http.Request) *received {
	buffer, ok := s.buffers.Get().(*bytes.Buffer)
	if !ok {
		buffer = new(bytes.Buffer)
	}
	buffer.Reset()
	_, err := buffer.ReadFrom(io.LimitReader(r.Body, apiv1.MaxBody+1))
	body := &received{
		Reader: io.MultiReader(bytes.NewReader(buffer.Bytes()), broken{err}),
		Closer: r.Body,
		buffer: buffer,
		at:     time.Now(),
	}
	r.Body = body
	return body
}

// broken is the end of a body that could not be read on for an error, if any.
type broken struct{ err error }

// Read tells the error.
func (b broken) Read([]byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return 0, io.EOF
}

// upload answers a real upload, received whole. The log record of a success
// gets no note: it must look like that of chaff, or the log would tell when
// somebody was ill.
func (s *Service) upload(read reader) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		arrived := r.Body.(*received).at //nolint:forcetypeassert // received whole, see above
		sent, err := read(w, r)
		if err != nil {
			return err
		}
		out, err := s.Publish(r.Context(), requestOf(sent, r.UserAgent()))
		if err != nil {
			return err
		}
		answer := answerTo(len(sent.Keys), out)
		body := s.compose(answer, 0)
		ready := time.Now()
		s.recent.add(sampleOf(answer, ready.Sub(arrived)))
		s.waiter.until(r.Context(), ready.Add(hold))
		send(w, http.StatusOK, body)
		return nil
	}
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

		DeclaredPlatform: sent.Platform,
		DeviceProof:      sent.DeviceProof,
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
		send(w, errs.KindOf(err).Status(), s.compose(apiv1.PublishResponse{Error: errs.MessageOf(err), Code: errs.CodeOf(err)}, 0))
	}}
}
