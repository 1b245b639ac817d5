// Command demo tells, on a system of its own, what happens to phones and keys
// when people fall ill, and checks every step of it. It exits with 1 as soon as
// one expectation is off, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"enkeyserver/internal/system"
)

func main() {
	phones := flag.Int("phones", 60, "how many phones there are, at least 20")
	flag.Parse()
	if *phones < 20 {
		fmt.Fprintln(os.Stderr, "demo: -phones must be at least 20")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	begun := time.Now()
	_, err := system.Tell(ctx, os.Stdout, system.Options{}, *phones)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %s\n", err)
		os.Exit(1)
	}
	fmt.Printf("\nEverything went as it should, in %s; nothing is left behind.\n", time.Since(begun).Round(time.Second))
}
