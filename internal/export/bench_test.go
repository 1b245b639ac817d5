package export_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/export"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/listing/listingtest"
)

var benchKeys = flag.Int("keys", 1_000_000, "how many keys BenchmarkWorker exports")

// BenchmarkWorker exports one large batch of keys of the last fortnight: from
// the lease to the written index, two files at once, into a folder. It tells the
// bytes a key in the bucket, and by how much the process grew at most.
//
//	go test ./internal/export -run '^$' -bench Worker -benchtime 1x [-args -keys 10000000]
func BenchmarkWorker(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		o := listingtest.New(b)
		o.Options.MaxRecords = 500_000
		fillLog(o, *benchKeys)
		o.AddExport("us", func(x *listingtest.Export) { x.Backfill = true })
		o.SetBucket(listingtest.MainBucket, blob.NewFolder(b.TempDir()))
		before := resident(b)
		b.StartTimer()
		answer, err := newWorker(o).Run(b.Context())
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(peakResident(b)-before)/(1<<20), "peak-MiB")
		done := answer.(export.Done)
		if done.Keys != *benchKeys {
			b.Fatalf("%d keys were exported, want %d", done.Keys, *benchKeys)
		}
		size := 0
		for _, content := range o.Objects(listingtest.MainBucket) {
			size += len(content)
		}
		b.ReportMetric(float64(size)/float64(done.Keys), "bytes/key")
		b.ReportMetric(float64(done.Files), "files")
		b.ReportMetric(float64(done.Keys)/b.Elapsed().Seconds(), "keys/s")
		b.StartTimer()
	}
}

// fillLog seals so many keys of the last fortnight, some with onset, some of
// short periods, as one epoch.
func fillLog(o *listingtest.Office, n int) {
	day := entest.DaysAgo(o.Now(), 0)
	o.Must(`
		INSERT INTO exposure (start_interval, epoch, origin, period, risk, report, onset, event, traveler, padding, key, regions)
		SELECT   $1 - 144 * (1 + i % 14), 1, 0, CASE WHEN i % 14 = 0 THEN 100 ELSE 144 END, 1 + i % 3, 1 + i % 2,
		         CASE WHEN i % 5 > 0 THEN i % 14 - 7 END, 0, false, false, decode(md5('key ' || i), 'hex'), '{US}'
		FROM     generate_series(1, $2::int) AS i`, day, n)
	o.Must(`INSERT INTO epoch (epoch, sealed_at, keys, revisions, padding, discarded) VALUES (1, $1, $2, 0, 0, 0)`, o.Now(), n)
	o.Must(`UPDATE log_head SET last_epoch = 1`)
	o.Must(`ANALYZE exposure`)
	o.Wait(time.Minute)
}

// resident is how much memory the process has now, in bytes; its peak is
// counted from here.
func resident(b *testing.B) int64 {
	b.Helper()
	// 5 resets the peak (proc(5), clear_refs).
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	return status(b, "VmRSS:")
}

func peakResident(b *testing.B) int64 {
	b.Helper()
	return status(b, "VmHWM:")
}

// status reads a line of /proc/self/status; where there is none it is 0.
func status(b *testing.B, name string) (bytes int64) {
	b.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			_, err = fmt.Sscanf(rest, "%d kB", &bytes)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	return bytes << 10
}
