package publish_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"enkeyserver/internal/exposure/entest"
)

// What an upload costs the service, its own half of the work with the database
// included, without the network.
func BenchmarkUpload(b *testing.B) {
	d := newDesk(b)
	bodies := make([][]byte, b.N)
	for i := range bodies {
		bodies[i] = padded(d.upload(entest.Upload(20*i, 14, d.now())).body())
	}
	d.measure(b, "", bodies)
}

// What chaff costs. It is nearly all that the service is asked.
func BenchmarkChaff(b *testing.B) {
	d := openDesk(b, nowhere)
	body := padded(d.upload(entest.Upload(1, 14, d.now())).body())
	bodies := make([][]byte, b.N)
	for i := range bodies {
		bodies[i] = body
	}
	d.measure(b, "1", bodies)
}

// padded is a body of the size that phones send.
func padded(body []byte) []byte {
	const size = 5000
	head := append(bytes.TrimSuffix(body, []byte("}")), `,"PADDING":"`...)
	return append(append(head, bytes.Repeat([]byte("x"), max(0, size-len(head)-2))...), `"}`...)
}

// measure sends bodies as a busy server gets them: many at a time.
func (d *desk) measure(b *testing.B, chaff string, bodies [][]byte) {
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequest(http.MethodPost, "/v1/publish", bytes.NewReader(bodies[next.Add(1)-1]))
			r.Header.Set("Content-Type", "application/json")
			if chaff != "" {
				r.Header.Set("X-Chaff", chaff)
			}
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Errorf("got status %d: %s", w.Code, w.Body)
			}
		}
	})
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(len(bodies)), "cpu-ms/op")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
