package system_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"enkeyserver/internal/system"
)

// binaries is where TestMain has built the services, once for all tests.
const binaries = "../../.cache/services"

// raced has the services themselves watched for data races, which TestFire then
// looks for in what they print.
var raced = flag.Bool("services.race", false, "build the services with the race detector")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var flags []string
	if *raced {
		flags = append(flags, "-race")
	}
	if err := system.Build(ctx, binaries, flags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
