package revision_test

import (
	"slices"
	"testing"
	"time"

	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

const day = 24 * time.Hour

// A key may be destroyed when the next one was made, and itself last kept, so
// long ago that tokens and all delays are over.
func TestSpent(t *testing.T) {
	t.Parallel()
	const (
		life = 16 * day
		all  = life + 2*day
	)
	type row struct{ made, kept time.Duration } // ago
	for _, tc := range []struct {
		why  string
		rows []row // newest first; their ids fall from their number to 1
		want []int
	}{
		{"none", nil, nil},
		{"the only one, however old", []row{{1000 * day, 1000 * day}}, nil},
		{"it was replaced a second too late", []row{{all, all}, {all + day, all + day}}, nil},
		{"it was replaced long enough ago", []row{{all + time.Second, all + time.Second}, {all + day, all + day}}, []int{1}},
		{"its own age does not matter", []row{{day, day}, {1000 * day, 1000 * day}}, nil},
		{"it is still in use somewhere", []row{{all + day, all + day}, {all + 2*day, all}}, nil},
		{"it was, long ago", []row{{all + day, all + day}, {all + 2*day, all + time.Second}}, []int{1}},
		{"one between two is spent alone", []row{{all + 2*day, all + 2*day}, {all + 3*day, all + 3*day}, {all + 4*day, day}}, []int{2}},
		{"a key of the future replaces nobody yet", []row{{-1000 * day, -1000 * day}, {30 * day, 30 * day}}, nil},
		{"but the next one does", []row{{-1000 * day, -1000 * day}, {30 * day, 30 * day}, {40 * day, 40 * day}}, []int{1}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			now := entest.Noon()
			var rows []store.RevisionKey
			for i, r := range tc.rows {
				rows = append(rows, store.RevisionKey{RevisionKeyID: len(tc.rows) - i, CreatedAt: now.Add(-r.made), KeptAt: now.Add(-r.kept)})
			}
			if got, _ := revision.Spent(rows, life, now); !slices.Equal(tc.want, got) {
				t.Errorf("keys %v are spent, want %v", got, tc.want)
			}
		})
	}
}

// An instance that cannot read the keys uses those that it has for the better
// part of a day; then it seals no more, since its key may have been replaced
// and forgotten elsewhere. It opens what it can.
func TestCutOffFromTheKeys(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	token := seal(t, k, 3)
	in.db.down.Store(true)
	in.wait(19 * time.Hour)
	ready(t, k)
	wantOpen(t, k, seal(t, k, 3), 3)
	in.wait(time.Hour)
	_, err := k.Seal(t.Context(), nil)
	wantTryAgain(t, err)
	wantTryAgain(t, k.Ready(t.Context()))
	wantOpen(t, k, token, 3)
	in.db.down.Store(false)
	in.wait(6 * time.Second)
	ready(t, k)
}

// An instance that cannot unwrap the newer key goes on with the older, for as
// long as it must, and notes so once an hour: everybody else keeps it too.
func TestAReplacedKeyGoesOn(t *testing.T) {
	t.Parallel()
	in := install(t)
	k := in.keyring()
	ready(t, k)
	in.wait(time.Hour)
	in.addKey(t)
	in.wrapper.breaks(errDown)
	for range 40 {
		in.wait(day / 2)
		ready(t, k)
	}
	late := seal(t, k, 3)
	if got := keyIDOf(t, late); got != 1 {
		t.Fatalf("key %d seals, want the one that is known", got)
	}
	rows, err := in.db.RevisionKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if noted := in.clock().Sub(rows[1].KeptAt); noted != 0 || !rows[0].KeptAt.Equal(rows[0].CreatedAt) {
		t.Errorf("it was noted %s ago that the key is kept; the other's note is of %s", noted, rows[0].KeptAt)
	}
	in.wrapper.mend()
	wantOpen(t, in.keyring(), late, 3)
	in.wait(14 * day)
	wantOpen(t, in.keyring(), late, 3)
}
