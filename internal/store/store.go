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
func Open(ctx context.Context, s database.Settings) (*DB, error) {
	pool, err := database.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	return &DB{DB: pool}, nil
}
