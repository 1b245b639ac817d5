package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// signingKey is written as name, from, leads and thru: days, and - for none.
func signingKey(t *testing.T, text string) store.SigningKeyConfig {
	t.Helper()
	words := strings.Fields(text)
	at := func(word string) time.Time {
		if word == "-" {
			return time.Time{}
		}
		d, err := time.ParseDuration(word + "h")
		if err != nil {
			t.Fatal(err)
		}
		return entest.Noon().Add(24 * d)
	}
	return store.SigningKeyConfig{Name: words[0], From: at(words[1]), Leads: at(words[2]), Thru: at(words[3])}
}

func TestSigningOrder(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		keys []string // name, from, leads, thru; in days from now
		want string
	}{
		{"none", nil, ""},
		{"one for ever", []string{"a - - -"}, "a"},
		{"one that begins now", []string{"a 0 - -"}, "a"},
		{"one that ends now", []string{"a - - 0"}, ""},
		{"one that is to come", []string{"a 1 - -"}, ""},
		{"the newest leads", []string{"a - - -", "b -2 - -", "c -1 - -"}, "c b a"},
		{"of two that began together the last name leads", []string{"a -1 - -", "b -1 - -"}, "b a"},
		{"one that is rehearsed stands behind", []string{"a - - -", "b -1 1 -"}, "a b"},
		{"also behind older ones", []string{"a - - -", "b -3 - -", "c -1 1 -"}, "b a c"},
		{"it leads from its day", []string{"a - - -", "b -1 0 -"}, "b a"},
		{"who came to lead last is first, whenever it was added", []string{"a -9 -1 -", "b -2 -2 -"}, "a b"},
		{"of two that are rehearsed the sooner is first", []string{"a - - -", "b -1 2 -", "c -1 1 -"}, "a c b"},
		{"without a leader a rehearsed one must do", []string{"a - - 0", "b -1 1 -"}, "b"},
		{"to lead before it begins means from the beginning", []string{"a -2 - -", "b -1 -3 -"}, "b a"},
		{"phones read ten", []string{
			"a -1 - -", "b -2 - -", "c -3 - -", "d -4 - -", "e -5 - -", "f -6 - -", "g -7 - -", "h -8 - -", "i -9 - -", "j -10 - -", "k -11 - -",
		}, "a b c d e f g h i j"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var keys []store.SigningKeyConfig
			for _, text := range tc.keys {
				keys = append(keys, signingKey(t, text))
			}
			var got []string
			for _, k := range store.SigningOrder(keys, entest.Noon()) {
				got = append(got, k.Name)
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

// A batch keeps the keys with which it was cut, in their order, whatever
// becomes of them; the index is signed by those of its own time, or the last.
func TestBatchKeepsItsKeys(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.addExport("us", "US")
	l.exec(`
		INSERT INTO signing_key (name, key_url, key_id, key_version, valid_from, leads_from)
		VALUES ('us-2', 'file:///us-2.pem', '310', 'v2', $1, $2)`, l.now.Add(-time.Hour), l.now.Add(24*time.Hour))
	l.exec(`INSERT INTO export_signing_key SELECT export_id, 'us-2' FROM export`)
	l.add(l.upload(entest.Exposures(1, 3, l.now)))
	l.now = l.now.Add(time.Hour)
	l.seal()
	signed, err := l.Signed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]store.Signed{"us": {Unfinished: map[string]int{"us-1": 1, "us-2": 1}}}, signed); diff != "" {
		t.Errorf("before there is a file (-want +got):\n%s", diff)
	}

	l.now = l.now.Add(48 * time.Hour)
	l.exec(`UPDATE signing_key SET valid_thru = $1 WHERE name = 'us-1'`, l.now)
	b, ok, err := l.LeaseBatch(t.Context(), l.now, time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if ok, err := l.CompleteBatch(t.Context(), b, []store.File{{Number: 1, Object: "us/1.zip", Size: 9, SHA256: []byte{1}}}, l.now); err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := []store.SigningKey{
		{Name: "us-1", URL: "file:///us-1.pem", ID: "310", Version: "v1"},
		{Name: "us-2", URL: "file:///us-2.pem", ID: "310", Version: "v2"},
	}
	if signed, err = l.Signed(t.Context()); err != nil {
		t.Fatal(err)
	}
	newest := store.SignedFile{Bucket: "mem://", Object: "us/1.zip", Size: 9, CutAt: l.now.Add(-48 * time.Hour), SigningKeys: want}
	if diff := cmp.Diff(map[string]store.Signed{"us": {Newest: newest}}, signed); diff != "" {
		t.Errorf("with a file (-want +got):\n%s", diff)
	}

	for _, tc := range []struct {
		why  string
		wait time.Duration
		want []store.SigningKey
	}{
		{"the keys of its own time", 0, want[1:]},
		{"the last that were valid", 240 * time.Hour, want[1:]},
	} {
		if tc.wait > 0 {
			l.exec(`UPDATE signing_key SET valid_thru = $1 WHERE name = 'us-2'`, l.now.Add(time.Hour))
		}
		indexes, err := l.UnwrittenIndexes(t.Context(), l.now.Add(tc.wait))
		if err != nil || len(indexes) != 1 {
			t.Fatal(len(indexes), err)
		}
		if diff := cmp.Diff(tc.want, indexes[0].SigningKeys); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.why, diff)
		}
	}
}
