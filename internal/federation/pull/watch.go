package pull

import (
	"fmt"
	"time"
)

const (
	// patience is how many answers in a row may make no sense.
	patience = 3

	// aheadTolerance is how much a neighbour's clock may be ahead of ours.
	aheadTolerance = 10 * time.Minute
)

// watch notes how a neighbour behaves.
type watch struct {
	pages             int
	stuck             int // partial answers in a row that lead nowhere
	received, garbage int
	inRow             int // pages that are mostly garbage
	worst             int // the most of them
	ahead             time.Duration
}

// page notes what an answer was like.
func (w *watch) page(p page) {
	w.pages++
	w.received += p.received
	w.garbage += p.garbage
	w.ahead = max(w.ahead, p.ahead)
	w.inRow++
	if 2*p.garbage <= p.received {
		w.inRow = 0
	}
	w.worst = max(w.worst, w.inRow)
}

// advances refuses to ask the same again and again. Once may be a server that
// had no time.
func (w *watch) advances(p page) error {
	if p.moves() {
		w.stuck = 0
		return nil
	}
	if w.stuck++; w.stuck >= patience {
		return errOf("it does not advance: it says that there is more, but gave the same cursor %d times", w.stuck)
	}
	return nil
}

// complaint is what people should be told of a neighbour that answered all
// questions; "": nothing.
func (w *watch) complaint() string {
	switch {
	case 2*w.garbage > w.received:
		return fmt.Sprintf("%d of %d keys that it sent break the rules: see the counts of what was left out", w.garbage, w.received)
	case w.worst >= patience:
		return fmt.Sprintf("in %d pages in a row most keys break the rules: see the counts of what was left out", w.worst)
	case w.ahead > aheadTolerance:
		return fmt.Sprintf("its clock is ahead of ours by %s or more", w.ahead)
	}
	return ""
}
