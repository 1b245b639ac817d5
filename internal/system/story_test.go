package system_test

import (
	"testing"

	"enkeyserver/internal/system"
)

// The demo is the end-to-end test: the same story through the same services.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	counts, err := system.Tell(t.Context(), t.Output(), system.Options{Binaries: binaries}, 30)
	if err != nil {
		t.Fatal(err)
	}
	if counts.Warned != 13 || counts.NotWarned != 17 || counts.Withdrawn != 3 {
		t.Errorf("%d phones were warned, %d never, %d no longer; want 13, 17 and 3", counts.Warned, counts.NotWarned, counts.Withdrawn)
	}
}
