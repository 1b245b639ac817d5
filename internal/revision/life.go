package revision

import (
	"time"

	"enkeyserver/internal/store"
)

// The life of a key, and why no token dies with it.
//
// A phone may use a token for TokenLife after it was sealed. Instances seal with
// the newest key that they know, and learn of newer ones with a delay. So the
// question is until when a key can have sealed. Call the later of two times its
// end: when the next key was made, and when an instance last noted that it goes
// on with it (KeptAt). After its end a key seals
//
//   - on every instance, until the next one has settled: settleFor;
//   - on one that is cut off from the database, which stores nothing else then
//     either, as long as its ring may be used: goOnFor;
//   - on one that cannot unwrap the next one, for ever, but that notes so every
//     keepEvery before it goes on.
//
// At the worst that is settleFor or keepEvery, and goOnFor after it. What
// overlap has more than their sum is for clocks that differ.
const (
	// settleFor is how long a new key waits before it seals: by then every
	// instance has it, also when clocks differ by most of an hour. It must be
	// much longer than refreshEvery. That is why an unknown key id means noise,
	// and needs no look into the database, as long as the ring is fresh.
	settleFor = time.Hour

	// keepEvery is how often an instance notes that a replaced key still seals.
	keepEvery = time.Hour

	// goOnFor is how old a ring may be that seals.
	goOnFor = 20 * time.Hour

	// overlap is how long after its end a key may have sealed.
	overlap = 24 * time.Hour

	// spentFor is how much longer a key is kept than any instance asks for it:
	// it can then not be brought back.
	spentFor = 24 * time.Hour
)

// TokenLife is for how long a revision token can be of use, if a key can be sent
// until it ended maxAge ago: what is too old to be sent cannot be revised, and
// the newest of a token's keys is valid for a day more.
func TokenLife(maxAge time.Duration) time.Duration { return maxAge + 24*time.Hour }

// Spent gives the ids of the keys, of all newest first, that may be destroyed:
// no token that they sealed can be of use to anybody. None of them was kept
// since the returned time.
func Spent(rows []store.RevisionKey, tokenLife time.Duration, now time.Time) (ids []int, since time.Time) {
	since = now.Add(-tokenLife - overlap - spentFor)
	needed := map[int]bool{}
	for _, row := range inUse(rows, since) {
		needed[row.RevisionKeyID] = true
	}
	for _, row := range rows {
		if !needed[row.RevisionKeyID] {
			ids = append(ids, row.RevisionKeyID)
		}
	}
	return ids, since
}

// inUse leaves out the keys, of rows newest first, whose end was before since.
func inUse(rows []store.RevisionKey, since time.Time) (used []store.RevisionKey) {
	for i, row := range rows {
		if i == 0 || !rows[i-1].CreatedAt.Before(since) || !row.KeptAt.Before(since) {
			used = append(used, row)
		}
	}
	return used
}
