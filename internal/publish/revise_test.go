package publish_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"enkeyserver/internal/database"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
)

// Every change of a diagnosis that a phone may try, of keys that still wait and
// of keys that are published.
func TestRevision(t *testing.T) {
	t.Parallel()
	const (
		ok        = ""
		forbidden = "invalid_report_type_transition"
	)
	reports := []exposure.Report{exposure.Confirmed, exposure.Likely, exposure.Self, exposure.Revoked}
	want := map[exposure.Report][4]string{
		exposure.Confirmed: {ok, forbidden, forbidden, forbidden},
		exposure.Likely:    {ok, ok, forbidden, ok},
		exposure.Self:      {ok, ok, ok, ok},
	}
	for from, codes := range want {
		for i, to := range reports {
			for _, sealed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s to %s sealed %t", from, to, sealed), func(t *testing.T) {
					t.Parallel()
					d := newDesk(t)
					keys := entest.Upload(1, 3, d.now())
					token := d.accept(d.upload(keys, report(from))).RevisionToken
					if sealed {
						d.seal()
					}
					revisions := 0
					if codes[i] == ok && to != from {
						revisions = 3
					}
					a := d.send(d.upload(keys, report(to)).withToken(token))
					if a.Code != codes[i] || (a.Status == 200) != (codes[i] == ok) {
						t.Errorf("got status %d, code %q; want code %q", a.Status, a.Code, codes[i])
					}
					if n := d.count(`SELECT count(*)::int FROM arrival WHERE event = 1`); n != revisions {
						t.Errorf("%d revisions are stored, want %d", n, revisions)
					}
				})
			}
		}
	}
}

// A phone tells a story over days, always with its newest token.
func TestRevisionStory(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	first := entest.Upload(1, 3, d.now())
	later := append(entest.Upload(10, 1, d.now()), first...)[:1]
	later[0].Start += exposure.IntervalsPerDay // today's key

	token1 := d.accept(d.upload(first, report(exposure.Self))).RevisionToken
	d.pass(time.Hour)
	if a := d.send(d.upload(first, report(exposure.Self))); a.Code != "missing_revision_token" {
		t.Errorf("known keys without a token: got code %q", a.Code)
	}
	if a := d.send(d.upload(first, report(exposure.Self)).withToken("bm9pc2U=")); a.Code != "missing_revision_token" {
		t.Errorf("known keys with noise: got code %q", a.Code)
	}

	// Unchanged keys, and a new one: the new token covers all of them.
	all := slices.Concat(later, first)
	second := d.accept(d.upload(all, report(exposure.Self)).withToken(token1))
	if second.InsertedExposures != 1 {
		t.Errorf("got %d new keys, want 1", second.InsertedExposures)
	}
	d.pass(time.Hour)
	if a := d.send(d.upload(all, report(exposure.Likely)).withToken(token1)); a.Code != "invalid_revision_token" {
		t.Errorf("the older token does not cover the new key: got code %q", a.Code)
	}
	shorter := entest.Upload(1, 3, d.now().Add(-time.Hour))
	shorter[0].Period--
	if a := d.send(d.upload(shorter, report(exposure.Likely)).withToken(second.RevisionToken)); a.Code != "invalid_revision_token" {
		t.Errorf("another period: got code %q", a.Code)
	}
	d.seal()

	third := d.accept(d.upload(all, report(exposure.Likely)).withToken(second.RevisionToken))
	d.pass(time.Minute)
	d.accept(d.upload(all, report(exposure.Likely)).withToken(third.RevisionToken)) // unchanged
	if a := d.send(d.upload(all).withToken(third.RevisionToken)); a.Code != "key_already_revised" {
		t.Errorf("a second revision: got code %q", a.Code)
	}
	if n := d.count(`SELECT count(*)::int FROM arrival WHERE event = 1 AND report = 2`); n != 4 {
		t.Errorf("%d revisions, want 4", n)
	}
}

// A key that is just young enough to be sent is young enough to be revised.
func TestRevisionOfTheOldestKey(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	oldest := entest.Upload(1, 1, d.now())
	oldest[0].Period = 10
	oldest[0].Start = int32(exposure.IntervalOf(d.now().Add(-entest.Rules().MaxAge))) - oldest[0].Period
	onset := func(up upload) upload {
		up.SymptomOnset = oldest[0].Start
		return up
	}
	token := d.accept(onset(d.upload(oldest, report(exposure.Likely)))).RevisionToken
	if a := d.send(onset(d.upload(oldest).withToken(token))); a.Status != 200 {
		t.Errorf("got status %d, code %q, want the revision accepted", a.Status, a.Code)
	}
}

// An app may be configured to need no token.
func TestSkipRevisionToken(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec(`UPDATE authorized_app SET skip_revision_token = true`)
	d.refresh()
	keys := entest.Upload(1, 3, d.now())
	d.accept(d.upload(keys, report(exposure.Likely)))
	d.accept(d.upload(keys))
	if n := d.count(`SELECT count(*)::int FROM arrival WHERE event = 1`); n != 3 {
		t.Errorf("%d revisions, want 3", n)
	}
}

// What phones would still believe if somebody replayed it is not published.
func TestEmbargo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why     string
		sameDay bool
		after   time.Duration
		want    int
	}{
		{"yesterday's key goes at once, today's waits", false, 0, 1},
		{"when the day is over it still waits", false, 13 * time.Hour, 1},
		{"two hours later it goes", false, 14 * time.Hour, 2},
		{"in development it may go at once", true, 0, 2},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(s *publish.Settings, _ *publish.Deps) { s.ReleaseSameDay = tc.sameDay })
			d.accept(d.upload([]exposure.Submitted{entest.Submitted(1, d.now(), 1), entest.Submitted(2, d.now(), 0)}))
			d.pass(tc.after)
			if got := d.seal().Keys; got != tc.want {
				t.Errorf("%d keys are published, want %d", got, tc.want)
			}
		})
	}
}

// What is stored of a key is what will be published.
func TestStored(t *testing.T) {
	t.Parallel()
	type row struct {
		Start    int32 `db:"start_interval"`
		Period   int16
		Risk     int16
		Report   int16
		Onset    int16
		Traveler bool
		Regions  []string
	}
	now := entest.Noon()
	start := int32(entest.DaysAgo(now, 1))
	for _, tc := range []struct {
		why  string
		risk int32
		edit func(*upload)
		as   exposure.Report
		want row
	}{
		{"regions are upper case, risk follows the report", 0, func(*upload) {}, exposure.Confirmed, row{start, 144, 2, 1, 2, false, []string{"US"}}},
		{"a phone's own risk stays", 7, func(*upload) {}, exposure.Confirmed, row{start, 144, 7, 1, 2, false, []string{"US"}}},
		{"likely", 0, func(*upload) {}, exposure.Likely, row{start, 144, 4, 2, 2, false, []string{"US"}}},
		{"user report", 0, func(*upload) {}, exposure.Self, row{start, 144, 5, 3, 2, false, []string{"US"}}},
		{"a traveller", 0, func(up *upload) { up.Traveler = true }, exposure.Confirmed, row{start, 144, 2, 1, 2, true, []string{"US"}}},
		{"without an onset, four days before the upload", 0, func(up *upload) { up.SymptomOnset = 0 }, exposure.Confirmed, row{start, 144, 2, 1, 3, false, []string{"US"}}},
		{"an onset of long ago counts as none", 0, func(up *upload) { up.SymptomOnset = 1 }, exposure.Confirmed, row{start, 144, 2, 1, 3, false, []string{"US"}}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			key := entest.Submitted(1, now, 1, func(s *exposure.Submitted) { s.Risk = tc.risk })
			up := d.upload([]exposure.Submitted{key}, report(tc.as))
			tc.edit(&up)
			d.accept(up)
			got, _, err := database.One[row](context.Background(), d.store, `
				SELECT start_interval, period, risk, report, onset, traveler, regions FROM arrival`)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tc.want, got); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}
