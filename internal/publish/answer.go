package publish

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"

	"enkeyserver/internal/api/v1"
)

// compose writes an answer to an upload down: real, chaff or error. Sharing it
// is what makes them look alike. extra lengthens the padding.
func (s *Service) compose(a apiv1.PublishResponse, extra int) []byte {
	a.Padding = randomText(s.paddingLength() + extra)
	return encode(a)
}

// composeStats writes an answer to a request for statistics down.
func (s *Service) composeStats(a apiv1.StatsResponse) []byte {
	a.Padding = randomText(s.paddingLength())
	if a.Days == nil {
		a.Days = []apiv1.StatsDay{}
	}
	return encode(a)
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts and numbers never fail
	}
	return text
}

// send answers with what was composed. All that can be done before is done
// before, so that the moment of an answer is known when its size is.
func send(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(apiv1.HeaderVersion, apiv1.Version)
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left is no error of ours
}

// paddingLength draws a length. Text of a multiple of four characters decodes
// as base64.
func (s *Service) paddingLength() int {
	n := s.settings.PaddingMin + rand.IntN(s.settings.PaddingRange+1)
	return n / 4 * 4
}

// alphabet is that of standard base64.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// randomText makes random base64. The generator of math/rand/v2 is ChaCha8,
// seeded by the operating system: nobody can predict a length from a text, and
// it costs next to nothing.
func randomText(n int) string {
	text := make([]byte, n)
	var word uint64
	for i := range text {
		if i%10 == 0 {
			word = rand.Uint64()
		}
		text[i] = alphabet[word&63]
		word >>= 6
	}
	return string(text)
}
