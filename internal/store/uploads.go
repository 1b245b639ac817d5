package store

import (
	"context"
	"time"

	"enkeyserver/internal/exposure"
)

// Upload is what AddUpload stores, all of it or nothing.
type Upload struct {
	// Receipt is the hash of the accepted certificate. An upload whose receipt
	// is stored already is a retry.
	Receipt        [32]byte
	ReceiptExpires time.Time

	Keys []exposure.Exposure // valid, no key twice
	May  exposure.Permission
	Fact Fact
}

// Fact is what statistics keep of an upload.
type Fact struct {
	Authority int // 0: the app needs no certificate; no fact is stored
	Platform  Platform
	KeyAges   []int // whole days between each key's day and the upload
	OnsetAge  int   // whole days between onset and upload; -1: the phone did not tell
}

// Platform is the kind of phone, as far as statistics care.
type Platform int16

// The platforms.
const (
	PlatformUnknown Platform = 0
	PlatformAndroid Platform = 1
	PlatformIOS     Platform = 2
)

// Added tells what AddUpload did.
type Added struct {
	Retry     bool // this very upload was stored before; nothing was done
	Inserted  int
	Revised   int
	Unchanged int
}

// AddUpload stores an upload: new keys as arrivals, known keys as revisions
// where Permission and the rules of exposure.Decide allow it, the receipt and
// the fact. It is one transaction: an error means that nothing was stored, or,
// when the connection broke at its end, that a retry will find out.
//
// New keys of a negative report are not stored: there is nobody to warn.
func (db *DB) AddUpload(ctx context.Context, now time.Time, up Upload, embargo Embargo) (Added, error) {
	panic("unwritten")
}

// Embargo decides when an arrival may be sealed.
type Embargo func(e exposure.Exposure) time.Time
