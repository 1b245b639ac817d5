package imports_test

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/source/sourcetest"
)

// A file of 500 000 keys, from the neighbour's server into the database. The
// most that the heap held above what the neighbour's server takes of it is told
// as heap-MiB.
func BenchmarkImport(b *testing.B) {
	const keys = 500_000
	for range b.N {
		b.StopTimer()
		us, a := newBorder(b), sourcetest.New(b)
		us.agree("mx", a)
		now := us.Now()
		a.Publish(now, manyKeys(keys, now), nil)
		s := us.service(a.Client())
		us.schedule(s)
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		peak := watchHeap()
		b.StartTimer()
		done := us.run(s)
		b.StopTimer()
		if done.Inserted != keys {
			b.Fatalf("%+v, want %d keys", done, keys)
		}
		b.ReportMetric(float64(peak()-before.HeapInuse)/(1<<20), "heap-MiB")
	}
	b.ReportMetric(keys*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

func manyKeys(n int, now time.Time) []exposure.Exposure {
	all := entest.Exposures(0, n, now)
	for i := range all {
		binary.BigEndian.PutUint32(all[i].Key[:], uint32(i)*2654435761) // none twice
		all[i].Start = entest.DaysAgo(now, 1+i%14)
		all[i].DaysSinceOnset = int32(i % 15)
	}
	return all
}

// watchHeap samples how much the heap holds, until it is asked for the most.
func watchHeap() (most func() uint64) {
	stop, result := make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var peak uint64
		for {
			select {
			case <-stop:
				result <- peak
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
		}
	}()
	return func() uint64 { close(stop); return <-result }
}
