// Command enctl is the operator's command line; "enctl help" lists what it can do.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"enkeyserver/internal/operator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := operator.Run(ctx, operator.Terminal(), os.Args[1:])
	stop()
	os.Exit(status)
}
