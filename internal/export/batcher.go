// Package export turns what was uploaded into the files that phones download.
//
// The batcher seals arrivals into the log and cuts batches of it; workers turn
// batches into signed files.
package export

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
	"enkeyserver/internal/telemetry"
)

// BatcherSettings are those of the export batcher.
type BatcherSettings struct {
	Period     time.Duration `envconfig:"SEAL_PERIOD" default:"1h" min:"1s" desc:"time between two epochs, unless an export is due earlier; shorter means smaller crowds and more files"`
	MinUploads int           `envconfig:"SEAL_MIN_UPLOADS" default:"1" min:"1" desc:"uploads that an epoch waits for, so that the crowd is bigger"`
	MaxWait    time.Duration `envconfig:"SEAL_MAX_WAIT" default:"24h" min:"0s" desc:"time after which a smaller crowd is sealed all the same; with SEAL_PERIOD, less than CLEANUP_TTL"`

	MinRecords   int `envconfig:"EXPORT_FILE_MIN_RECORDS" default:"1000" min:"0" desc:"keys to which a small batch is filled with generated ones"`
	PaddingRange int `envconfig:"EXPORT_FILE_PADDING_RANGE" default:"100" min:"0" desc:"upper bound of the random number of generated keys on top, so that the size of a small batch tells nothing"`
	MaxRecords   int `envconfig:"EXPORT_FILE_MAX_RECORDS" default:"500000" min:"1" max:"10000000" desc:"keys in one file, where the export sets no other number; larger batches become several files"`
	MinRevised   int `envconfig:"EXPORT_FILE_MIN_REVISED" default:"100" min:"0" desc:"revised keys to which a batch that has any is filled with generated ones; so many generated keys that can be revised later are in each batch that has real ones of the kind"`

	TTL     time.Duration `envconfig:"CLEANUP_TTL" default:"336h" min:"0s" desc:"how long keys are kept after their day, less 48h; the same value as in the cleanup service"`
	SealNow bool          `envconfig:"DEBUG_SEAL_NOW" default:"false" desc:"development only: each call seals and cuts a batch for every export, whatever the period"`
	Timeout time.Duration `envconfig:"BATCHER_TIMEOUT" default:"5m" min:"1s" desc:"time after which one run gives up; its work is undone and the next run does it"`
}

// BatcherDeps is what a batcher needs.
type BatcherDeps struct {
	Store *store.DB
	Now   func() time.Time
}

// Batcher seals and cuts. It keeps no state.
type Batcher struct {
	settings BatcherSettings
	store    *store.DB
	now      func() time.Time
}

// NewBatcher checks the settings against each other.
func NewBatcher(s BatcherSettings, d BatcherDeps) (*Batcher, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return &Batcher{settings: s, store: d.Store, now: d.Now}, nil
}

func (s BatcherSettings) check() error {
	if s.MinUploads > 1 && s.MaxWait < s.Period {
		return fmt.Errorf("SEAL_MAX_WAIT (%s) is less than SEAL_PERIOD (%s), so SEAL_MIN_UPLOADS (%d) would do nothing", s.MaxWait, s.Period, s.MinUploads)
	}
	if s.Period+s.MaxWait >= s.TTL && !s.SealNow {
		return fmt.Errorf("SEAL_PERIOD (%s) and SEAL_MAX_WAIT (%s) together must be less than CLEANUP_TTL (%s), or keys are forgotten before they are sealed", s.Period, s.MaxWait, s.TTL)
	}
	return nil
}

// Cut is the answer of one run of the batcher.
type Cut struct {
	store.Sealed
	Partitions int `json:"partitions"` // days that were made ready
}

// Run seals what is due and cuts the batches that are due.
//
// The days' partitions come first, outside the seal, since making them waits
// for other transactions. If that fails nothing is sealed: sealing discards
// what has no partition, and these keys would be real.
func (b *Batcher) Run(ctx context.Context) (_ any, err error) {
	defer errs.Wrap(&err, "export.Batcher")
	now := b.now()
	kept := b.settings.TTL + exposure.RetentionMargin
	made, err := b.store.EnsurePartitions(ctx, now, kept)
	if err != nil {
		return nil, err
	}
	sealed, err := b.store.Seal(ctx, now, store.SealOptions{
		Period:       b.settings.Period,
		MinUploads:   b.settings.MinUploads,
		MaxWait:      b.settings.MaxWait,
		Always:       b.settings.SealNow,
		Retention:    kept,
		MinRecords:   b.settings.MinRecords,
		PaddingRange: b.settings.PaddingRange,
		MaxRecords:   b.settings.MaxRecords,
		MinRevised:   b.settings.MinRevised,
	})
	if err == nil {
		b.showAttested(ctx, now)
	}
	return Cut{Sealed: sealed, Partitions: made}, err
}

// showAttested shows in metrics what became of devices' proofs. It is here since
// sealing has just added the uploads up. A number is never worth a seal.
func (b *Batcher) showAttested(ctx context.Context, now time.Time) {
	counted, err := b.store.AttestedUploads(ctx, now)
	if err != nil {
		slog.WarnContext(ctx, "the uploads with attested devices could not be counted", "error", err)
		return
	}
	for _, c := range counted {
		telemetry.RecordAttested(ctx, c.Platform.String(), c.Attestation.String(), c.N)
	}
}
