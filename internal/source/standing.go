package source

import (
	"context"
	"time"

	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
)

// tidyTimeout bounds what is read after the work, out of its time.
const tidyTimeout = 5 * time.Second

// Show shows in metrics how it stands with all neighbours of a kind. A number is
// never worth a run.
func Show(ctx context.Context, db *store.DB, kind string, now time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	all, err := db.Neighbours(ctx)
	if err != nil {
		return
	}
	for _, n := range all {
		if had := n.HadAllAt(now); n.Kind == kind && !had.IsZero() {
			telemetry.RecordNeighbour(ctx, n.Name, n.Succeeded, now.Sub(had))
		}
	}
}
