package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

const retention = 16 * 24 * time.Hour

// ledger is a database with a clock, and the story that a test tells with them.
type ledger struct {
	*store.DB
	t       testing.TB
	url     string
	now     time.Time
	uploads uint64
	options store.SealOptions
}

func newLedger(t testing.TB) *ledger {
	t.Helper()
	url := dbtest.URL(t)
	db, err := store.Open(t.Context(), database.Settings{URL: url, PoolMax: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	l := &ledger{
		DB: db, t: t, url: url, now: entest.Noon(),
		options: store.SealOptions{
			Period: time.Hour, MinUploads: 1, MaxWait: 24 * time.Hour, Always: true, Retention: retention, MaxRecords: 1000,
		},
	}
	if _, err := l.EnsurePartitions(t.Context(), l.now, retention); err != nil {
		t.Fatal(err)
	}
	l.exec(`INSERT INTO signing_key (name, key_url, key_id, key_version) VALUES ('us-1', 'file:///us-1.pem', '310', 'v1')`)
	return l
}

func (l *ledger) exec(sql string, args ...any) {
	l.t.Helper()
	if _, err := l.Exec(l.t.Context(), sql, args...); err != nil {
		l.t.Fatal(err)
	}
}

// addExport makes an export of every hour from the regions.
func (l *ledger) addExport(name string, regions ...string) {
	l.t.Helper()
	l.exec(`
		INSERT INTO export (name, bucket, root, region, input_regions, period, created_at)
		VALUES ($1, 'mem://', $1, $2, $3, '1h', $4)`, name, regions[0], regions, l.now.Add(-time.Hour))
	l.exec(`INSERT INTO export_signing_key SELECT export_id, 'us-1' FROM export WHERE name = $1`, name)
	l.seal() // the batcher meets it
}

// upload is a new upload of these keys, without a token unless an edit says so.
func (l *ledger) upload(keys []exposure.Exposure, edits ...func(*store.Upload)) store.Upload {
	l.uploads++
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], l.uploads)
	up := store.Upload{
		Receipt:        sha256.Sum256(number[:]),
		ReceiptExpires: l.now.Add(time.Hour),
		Keys:           keys,
		May:            exposure.ByToken(nil),
	}
	for _, edit := range edits {
		edit(&up)
	}
	return up
}

func withToken(keys []exposure.Exposure) func(*store.Upload) {
	var covered []exposure.Covered
	for _, k := range keys {
		covered = append(covered, exposure.Covered{Key: k.Key, Start: k.Start, Period: k.Period})
	}
	return func(up *store.Upload) { up.May = exposure.ByToken(covered) }
}

func (l *ledger) try(up store.Upload) (store.Added, error) {
	up.Keys = slices.Clone(up.Keys)
	return l.AddUpload(l.t.Context(), l.now, up, entest.Rules().Release)
}

func (l *ledger) add(up store.Upload) store.Added {
	l.t.Helper()
	added, err := l.try(up)
	if err != nil {
		l.t.Fatal(err)
	}
	return added
}

func (l *ledger) seal() store.Sealed {
	l.t.Helper()
	sealed, err := l.Seal(l.t.Context(), l.now, l.options)
	if err != nil {
		l.t.Fatal(err)
	}
	return sealed
}

// file is what one file would hold.
type file struct {
	Export        string
	Keys, Revised []exposure.Exposure
}

// publish finishes every batch that is open and gives the files, as a worker
// would make them.
func (l *ledger) publish() (files []file) {
	l.t.Helper()
	for {
		b, ok, err := l.LeaseBatch(l.t.Context(), l.now, time.Minute)
		if err != nil {
			l.t.Fatal(err)
		}
		if !ok {
			return files
		}
		for number := range b.Parts {
			files = append(files, l.read(b, number+1))
		}
		if ok, err := l.CompleteBatch(l.t.Context(), b, nil, l.now); err != nil || !ok {
			l.t.Fatal(ok, err)
		}
	}
}

func (l *ledger) read(b store.Batch, number int) file {
	l.t.Helper()
	f := file{Export: b.Export}
	for e, err := range l.BatchKeys(l.t.Context(), b, number) {
		if err != nil {
			l.t.Fatal(err)
		}
		f.Keys = append(f.Keys, e)
	}
	for e, err := range l.BatchRevisions(l.t.Context(), b, number) {
		if err != nil {
			l.t.Fatal(err)
		}
		f.Revised = append(f.Revised, e)
	}
	return f
}

// count asks for one number.
func (l *ledger) count(sql string, args ...any) (n int) {
	l.t.Helper()
	rows, err := l.Query(l.t.Context(), sql, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		l.t.Fatal(err)
	}
	return n
}

func report(r exposure.Report) func(*exposure.Exposure) {
	return func(e *exposure.Exposure) { e.Report = r }
}

func regions(regions ...string) func(*exposure.Exposure) {
	return func(e *exposure.Exposure) { e.Regions = regions }
}
