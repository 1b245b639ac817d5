// Package store holds every SQL statement of the system, one file per subject.
//
// What a method is given as "now" is the caller's clock; the database's own
// clock decides nothing.
package store

import (
	"context"

	"enkeyserver/internal/database"
)

// DB is the system's database.
type DB struct{ *database.DB }

// Open makes the pool; see database.Open.
func Open(ctx context.Context, s database.Settings) (*DB, error) { return open(ctx, s) }

// OpenForUploads makes a pool for a service that stores many small uploads. Its
// connections plan each statement once and look keys up by index alone. Planned
// while a partition is empty, a look-up would otherwise be remembered as a scan
// of the whole partition, and stay one when it has filled; planned each time,
// it would cost more than all the rest, for every partition is considered.
func OpenForUploads(ctx context.Context, s database.Settings) (*DB, error) {
	return open(ctx, s, database.Session{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"})
}

// session is what every connection asks for besides: on no disk of today is it
// four times as expensive to read a page through an index as in its turn.
func session() database.Session { return database.Session{"random_page_cost": "1.1"} }

func open(ctx context.Context, s database.Settings, more ...database.Session) (*DB, error) {
	pool, err := database.Open(ctx, s, append(more, session())...)
	if err != nil {
		return nil, err
	}
	return &DB{DB: pool}, nil
}
