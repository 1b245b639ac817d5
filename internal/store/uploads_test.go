package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// What becomes of a second upload, whether the first still waits or is sealed.
func TestAddUpload(t *testing.T) {
	t.Parallel()
	now := entest.Noon()
	likely := entest.Exposures(1, 3, now, report(exposure.Likely))
	confirmed := entest.Exposures(1, 3, now)
	negative := entest.Exposures(1, 3, now, report(exposure.Revoked))
	elsewhen := entest.Exposures(1, 3, now, func(e *exposure.Exposure) { e.Start -= 144 })

	for _, tc := range []struct {
		why    string
		first  []exposure.Exposure
		second []exposure.Exposure
		token  bool
		want   store.Added
		code   string
	}{
		{"new keys are new", likely, entest.Exposures(4, 2, now), false, store.Added{Inserted: 2}, ""},
		{"known keys need a token", likely, confirmed, false, store.Added{}, "missing_revision_token"},
		{"unchanged keys need one too", likely, likely, false, store.Added{}, "missing_revision_token"},
		{"a token lets them change", likely, confirmed, true, store.Added{Revised: 3}, ""},
		{"or be withdrawn", likely, negative, true, store.Added{Revised: 3}, ""},
		{"unchanged is no change", likely, likely, true, store.Added{Unchanged: 3}, ""},
		{"old and new go together", likely, entest.Exposures(2, 3, now), true, store.Added{Inserted: 1, Revised: 2}, ""},
		{"confirmed stays confirmed", confirmed, likely, true, store.Added{}, "invalid_report_type_transition"},
		{"another start is another key", likely, elsewhen, true, store.Added{}, "invalid_revision_token"},
		{"a first negative warns nobody", nil, negative, false, store.Added{}, ""},
	} {
		for _, sealed := range []bool{false, true} {
			t.Run(tc.why, func(t *testing.T) {
				t.Parallel()
				if sealed && tc.code == "invalid_revision_token" {
					t.Skip("the log is asked by start: sealing drops such a key, see TestSealDiscards")
				}
				l := newLedger(t)
				if tc.first != nil {
					l.add(l.upload(tc.first))
				}
				if sealed {
					l.seal()
				}
				up := l.upload(tc.second)
				if tc.token {
					withToken(tc.first)(&up)
				}
				before := l.count(`SELECT (SELECT count(*) FROM arrival) + (SELECT count(*) FROM receipt)`)
				got, err := l.try(up)
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("added (-want +got):\n%s", diff)
				}
				if tc.code == "" && err != nil || tc.code != "" && errs.CodeOf(err) != tc.code {
					t.Errorf("got error %v, want code %q", err, tc.code)
				}
				if tc.code != "" && l.count(`SELECT (SELECT count(*) FROM arrival) + (SELECT count(*) FROM receipt)`) != before {
					t.Error("a refused upload left something behind")
				}
			})
		}
	}
}

// A key can be revised once, wherever its events are.
func TestSecondRevision(t *testing.T) {
	t.Parallel()
	for _, seals := range []int{0, 1, 2} {
		l := newLedger(t)
		likely := entest.Exposures(1, 2, l.now, report(exposure.Likely))
		l.add(l.upload(likely))
		if seals > 0 {
			l.seal()
		}
		l.add(l.upload(entest.Exposures(1, 2, l.now), withToken(likely)))
		if seals > 1 {
			l.seal()
		}
		_, err := l.try(l.upload(entest.Exposures(1, 2, l.now, report(exposure.Revoked)), withToken(likely)))
		if got, want := errs.CodeOf(err), "key_already_revised"; got != want {
			t.Errorf("after %d seals: got code %s, want %s", seals, got, want)
		}
		if got := l.add(l.upload(entest.Exposures(1, 2, l.now), withToken(likely))); got.Unchanged != 2 {
			t.Errorf("after %d seals the same again: got %+v, want 2 unchanged", seals, got)
		}
	}
}

// The phone's answer was lost and it sends the same once more: before, while
// and after the keys are sealed, it is told that all is well, without a token.
func TestRetry(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	up := l.upload(entest.Exposures(1, 14, l.now))

	results := make([]store.Added, 8)
	var phones errgroup.Group
	for i := range results {
		phones.Go(func() (err error) {
			results[i], err = l.try(up)
			return err
		})
	}
	if err := phones.Wait(); err != nil {
		t.Fatal(err)
	}
	first := 0
	for _, r := range results {
		if !r.Retry {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d of the same uploads at the same instant stored something, want 1", first)
	}
	l.seal()
	if got := l.add(up); !got.Retry {
		t.Errorf("after sealing: got %+v, want a retry", got)
	}
	if got := l.count(`SELECT count(*) FROM exposure`); got != 14 {
		t.Errorf("%d keys are in the log, want 14", got)
	}
}

// Uploads of the same keys in opposite orders, with seals in between: nobody
// deadlocks, nobody is told something wrong, no key is stored twice.
func TestUploadsAndSealsTogether(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	const rounds = 40
	likely := entest.Exposures(1, 10, l.now, report(exposure.Likely))
	ups := make([]store.Upload, 0, 4*rounds)
	for range rounds {
		ups = append(ups,
			l.upload(likely, withToken(likely)),
			l.upload(entest.Exposures(6, 10, l.now, report(exposure.Likely)), withToken(entest.Exposures(1, 30, l.now))),
			l.upload(entest.Exposures(1, 10, l.now), withToken(likely)),
			l.upload(entest.Exposures(11, 10, l.now, report(exposure.Likely)), withToken(entest.Exposures(1, 30, l.now))))
	}
	var g errgroup.Group
	for worker := range 4 {
		g.Go(func() error {
			for i := worker; i < len(ups); i += 4 {
				_, err := l.try(ups[i])
				if code := errs.CodeOf(err); err != nil && code != "key_already_revised" && code != "invalid_report_type_transition" {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for range rounds {
			if _, err := l.Seal(t.Context(), l.now, l.options); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	l.seal()
	if got := l.count(`SELECT count(*) FROM exposure WHERE event = 0`); got != 20 {
		t.Errorf("%d keys are in the log, want 20", got)
	}
	if got := l.count(`SELECT count(*) FROM arrival`); got != 0 {
		t.Errorf("%d arrivals are left, want none", got)
	}
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	fact := func(f store.Fact) func(*store.Upload) { return func(up *store.Upload) { up.Fact = f } }
	l.add(l.upload(entest.Exposures(1, 2, l.now), fact(store.Fact{
		Authority: 7, Platform: store.PlatformIOS, KeyAges: []int{1, 20}, OnsetAge: 3,
	})))
	l.add(l.upload(entest.Exposures(3, 1, l.now), fact(store.Fact{
		Authority: 7, Platform: store.PlatformAndroid, KeyAges: []int{1}, OnsetAge: -1, Revision: true,
	})))
	l.add(l.upload(entest.Exposures(4, 1, l.now), fact(store.Fact{Authority: 8, KeyAges: []int{0}, OnsetAge: 40})))

	want := store.UploadDay{
		Day: l.now.Truncate(24 * time.Hour), Android: 1, IOS: 1, Keys: 3, Revisions: 1, MissingOnset: 1,
		KeyAges: make([]int64, 17), OnsetAges: make([]int64, 31),
	}
	want.KeyAges[1], want.KeyAges[16], want.OnsetAges[3] = 2, 1, 1

	days, err := l.UploadDays(t.Context(), 7, l.now)
	if err != nil || len(days) != 0 {
		t.Errorf("in the same hour: got %v, %v, want nothing", days, err)
	}
	l.now = l.now.Add(time.Hour)
	for _, when := range []string{"as facts", "added up"} {
		days, err := l.UploadDays(t.Context(), 7, l.now)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]store.UploadDay{want}, days); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		l.seal()
	}
	if got := l.count(`SELECT count(*) FROM upload_fact`); got != 0 {
		t.Errorf("%d facts are left after sealing, want none", got)
	}
}

// What became of the proofs of devices is told by whole days: nothing of today,
// and nothing that is older than a week.
func TestAttestedUploads(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	genuine := store.Fact{Authority: 7, Platform: store.PlatformIOS, OnsetAge: -1, Attestation: store.AttestationGenuine}
	doubtful := store.Fact{Authority: 8, Platform: store.PlatformAndroid, OnsetAge: -1, Attestation: store.AttestationDoubtful}
	for i, f := range []store.Fact{genuine, doubtful, doubtful} {
		l.add(l.upload(entest.Exposures(1+i, 1, l.now), func(up *store.Upload) { up.Fact = f }))
	}
	for _, tc := range []struct {
		why  string
		days int
		want map[string]int64
	}{
		{"today", 0, map[string]int64{}},
		{"tomorrow", 1, map[string]int64{"ios genuine": 1, "android doubtful": 2}},
		{"in a week", 7, map[string]int64{"ios genuine": 1, "android doubtful": 2}},
		{"later", 8, map[string]int64{}},
	} {
		now := l.now.Add(time.Hour).AddDate(0, 0, tc.days)
		if tc.days == 0 {
			l.now = now
			l.seal()
		}
		all, err := l.AttestedUploads(t.Context(), now)
		if err != nil || len(all) != 9 {
			t.Fatalf("%s: got %v, %v, want a row for each", tc.why, all, err)
		}
		got := map[string]int64{}
		for _, a := range all {
			if a.N != 0 {
				got[a.Platform.String()+" "+a.Attestation.String()] = a.N
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.why, diff)
		}
	}
}

// Code runs before and after each migration: a statement that was prepared
// before must not refuse uploads for as long as its connection lives.
func TestAddUploadAfterAMigration(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	db, err := store.OpenForUploads(t.Context(), database.Settings{URL: l.url, PoolMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, change := range []string{
		`SELECT`,
		`ALTER TABLE arrival ALTER COLUMN origin TYPE bigint`,
		`ALTER TABLE exposure ALTER COLUMN origin TYPE bigint`,
	} {
		l.exec(change)
		up := l.upload(entest.Exposures(10*i, 3, l.now))
		if got, err := db.AddUpload(t.Context(), l.now, up, entest.Rules().Release); err != nil || got.Inserted != 3 {
			t.Errorf("after %s: got %+v, %v, want 3 keys inserted", change, got, err)
		}
	}
}

// Who has a certificate and knows a published key may upload it under another
// start, and even revise that. It will be discarded; until then it must not
// make the owner's revision look forbidden for ever.
func TestAnotherStartDoesNotForbidTheRevision(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	likely := entest.Exposures(1, 1, l.now, report(exposure.Likely))
	elsewhen := entest.Exposures(1, 1, l.now, report(exposure.Likely), func(e *exposure.Exposure) { e.Start -= 144 })
	l.add(l.upload(likely))
	l.seal()
	l.add(l.upload(elsewhen))
	l.add(l.upload(entest.Exposures(1, 1, l.now, func(e *exposure.Exposure) { e.Start -= 144 }), withToken(elsewhen)))

	if _, err := l.try(l.upload(entest.Exposures(1, 1, l.now), withToken(likely))); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("got %v, want to be told to try again", err)
	}
	if got := l.seal(); got.Discarded != 2 {
		t.Errorf("got %+v, want 2 discarded", got)
	}
	if got := l.add(l.upload(entest.Exposures(1, 1, l.now), withToken(likely))); got.Revised != 1 {
		t.Errorf("got %+v, want the revision stored", got)
	}
}
