// Package listingtest plays a health authority in tests: a database, buckets,
// signing keys and a clock, uploads that are sealed and cut; and an oracle that
// downloads whatever the indexes list, as all phones together would, and checks
// all of it.
package listingtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

// Retention is how long the office keeps the keys of a day: the server's default.
const Retention = 16 * 24 * time.Hour

// Office is an authority with an empty database.
type Office struct {
	*store.DB
	Ring    keys.Ring
	Options store.SealOptions // as Seal uses them

	t       testing.TB
	folder  string
	trusted []exportfile.PublicKey
	uploads uint64

	mu      sync.Mutex
	now     time.Time
	buckets map[string]blob.Bucket

	listed map[string][]string // by root: what its index listed when it was last looked at
}

// New opens an office at entest.Noon. It seals on each call, without padding.
func New(t testing.TB) *Office {
	t.Helper()
	o := &Office{
		DB: &store.DB{DB: dbtest.New(t)}, t: t, folder: t.TempDir(), now: entest.Noon(),
		buckets: map[string]blob.Bucket{}, listed: map[string][]string{},
		Options: store.SealOptions{
			Period: time.Hour, MinUploads: 1, MaxWait: 24 * time.Hour, Always: true,
			Retention: Retention, MaxRecords: 1000,
		},
	}
	o.must(o.EnsurePartitions(t.Context(), o.now, Retention))
	return o
}

// Now is the office's clock.
func (o *Office) Now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// Wait moves the clock on.
func (o *Office) Wait(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = o.now.Add(d)
}

// Bucket implements listing.Buckets: buckets in memory, whatever the URL, and
// those that SetBucket put there.
func (o *Office) Bucket(_ context.Context, url string) (blob.Bucket, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if url == NoBucket {
		return nil, errs.Invalid("bucket_url", "there is no such bucket")
	}
	if o.buckets[url] == nil {
		o.buckets[url] = blob.NewMemory()
	}
	return o.buckets[url], nil
}

// SetBucket puts a bucket behind a URL.
func (o *Office) SetBucket(url string, b blob.Bucket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buckets[url] = b
}

// The buckets of exports.
const (
	MainBucket = "mem://main" // where an export's files go unless it says otherwise
	NoBucket   = "mem://none" // cannot be opened
)

// Publisher writes the office's indexes.
func (o *Office) Publisher() *listing.Publisher {
	return listing.New(listing.Deps{Store: o.DB, Buckets: o, Keys: &o.Ring, Now: o.Now})
}

// SigningKey describes a signing key for AddSigningKey.
type SigningKey struct {
	Name, ID, Version string
	From, Leads, Thru time.Time // zero: no limit
}

// AddSigningKey makes a signing key, which phones trust from now on.
func (o *Office) AddSigningKey(k SigningKey) {
	o.t.Helper()
	path := filepath.Join(o.folder, k.Name+".pem")
	public, err := keys.CreateSigningKey(path)
	if err != nil {
		o.t.Fatal(err)
	}
	o.trusted = append(o.trusted, exportfile.PublicKey{ID: k.ID, Version: k.Version, Key: public.(*ecdsa.PublicKey)})
	o.Must(`
		INSERT INTO signing_key (name, key_url, key_id, key_version, valid_from, leads_from, valid_thru)
		VALUES ($1, $2, $3, $4, coalesce($5::timestamptz, '-infinity'), coalesce($6::timestamptz, '-infinity'), coalesce($7::timestamptz, 'infinity'))`,
		k.Name, "file://"+path, k.ID, k.Version, orNull(k.From), orNull(k.Leads), orNull(k.Thru))
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Export describes an export for AddExport.
type Export struct {
	Name, Bucket, Root string
	Regions            []string
	Keys               []string // names of signing keys
	Backfill           bool
	MaxRecords         int
}

// AddExport makes an export of the region US into MainBucket, signed by the key
// us-1, which is made with the first one. Edits change that.
func (o *Office) AddExport(name string, edits ...func(*Export)) {
	o.t.Helper()
	x := Export{Name: name, Bucket: MainBucket, Root: name, Regions: []string{"US"}, Keys: []string{"us-1"}}
	for _, edit := range edits {
		edit(&x)
	}
	if len(o.trusted) == 0 {
		o.AddSigningKey(SigningKey{Name: "us-1", ID: "310", Version: "v1"})
	}
	o.Must(`
		INSERT INTO export (name, bucket, root, region, input_regions, period, backfill, max_records, created_at)
		VALUES ($1, $2, $3, $4, $5, '1h', $6, $7, $8)`,
		x.Name, x.Bucket, x.Root, x.Regions[0], x.Regions, x.Backfill, x.MaxRecords, o.Now().Add(-time.Hour))
	for _, key := range x.Keys {
		o.Must(`INSERT INTO export_signing_key SELECT export_id, $2 FROM export WHERE name = $1`, name, key)
	}
	o.Seal() // the batcher meets it
}

// Upload stores keys as one phone's.
func (o *Office) Upload(uploaded ...exposure.Exposure) {
	o.t.Helper()
	o.upload(exposure.ByToken(nil), uploaded)
}

// Revise stores what has become of keys that were uploaded before.
func (o *Office) Revise(revised ...exposure.Exposure) {
	o.t.Helper()
	o.upload(exposure.ByToken(entest.Covered(revised...)), revised)
}

func (o *Office) upload(may exposure.Permission, uploaded []exposure.Exposure) {
	o.t.Helper()
	o.uploads++
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], o.uploads)
	_, err := o.AddUpload(o.t.Context(), o.Now(), store.Upload{
		Receipt:        sha256.Sum256(number[:]),
		ReceiptExpires: o.Now().Add(time.Hour),
		Keys:           uploaded,
		May:            may,
	}, entest.Rules().Release)
	if err != nil {
		o.t.Fatal(err)
	}
}

// Seal lets the batcher run.
func (o *Office) Seal() store.Sealed {
	o.t.Helper()
	o.must(o.EnsurePartitions(o.t.Context(), o.Now(), Retention))
	sealed, err := o.DB.Seal(o.t.Context(), o.Now(), o.Options)
	if err != nil {
		o.t.Fatal(err)
	}
	return sealed
}

// Must runs a statement.
func (o *Office) Must(sql string, args ...any) {
	o.t.Helper()
	if _, err := o.Exec(o.t.Context(), sql, args...); err != nil {
		o.t.Fatal(err)
	}
}

func (o *Office) must(_ int, err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}
