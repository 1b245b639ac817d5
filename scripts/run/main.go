// Command run starts the whole system on this machine, for trying things out,
// and stops and removes all of it on ^C.
//
// Its clocks are true, but the rules that make people wait are weakened: each
// tick seals and publishes, and keys of today are released at once.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/system"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := system.Hold(ctx, os.Stdout, system.Options{
		Exports: []configuration.Export{
			system.ExportOf("us", time.Minute, "US"),
			system.ExportOf("ca", time.Minute, "CA"),
		},
		Environment: map[string]string{
			"DEBUG_SEAL_NOW":              "true",
			"DEBUG_RELEASE_SAME_DAY_KEYS": "true",
		},
	})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "run: %s\n", err)
		os.Exit(1)
	}
}
