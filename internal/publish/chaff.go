package publish

import (
	"math"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/revision"
)

// chaff answers a request that a phone sent only to hide those of others.
// Who watches the network must not tell the two apart, so it is answered after
// the time that a recent real one took, and with an answer of that one's size.
// It does no work and asks nobody.
func (s *Service) chaff(w http.ResponseWriter, r *http.Request, arrived time.Time) error {
	like := s.recent.draw()
	body := s.compose(apiv1.PublishResponse{
		RevisionToken:     tokenLike(like.token),
		InsertedExposures: like.inserted,
	}, like.extra)
	if s.maintenance {
		like.latency = 0 // nobody waits for "come again later"
	}
	if s.waiter.until(r.Context(), arrived.Add(min(like.latency, s.settings.chaffMaxLatency())+hold)) {
		send(w, http.StatusOK, body)
	}
	return nil
}

// sample is how an answer to a real upload looked from outside.
type sample struct {
	latency  time.Duration
	token    int // characters
	inserted int
	extra    int // bytes of what chaff has none of: warnings, a code
}

func sampleOf(a apiv1.PublishResponse, latency time.Duration) sample {
	return sample{
		latency:  latency,
		token:    len(a.RevisionToken),
		inserted: a.InsertedExposures,
		extra:    extraOf(a),
	}
}

// extraOf measures what an answer has beside what every answer has.
func extraOf(a apiv1.PublishResponse) int {
	if a.Code == "" && a.Error == "" && len(a.Warnings) == 0 {
		return 0
	}
	bare := apiv1.PublishResponse{RevisionToken: a.RevisionToken, InsertedExposures: a.InsertedExposures}
	return len(encode(a)) - len(encode(bare))
}

// tokenLike makes what looks like a revision token of a length; nearly all are
// as long as one of up to thirty keys, and so is one of no length.
func tokenLike(length int) string {
	if noise := revision.Noise(); length == 0 || length == len(noise) {
		return noise
	}
	return randomText(length)
}

// reservoir remembers the last real answers. Readers and writers never wait
// for each other. Its zero value is ready.
type reservoir struct {
	seen atomic.Uint64
	ring [64]atomic.Pointer[sample]
}

// add remembers a real answer in place of the oldest.
func (r *reservoir) add(s sample) {
	r.ring[(r.seen.Add(1)-1)%uint64(len(r.ring))].Store(&s)
}

// fewest is how many real answers it takes to be a crowd; until then assumed
// ones stand among them.
const fewest = 16

// draw gives one of the remembered answers, each as likely.
func (r *reservoir) draw() sample {
	seen := min(r.seen.Load(), uint64(len(r.ring)))
	i := rand.Uint64N(max(seen, fewest))
	if remembered := r.ring[i].Load(); remembered != nil {
		return *remembered
	}
	return assumed()
}

// assumed is an answer as they usually are: the keys of two weeks, around ten
// milliseconds, now and then far more.
func assumed() sample {
	const usual, spread = 10 * time.Millisecond, 0.5
	return sample{
		latency:  time.Duration(float64(usual) * math.Exp(spread*rand.NormFloat64())),
		token:    0, // that of a token of up to thirty keys
		inserted: 10 + rand.IntN(5),
	}
}
