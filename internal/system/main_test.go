package system_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"enkeyserver/internal/system"
)

// binaries is where TestMain has built the services, once for all tests.
const binaries = "../../.cache/services"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := system.Build(ctx, binaries); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
