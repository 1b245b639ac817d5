package export_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/export"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/listing/listingtest"
	"enkeyserver/internal/store"
)

func batcherSettings(edits ...func(*export.BatcherSettings)) export.BatcherSettings {
	s := export.BatcherSettings{
		Period: time.Hour, MinUploads: 1, MaxWait: 24 * time.Hour,
		MinRecords: 1000, PaddingRange: 100, MaxRecords: 500_000, MinRevised: 100,
		TTL: 336 * time.Hour, Timeout: time.Minute,
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func TestBatcherSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		edit func(*export.BatcherSettings)
		want []string // in the error; none: fine
	}{
		{"the defaults", func(*export.BatcherSettings) {}, nil},
		{"waiting for a crowd for less than a period", func(s *export.BatcherSettings) {
			s.MinUploads, s.MaxWait = 50, time.Minute
		}, []string{"SEAL_MAX_WAIT (1m0s)", "SEAL_PERIOD (1h0m0s)"}},
		{"a short wait does not matter without a crowd", func(s *export.BatcherSettings) { s.MaxWait = time.Minute }, nil},
		{"keys would be forgotten before they are sealed", func(s *export.BatcherSettings) {
			s.MaxWait = 336 * time.Hour
		}, []string{"SEAL_MAX_WAIT (336h0m0s)", "CLEANUP_TTL (336h0m0s)"}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, err := export.NewBatcher(batcherSettings(tc.edit), export.BatcherDeps{})
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("error %v", err)
			}
			for _, word := range tc.want {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error %q does not name %q", err, word)
				}
			}
		})
	}
}

// The batcher makes the days ready, seals, pads and cuts; a repeat does nothing.
func TestBatcher(t *testing.T) {
	t.Parallel()
	o := listingtest.New(t)
	o.AddExport("us")
	batcher, err := export.NewBatcher(batcherSettings(), export.BatcherDeps{Store: o.DB, Now: o.Now})
	if err != nil {
		t.Fatal(err)
	}
	run := func() export.Cut {
		t.Helper()
		answer, err := batcher.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return answer.(export.Cut)
	}
	o.Wait(30 * 24 * time.Hour) // a batcher that was off for a month
	o.Upload(entest.Exposures(0, 5, o.Now())...)
	o.Wait(time.Hour)
	got := run()
	if got.Partitions != 19 { // 16 days and today, and 2 ahead
		t.Errorf("%d partitions were made, want 19", got.Partitions)
	}
	if got.Padding < 995 || got.Padding > 1095 {
		t.Errorf("%d keys were generated, want 995 to 1095", got.Padding)
	}
	want := export.Cut{Sealed: store.Sealed{Epochs: 1, Keys: 5, Padding: got.Padding, Batches: 1, Cells: 1}, Partitions: got.Partitions}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the first run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(export.Cut{}, run()); diff != "" {
		t.Errorf("a repeat (-want +got):\n%s", diff)
	}
	mustWork(t, o)
	if p := o.Look("us"); len(p.Keys) != 5+got.Padding {
		t.Errorf("%d keys are published, want %d", len(p.Keys), 5+got.Padding)
	}
}
