package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"sync/atomic"
	"testing"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

var speedKeys = flag.Int("speed.keys", 100_000, "keys that the benchmarks of the log seal and read")

// arrive puts generated uploads of 14 daily keys into arrivals, as the service
// would have, with reports and risks in the proportions of real ones.
func (l *ledger) arrive(keys int) {
	l.t.Helper()
	l.exec(`
		INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, due_at)
		SELECT decode(md5(random()::text || n), 'hex'), 0, $2::integer - 144 * (n % 14), 144, 2 + n / 14 % 3, 1 + n / 14 % 2,
		       n / 14 % 15 - n % 14, false, '{US}', $3
		FROM   generate_series(1, $1) AS n`, keys, entest.DaysAgo(l.now, 1), l.now)
}

// BenchmarkLog seals, cuts and reads an epoch, and forgets it.
func BenchmarkLog(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		l := newLedger(b)
		l.options.MaxRecords = 500_000
		l.addExport("us", "US")
		l.arrive(*speedKeys)
		l.options.Always = false
		b.StartTimer()

		start := time.Now()
		l.options.Period = time.Nanosecond
		l.seal()
		b.ReportMetric(time.Since(start).Seconds(), "seal-s")

		l.options.Always = true
		start = time.Now()
		l.seal()
		b.ReportMetric(time.Since(start).Seconds(), "cut-s")

		start = time.Now()
		files := l.publish()
		b.ReportMetric(time.Since(start).Seconds(), "read-s")
		if len(files) == 0 {
			b.Fatal("nothing was published")
		}
		l.now = l.now.Add(40 * 24 * time.Hour)
		start = time.Now()
		if _, err := l.DropPartitions(b.Context(), l.now.Add(-retention)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "drop-s")
	}
}

// BenchmarkAddUpload stores new uploads of 14 keys, beside -speed.keys that are
// retained.
func BenchmarkAddUpload(b *testing.B) {
	l := newLedger(b)
	l.arrive(*speedKeys)
	l.seal()
	db, err := store.OpenForUploads(b.Context(), database.Settings{URL: l.url, PoolMax: 10})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var n atomic.Int64
	n.Store(1_000_000_000)
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			first := int(n.Add(14))
			up := store.Upload{ReceiptExpires: l.now, May: exposure.ByToken(nil), Fact: store.Fact{Authority: 1, KeyAges: make([]int, 14)}}
			binary.BigEndian.PutUint64(up.Receipt[:], uint64(first))
			up.Receipt = sha256.Sum256(up.Receipt[:])
			for day := range 14 {
				up.Keys = append(up.Keys, entest.Exposure(first+day, l.now, func(e *exposure.Exposure) { e.Start -= exposure.Interval(144 * day) }))
			}
			if _, err := db.AddUpload(b.Context(), l.now, up, entest.Rules().Release); err != nil {
				b.Error(err)
			}
		}
	})
}
