package publish

import (
	"math/rand/v2"
	"net/http"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/web"
)

// answer sends every answer to an upload: real, chaff or error. Sharing it is
// what makes them look alike. extra lengthens the padding.
func (s *Service) answer(w http.ResponseWriter, status int, a apiv1.PublishResponse, extra int) {
	a.Padding = randomText(s.paddingLength() + extra)
	w.Header().Set(apiv1.HeaderVersion, apiv1.Version)
	web.WriteJSON(w, status, a)
}

// answerStats sends every answer to a request for statistics.
func (s *Service) answerStats(w http.ResponseWriter, status int, a apiv1.StatsResponse) {
	a.Padding = randomText(s.paddingLength())
	if a.Days == nil {
		a.Days = []apiv1.StatsDay{}
	}
	w.Header().Set(apiv1.HeaderVersion, apiv1.Version)
	web.WriteJSON(w, status, a)
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
