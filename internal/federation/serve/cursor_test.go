package serve_test

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	log := store.Log{Identity: [16]byte{1, 2, 3}, LastEpoch: 7}
	for _, p := range []store.Position{{}, {Epoch: 1, Ordinal: 1}, {Epoch: 7, Ordinal: math.MaxInt32}, {Epoch: 8}} {
		token := serve.TokenOf(log, p)
		got, ok := serve.ParseToken(token, log)
		if diff := cmp.Diff(p, got); !ok || diff != "" {
			t.Errorf("of %q came %v (-want +got):\n%s", token, ok, diff)
		}
	}
	good := serve.TokenOf(log, store.Position{Epoch: 3, Ordinal: 9})
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, to byte) string {
		b := slices.Clone(raw)
		b[at] = to
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for _, tc := range []struct{ why, token string }{
		{"nothing", ""},
		{"another version", changed(0, 2)},
		{"another log", changed(16, 9)},
		{"a place behind the end", serve.TokenOf(log, store.Position{Epoch: 8, Ordinal: 1})},
		{"an epoch that is still to come", serve.TokenOf(log, store.Position{Epoch: 9})},
		{"an epoch below zero", changed(17, 0x80)},
		{"a row below zero", changed(21, 0x80)},
		{"cut", good[:len(good)-1]},
		{"longer", good + "A"},
		{"padded", good + "=="},
		{"a line break inside", good[:10] + "\n" + good[11:]},
		{"shorter by line breaks", good[:len(good)-6] + "\n\n\n\r\n\n"},
		{"line breaks only", strings.Repeat("\n", len(good))},
		{"bits that do not count", good[:len(good)-1] + string(good[len(good)-1]+1)},
		{"not base64", strings.Repeat("?", len(good))},
	} {
		if p, ok := serve.ParseToken(tc.token, log); ok {
			t.Errorf("%s: %q is taken for %v", tc.why, tc.token, p)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	log := store.Log{Identity: [16]byte{1, 2, 3}, LastEpoch: 7}
	f.Add(serve.TokenOf(log, store.Position{Epoch: 3, Ordinal: 9}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := serve.ParseToken(text, log)
		if ok && serve.TokenOf(log, p) != text {
			t.Errorf("%q and %q are the same place", text, serve.TokenOf(log, p))
		}
		if ok && (p.Epoch < 0 || p.Ordinal < 0 || log.End().Before(p)) {
			t.Errorf("%q is %v", text, p)
		}
	})
}

// Whatever state comes, what follows holds all that was sealed after the time
// that the state tells, and ends.
func TestStates(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	// Three epochs, four hours apart: of each a key and, from the second on, the
	// revision of the key before.
	likely := entest.Exposures(1, 3, s.now(), func(e *exposure.Exposure) { e.Report = exposure.Likely })
	confirmed := entest.Exposures(1, 3, s.now())
	s.seal(sealed{Exposure: likely[0]})
	var at []time.Time
	for n := 1; n < 3; n++ {
		at = append(at, s.now())
		s.pass(4 * time.Hour)
		s.seal(sealed{Exposure: likely[n]}, sealed{Exposure: confirmed[n-1], revision: true})
	}
	at = append(at, s.now())
	ctx := s.as(subject)
	end := s.pull(ctx, &federationpb.FederationFetchRequest{}).state
	if got := end.GetKeyCursor().GetTimestamp(); got != at[2].Unix() {
		t.Errorf("at the end the cursor has the time %d, want that of the last epoch, %d", got, at[2].Unix())
	}

	otherLog, err := s.db.Log(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	future := serve.TokenOf(otherLog, store.Position{Epoch: 1000, Ordinal: 3})
	otherLog.Identity[0]++
	other := serve.TokenOf(otherLog, store.Position{Epoch: 3})
	cursor := func(at time.Time, token string) *federationpb.Cursor {
		return &federationpb.Cursor{Timestamp: at.Unix(), NextToken: token}
	}
	both := func(c *federationpb.Cursor) *federationpb.FetchState {
		return &federationpb.FetchState{KeyCursor: c, RevisedKeyCursor: c}
	}
	for _, tc := range []struct {
		why           string
		state         *federationpb.FetchState
		keys, revised int // from which index on
	}{
		{"none", nil, 0, 0},
		{"empty", &federationpb.FetchState{}, 0, 0},
		{"empty cursors", both(&federationpb.Cursor{}), 0, 0},
		{"our last one", end, 3, 2},
		{"our last one, without its times", both(&federationpb.Cursor{NextToken: end.GetKeyCursor().GetNextToken()}), 3, 2},
		{"the key cursor alone", &federationpb.FetchState{KeyCursor: end.GetKeyCursor()}, 3, 0},
		{"the revision cursor alone", &federationpb.FetchState{RevisedKeyCursor: end.GetRevisedKeyCursor()}, 0, 2},
		{"a time without a token: read up to there, less the margin", both(cursor(at[1], "")), 1, 0},
		{"a time between two epochs", both(cursor(at[1].Add(2*time.Hour), "")), 2, 1},
		{"a time just after an epoch: it comes again", both(cursor(at[1].Add(59*time.Minute), "")), 1, 0},
		{"a time long ago", both(cursor(at[0].Add(-1000*time.Hour), "")), 0, 0},
		{"the token of another log counts for nothing", both(cursor(at[1], other)), 1, 0},
		{"a token of the future counts for nothing", both(cursor(at[1], future)), 1, 0},
		{"garbage counts for nothing", both(cursor(at[1], "\x00 \u00ff garbage")), 1, 0},
		{"garbage without a time", both(&federationpb.Cursor{NextToken: "garbage"}), 0, 0},
		{"a time in the future: nobody has read that far", both(&federationpb.Cursor{Timestamp: s.now().Unix() + 1e9}), 2, 1},
		{"the last time there is", both(&federationpb.Cursor{Timestamp: math.MaxInt64}), 2, 1},
		{"before 1970", both(&federationpb.Cursor{Timestamp: -1}), 0, 0},
		{"the first time there is", both(&federationpb.Cursor{Timestamp: math.MinInt64}), 0, 0},
	} {
		t.Run(tc.why, func(t *testing.T) {
			for _, size := range []uint32{0, 1} {
				got := s.pull(ctx, &federationpb.FederationFetchRequest{State: tc.state, MaxExposureKeys: size})
				if diff := cmp.Diff(entestFrom(likely, tc.keys), got.keys); diff != "" {
					t.Errorf("keys in pages of %d (-want +got):\n%s", size, diff)
				}
				if diff := cmp.Diff(entestFrom(confirmed[:2], tc.revised), got.revised); diff != "" {
					t.Errorf("revisions in pages of %d (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

// entestFrom is nil for what is empty, as reading nothing is.
func entestFrom(all []exposure.Exposure, first int) []exposure.Exposure {
	if first >= len(all) {
		return nil
	}
	return all[first:]
}

// After a restore the log may be shorter than what neighbours have read, and
// goes on in another way.
func TestRestoredLog(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	for n := range 4 {
		s.pass(2 * time.Hour)
		s.seal(sealed{Exposure: entest.Exposure(n, s.now())})
	}
	state := s.pull(s.as(subject), &federationpb.FederationFetchRequest{}).state

	s.exec(`DELETE FROM exposure WHERE epoch > 2`)
	s.exec(`DELETE FROM epoch WHERE epoch > 2`)
	s.exec(`UPDATE log_head SET last_epoch = 2`)
	s.pass(2 * time.Hour)
	s.seal(sealed{Exposure: entest.Exposure(10, s.now())})
	got := s.pull(s.as(subject), &federationpb.FederationFetchRequest{State: state})
	if len(got.keys) != 1 || got.keys[0].Key != entest.Key(10) {
		t.Errorf("a place that the log has lost is followed by %d keys, want the one that is new", len(got.keys))
	}

	s.exec(`UPDATE log_head SET identity = gen_random_uuid()`)
	s.pass(2 * time.Hour)
	s.seal(sealed{Exposure: entest.Exposure(11, s.now())})
	got = s.pull(s.as(subject), &federationpb.FederationFetchRequest{State: got.state})
	if len(got.keys) != 2 {
		t.Errorf("a place in the log as it was is followed by %d keys, want the one from the hour before it and the one that is new", len(got.keys))
	}
}
