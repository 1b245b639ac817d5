package system_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/system"
)

// A system that is held up says where everything is, and when it is told to
// stop nothing of it remains.
func TestHoldLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := system.Hold(ctx, out, system.Options{
			Binaries: binaries,
			Exports:  []configuration.Export{system.ExportOf("us", time.Minute, "US")},
		})
		ended <- err
		_ = out.CloseWithError(err)
	}()

	var folder string
	for lines := bufio.NewScanner(said); lines.Scan(); {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "keys and logs"); ok {
			folder = strings.TrimSpace(rest)
			if _, err := os.Stat(folder); err != nil {
				t.Error(err)
			}
		}
		if strings.HasPrefix(line, "The scheduler ticks") {
			stop()
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); folder == "" || !os.IsNotExist(err) {
		t.Errorf("the folder %q is still there: %v", folder, err)
	}
}
