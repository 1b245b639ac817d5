package web

import "context"

type processKey struct{}

// Process gives a context that Detach knows for the life of the process. A
// server's requests descend from it.
func Process(ctx context.Context) context.Context {
	return context.WithValue(ctx, processKey{}, ctx)
}

// Detach gives a context that outlives the request that it comes from: it ends
// with the process, or when it is cancelled. It is for work that must not stop
// half way because the one who asked for it hung up.
func Detach(ctx context.Context) (context.Context, context.CancelFunc) {
	if rec := recordOf(ctx); rec != nil {
		rec.detach()
	}
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	process, ok := ctx.Value(processKey{}).(context.Context)
	if !ok {
		return detached, cancel
	}
	stop := context.AfterFunc(process, cancel)
	return detached, func() { stop(); cancel() }
}
