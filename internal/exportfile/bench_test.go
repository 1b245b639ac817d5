package exportfile_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
)

// benchmarkKeys is the size of a full file.
const benchmarkKeys = 500_000

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func BenchmarkWrite(b *testing.B) {
	s, _ := signer(b, "310", "v1")
	keys := exposures(1, benchmarkKeys)
	b.ReportAllocs()
	var size counter
	for b.Loop() {
		size = counter{}
		if _, err := exportfile.Write(b.Context(), &size, meta, []exportfile.Signer{s}, seq(keys), seq(nil)); err != nil {
			b.Fatal(err)
		}
	}
	reportKeys(b)
	b.ReportMetric(float64(size.n)/benchmarkKeys, "bytes/key")
}

func BenchmarkCheck(b *testing.B) {
	s, trusted := signer(b, "310", "v1")
	file, _ := write(b, []exportfile.Signer{s}, exposures(1, benchmarkKeys), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := exportfile.Check(bytes.NewReader(file), int64(len(file)), []exportfile.PublicKey{trusted}, now); err != nil {
			b.Fatal(err)
		}
	}
	reportKeys(b)
}

func BenchmarkRead(b *testing.B) {
	s, _ := signer(b, "310", "v1")
	file, _ := write(b, []exportfile.Signer{s}, exposures(1, benchmarkKeys), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := exportfile.Read(bytes.NewReader(file), int64(len(file)), func(exposure.Exposure, bool) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	reportKeys(b)
}

// BenchmarkSHA256 is the part of the above that nothing can save.
func BenchmarkSHA256(b *testing.B) {
	s, _ := signer(b, "310", "v1")
	file, _ := write(b, []exportfile.Signer{s}, exposures(1, benchmarkKeys), nil)
	bin := unzip(b, file)["export.bin"]
	for b.Loop() {
		h := sha256.New()
		_, _ = io.Copy(h, bytes.NewReader(bin))
	}
	reportKeys(b)
}

func reportKeys(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(benchmarkKeys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}
