package secrets

import "context"

// Ask is how a test stands for Google Secret Manager.
type Ask func(ctx context.Context, name string) ([]byte, error)

func (a Ask) read(ctx context.Context, id identity) ([]byte, error) { return a(ctx, id.name) }

// Answer lets a test stand for Google Secret Manager.
func (r *Resolver) Answer(ask Ask) { r.managers[nameGoogle] = ask }

// The times that operators notice.
const (
	Patience = patience
	Respite  = respite
	Novelty  = novelty
)
