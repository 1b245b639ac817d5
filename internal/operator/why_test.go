package operator_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

const whyConfiguration = `
signingKeys:
  - {name: k, key: "file:///k.pem", id: "310", version: v1}
exports:
  - {name: all, bucket: "mem://", root: all, region: US, inputRegions: [US], travelers: include, period: 4h, signingKeys: [k]}
  - {name: home, bucket: "mem://", root: home, region: US, inputRegions: [US], excludeRegions: [CA], travelers: exclude, period: 4h, signingKeys: [k]}
`

// tracing is a log with two exports in which a test follows keys.
type tracing struct {
	*desk
	options store.SealOptions
	uploads byte
}

func newTracing(t *testing.T) *tracing {
	t.Helper()
	tr := &tracing{desk: newDesk(t), options: store.SealOptions{
		Period: time.Hour, MinUploads: 1, MaxWait: 24 * time.Hour, Retention: 16 * 24 * time.Hour, MaxRecords: 1000,
	}}
	tr.now = entest.Noon().Add(-time.Hour)
	tr.must(whyConfiguration, "apply", "-f", "-")
	if _, err := tr.db.EnsurePartitions(t.Context(), tr.now, tr.options.Retention); err != nil {
		t.Fatal(err)
	}
	tr.seal()
	tr.now = entest.Noon()
	return tr
}

func (tr *tracing) seal() {
	tr.t.Helper()
	if _, err := tr.db.Seal(tr.t.Context(), tr.now, tr.options); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tracing) upload(may exposure.Permission, keys ...exposure.Exposure) {
	tr.t.Helper()
	tr.uploads++
	up := store.Upload{
		Receipt: sha256.Sum256([]byte{tr.uploads}), ReceiptExpires: tr.now.Add(time.Hour), Keys: keys, May: may,
	}
	if _, err := tr.db.AddUpload(tr.t.Context(), tr.now, up, entest.Rules().Release); err != nil {
		tr.t.Fatal(err)
	}
}

// publish makes the files of all batches, on paper.
func (tr *tracing) publish() {
	tr.t.Helper()
	for {
		b, ok, err := tr.db.LeaseBatch(tr.t.Context(), tr.now, time.Minute)
		if err != nil {
			tr.t.Fatal(err)
		}
		if !ok {
			return
		}
		files := []store.File{{Number: 1, Object: fmt.Sprintf("%s/%d.zip", b.Root, b.LastEpoch), SHA256: []byte{1}}}
		if ok, err := tr.db.CompleteBatch(tr.t.Context(), b, files, tr.now); err != nil || !ok {
			tr.t.Fatal(ok, err)
		}
	}
}

// why expects the answer for a key; its words begin behind the times.
func (tr *tracing) why(key exposure.Exposure, want string) {
	tr.t.Helper()
	tr.says(want, key.Key.Base64()+"\n", "why")
	if out := tr.must("", "why", "-o", "json", key.Key.Base64()); strings.Contains(out, key.Key.Base64()) {
		tr.t.Error("the answer repeats the key")
	}
}

func with(regions string, traveler bool) func(*exposure.Exposure) {
	return func(e *exposure.Exposure) { e.Regions, e.Traveler = strings.Fields(regions), traveler }
}

func TestWhy(t *testing.T) {
	t.Parallel()
	tr := newTracing(t)
	likely := func(e *exposure.Exposure) { e.Report = exposure.Likely }
	own := entest.Exposure(1, tr.now, with("US", false), likely)
	fresh := entest.Exposure(2, tr.now, with("US", false), func(e *exposure.Exposure) { e.Start = exposure.DayOf(tr.now).Start() })
	traveler := entest.Exposure(3, tr.now, with("CA US", true))
	foreign := entest.Exposure(4, tr.now, with("MX", false))
	begin, end := "2020-11-04 00:00 UTC", "2020-11-05 00:00 UTC"
	if own.Start.Time() != time.Date(2020, 11, 4, 0, 0, 0, 0, time.UTC) {
		begin, end = own.Start.Time().Format("2006-01-02 15:04 UTC"), own.End().Time().Format("2006-01-02 15:04 UTC")
	}
	aboutOwn := "It was broadcast from " + begin + " to " + end + ".\nIts regions are US.\n"
	unsealed := func(state string) string {
		return aboutOwn + "The key (likely) is " + state + `.
export all, key: pending: it will be in the batch that follows its sealing
export home, key: pending: it will be in the batch that follows its sealing
`
	}

	tr.why(own, "The key is not here. It never arrived, or was dropped when it arrived or was sealed (older than what is kept), or its day has been forgotten.\n")

	for _, e := range []exposure.Exposure{own, fresh, traveler, foreign} {
		tr.upload(exposure.ByToken(nil), e)
	}
	tr.why(own, unsealed("due since 2020-11-05 12:00 UTC, waits for the next run of the batcher"))

	// Three uploads of those that are due are no crowd of five.
	tr.now = tr.now.Add(30 * time.Minute)
	tr.options.MinUploads = 5
	tr.seal()
	tr.why(own, unsealed("due since 2020-11-05 12:00 UTC, and the batcher that worked at 2020-11-05 12:30 UTC left it: a crowd of 3 uploads is smaller than SEAL_MIN_UPLOADS, and SEAL_MAX_WAIT has not passed"))

	tr.now = tr.now.Add(time.Hour)
	tr.options.MinUploads = 3
	tr.seal()
	tr.why(own, aboutOwn+`The key (likely) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
export all, key: pending: it will be in the next batch, which is due at 2020-11-05 16:00 UTC
export home, key: pending: it will be in the next batch, which is due at 2020-11-05 16:00 UTC
`)
	tr.why(fresh, `It was broadcast from 2020-11-05 00:00 UTC to 2020-11-06 00:00 UTC.
Its regions are US.
The key (confirmed) is under embargo until 2020-11-06 02:00 UTC: phones would still believe whoever replays it.
export all, key: pending: it will be in the batch that follows its sealing
export home, key: pending: it will be in the batch that follows its sealing
`)

	tr.now = tr.now.Add(3 * time.Hour)
	tr.seal()
	tr.why(own, aboutOwn+`The key (likely) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
export all, key: pending all/1604574000-1604593800-00001.zip: the batch is cut, a worker will make the file
export home, key: pending home/1604574000-1604593800-00001.zip: the batch is cut, a worker will make the file
`)
	tr.publish()
	tr.why(own, aboutOwn+`The key (likely) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
export all, key: published all/1.zip: it is in this file
export home, key: published home/1.zip: it is in this file
`)
	tr.why(traveler, "It was broadcast from "+begin+" to "+end+`.
Its regions are CA, US.
It is a traveller's.
The key (confirmed) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
export all, key: published all/1.zip: it is in this file
export home, key: never: its region CA is excluded
`)
	tr.why(foreign, "It was broadcast from "+begin+" to "+end+`.
Its regions are MX.
The key (confirmed) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
export all, key: never: none of its regions (MX) is one of the export's (US)
export home, key: never: none of its regions (MX) is one of the export's (US)
`)

	// It is revised, one export ends, and what comes later is not in that.
	confirmed := own
	confirmed.Report = exposure.Confirmed
	tr.upload(exposure.ByToken([]exposure.Covered{{Key: own.Key, Start: own.Start, Period: own.Period}}), confirmed)
	tr.must(strings.SplitN(whyConfiguration, "  - {name: home", 2)[0], "apply", "-f", "-", "--prune")
	tr.options.MinUploads = 1
	tr.now = tr.now.Add(24 * time.Hour)
	tr.seal() // cuts the last, empty batch of the export that ended
	late := entest.Exposure(5, tr.now, with("US", false))
	tr.upload(exposure.ByToken(nil), late)
	tr.publish()
	tr.why(own, aboutOwn+`The key (likely) is sealed in epoch 1 at 2020-11-05 13:30 UTC.
Its revision (confirmed) is sealed in epoch 2 at 2020-11-06 16:30 UTC.
export all, key: published all/1.zip: it is in this file
export all, revision: published all/2.zip: it is in this file; among its revised keys
export home, key: published home/1.zip: it is in this file
export home, revision: never: the export ended at 2020-11-05 16:30 UTC
`)
	answer := decode[struct {
		State         string
		About         []string
		Key, Revision *struct {
			State, Report, Why string
			Until              time.Time
			Epoch              int
		}
		Exports []struct{ Export, Event, State, File, Why string }
	}](t, tr.must(late.Key.Base64(), "why", "-o", "json"))
	if answer.State != "waiting" || answer.Exports[1].State != "never" || answer.Exports[1].Why != "the export ended at 2020-11-05 16:30 UTC" {
		t.Errorf("after the end: %+v", answer)
	}
}

// A key that is withdrawn before its file is made is in none.
func TestWhyWithdrawn(t *testing.T) {
	t.Parallel()
	tr := newTracing(t)
	key := entest.Exposure(1, tr.now, with("US", false), func(e *exposure.Exposure) { e.Report = exposure.Likely })
	other := entest.Exposure(2, tr.now, with("US", false))
	negative := key
	negative.Report = exposure.Revoked
	covered := []exposure.Covered{{Key: key.Key, Start: key.Start, Period: key.Period}}
	tr.upload(exposure.ByToken(nil), key)
	tr.upload(exposure.ByToken(covered), negative)
	tr.upload(exposure.ByToken(nil), other)

	about := fmt.Sprintf("It was broadcast from %s to %s.\nIts regions are US.\n",
		key.Start.Time().Format("2006-01-02 15:04 UTC"), key.End().Time().Format("2006-01-02 15:04 UTC"))
	tr.why(key, about+`The key (likely) is due since 2020-11-05 12:00 UTC, waits for the next run of the batcher.
Its revision (negative) is due since 2020-11-05 12:00 UTC, waits for the next run of the batcher.
export all, key: never: it was withdrawn before anybody saw it, so nobody needs to hear of it
export all, revision: never: it was withdrawn before anybody saw it, so nobody needs to hear of it
export home, key: never: it was withdrawn before anybody saw it, so nobody needs to hear of it
export home, revision: never: it was withdrawn before anybody saw it, so nobody needs to hear of it
`)
	tr.now = tr.now.Add(5 * time.Hour)
	tr.seal()
	tr.publish()
	tr.why(key, about+`The key (likely) is sealed in epoch 1 at 2020-11-05 17:00 UTC.
Its revision (negative) is sealed in epoch 1 at 2020-11-05 17:00 UTC.
export all, key: never: it was withdrawn before the file was made, so nobody needs to hear of it
export all, revision: never: the key was withdrawn before the file was made, so nobody needs to hear of it
export home, key: never: it was withdrawn before the file was made, so nobody needs to hear of it
export home, revision: never: the key was withdrawn before the file was made, so nobody needs to hear of it
`)
}
