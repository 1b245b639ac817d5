package phone_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// The vectors are those of the published specification: a phone that made other
// identifiers would prove nothing about real ones.
func TestIdentifiersAreThePublishedOnes(t *testing.T) {
	t.Parallel()
	var vectors struct {
		Key    string   `json:"temporary_exposure_key"`
		Start  int32    `json:"rolling_start_interval_number"`
		Period int32    `json:"rolling_period"`
		RPIK   string   `json:"rpik"`
		RPIs   []string `json:"rpi"`
	}
	raw, err := os.ReadFile("testdata/rpi-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	tek, err := hex.DecodeString(vectors.Key)
	if err != nil {
		t.Fatal(err)
	}
	key := exposure.Key(tek)

	if got := hex.EncodeToString(phone.IdentifierKey(key)); got != vectors.RPIK {
		t.Errorf("identifier key is %s, want %s", got, vectors.RPIK)
	}
	var got []string
	next := exposure.Interval(vectors.Start)
	for at, id := range phone.Identifiers(key, exposure.Interval(vectors.Start), vectors.Period) {
		if at != next {
			t.Fatalf("interval %d comes after %d", at, next-1)
		}
		next++
		got = append(got, hex.EncodeToString(id[:]))
	}
	if diff := cmp.Diff(vectors.RPIs, got); diff != "" {
		t.Errorf("identifiers (-want +got):\n%s", diff)
	}
}

func BenchmarkIdentifiersOfOneKey(b *testing.B) {
	for b.Loop() {
		for range phone.Identifiers(exposure.Key{1}, 0, exposure.IntervalsPerDay) {
		}
	}
}
