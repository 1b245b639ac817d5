package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/klauspost/compress/flate"

	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database"
	"enkeyserver/internal/export"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/system"
)

// exportPeriod is the time between two batches.
const exportPeriod = 4 * time.Hour

// export measures what it takes to make files of a batch.
func (b *bench) export(ctx context.Context) error {
	if err := b.exportOf(ctx, realistic(), b.repeats); err != nil {
		return err
	}
	return b.exportOf(ctx, even(), min(b.repeats, 2))
}

func (b *bench) exportOf(ctx context.Context, m metadata, repeats int) error {
	return b.stage(ctx, nil, func(s *stage) error {
		b.say("export: filling the log with %d keys of %s metadata", b.keys, m.name)
		keys, err := s.retain(ctx, m, b.keys)
		if err != nil {
			return err
		}
		batcher, err := s.launch(ctx, system.Batcher, "DEBUG_SEAL_NOW=true")
		if err != nil {
			return err
		}
		e := newExporting(b, s, m, keys)
		for n := range repeats {
			b.say("export: %d of %d, %s metadata", n+1, repeats, m.name)
			if err := e.repeat(ctx, batcher, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// exporting is the figures of an export, and what they are measured on.
type exporting struct {
	*stage
	keys int

	time, worker, postgres, memory, bytes *figure
	pack, hash                            *figure
	files                                 []string // of the last batch
}

func newExporting(b *bench, s *stage, m metadata, keys int) *exporting {
	g := b.report.group("export, "+m.name, "%s keys in %d epochs, from a cut batch to files in a folder and the index that lists them",
		number(float64(keys)), max(epochsAtLeast, b.keys/epochKeys))
	seconds := 2 * max(float64(keys)/1e6, 1)
	return &exporting{
		stage:    s,
		keys:     keys,
		time:     g.figure("all of it", "s", atMost(seconds)).beside("COPY of the same rows out of PostgreSQL, in no order"),
		worker:   g.figure("worker", "CPU s", nil).beside("deflate and SHA-256 of the same bytes, by themselves"),
		postgres: g.figure("PostgreSQL", "CPU s", nil).beside("COPY of the same rows"),
		memory:   g.figure("worker's memory, peak", "MiB", atMost(64)),
		bytes:    g.figure("size of the files", "bytes a key", m.size).beside("the keys, which are random"),
		pack:     g.figure("(deflate of the same bytes)", "CPU s", nil),
		hash:     g.figure("(SHA-256 of the same bytes)", "CPU s", nil),
	}
}

func (e *exporting) repeat(ctx context.Context, batcher *system.Process, n int) error {
	if err := e.Apply(ctx, exportsOfAll(n+1)...); err != nil {
		return err
	}
	done, err := createBatches(ctx, batcher)
	if err != nil {
		return err
	}
	if done.Batches != 1 {
		return fmt.Errorf("%d batches were cut, and not 1: %+v", done.Batches, done)
	}
	if err := e.settle(ctx); err != nil {
		return err
	}
	if err := e.work(ctx); err != nil {
		return err
	}
	if err := e.copyOut(ctx); err != nil {
		return err
	}
	return e.packPlainly(ctx)
}

// exportsOfAll are so many exports, each of all that is in the log.
func exportsOfAll(n int) (exports []configuration.Export) {
	for i := range n {
		x := system.ExportOf(fmt.Sprintf("us-%d", i+1), exportPeriod, "US")
		x.Backfill = true
		exports = append(exports, x)
	}
	return exports
}

// work has a worker of its own make the files, so that its memory is theirs.
func (e *exporting) work(ctx context.Context) error {
	p, err := e.launch(ctx, system.Worker)
	if err != nil {
		return err
	}
	var done export.Done
	used, err := e.observe(p.PID(), func() error { return p.Trigger(ctx, "/do-work", &done) })
	if err != nil {
		return err
	}
	if done.Keys < e.keys || done.Batches != 1 { // padding makes it more
		return fmt.Errorf("%d keys were exported, and not %d: %+v", done.Keys, e.keys, done)
	}
	_, peak, err := resident(p.PID())
	if err != nil {
		return errors.Join(err, p.Stop())
	}
	e.time.add(used.elapsed.Seconds())
	e.worker.add(used.service.Seconds())
	e.postgres.add(used.postgres.Seconds())
	e.memory.add(peak)
	return errors.Join(e.measureFiles(ctx), p.Stop())
}

func (e *exporting) measureFiles(ctx context.Context) error {
	type file struct {
		Object     string
		Size, Keys int64
	}
	files, err := database.All[file](ctx, e.Store, `
		SELECT object, size, keys
		FROM   export_file
		WHERE  batch_id = (SELECT max(batch_id) FROM export_file)`)
	var size, keys int64
	e.files = nil
	for _, f := range files {
		size, keys = size+f.Size, keys+f.Keys
		e.files = append(e.files, f.Object)
	}
	e.bytes.add(float64(size) / float64(keys))
	e.bytes.plain(exposure.KeySize)
	return err
}

// copyOut reads the same rows as fast as PostgreSQL gives them.
func (e *exporting) copyOut(ctx context.Context) error {
	conn, err := e.database.Pool().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	used, err := e.observe(0, func() error {
		_, err := conn.Conn().PgConn().CopyTo(ctx, io.Discard, `
			COPY (SELECT key, start_interval, period, report, risk, onset FROM exposure) TO STDOUT (FORMAT binary)`)
		return err
	})
	e.time.plain(used.elapsed.Seconds())
	e.postgres.plain(used.postgres.Seconds())
	return err
}

// packPlainly packs and hashes the same bytes again, and does nothing else.
func (e *exporting) packPlainly(ctx context.Context) error {
	var packed, hashed time.Duration
	for _, name := range e.files {
		bin, err := download(ctx, e.BucketURL+name)
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := pack(bin); err != nil {
			return err
		}
		packed += time.Since(begin)
		begin = time.Now()
		sha256.Sum256(bin)
		hashed += time.Since(begin)
	}
	e.pack.add(packed.Seconds())
	e.hash.add(hashed.Seconds())
	e.worker.plain((packed + hashed).Seconds())
	return nil
}

// pack deflates as the worker does.
func pack(b []byte) error {
	const level = 7
	w, err := flate.NewWriter(io.Discard, level)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Close()
}

// download gives the export.bin of a file.
func download(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	zipped, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	archive, err := zip.NewReader(bytes.NewReader(zipped), int64(len(zipped)))
	if err != nil {
		return nil, err
	}
	bin, err := archive.Open("export.bin")
	if err != nil {
		return nil, err
	}
	defer bin.Close()
	return io.ReadAll(bin)
}
