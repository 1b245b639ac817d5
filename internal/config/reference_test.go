package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/config"
)

const wantReference = "" +
	"| `T_ON` | `false` | whether it is on |\n" +
	"| `T_HOST` | `localhost` | host name |\n" +
	"| `T_PORT` | `80` | port, from 1 to 65535 |\n" +
	"| `T_NAMES` |  | names \\| words |\n" +
	"| `T_TIMEOUT` | `5m` | one run at most, at least 1s |\n" +
	"| `T_FORMAT` | `json` | form of the log: json, text |\n" +
	"| `T_PLACE` |  | where it is |\n" +
	"| `T_SHARE` | `0.5` | share of it |\n" +
	"| `T_LIMITS` |  | limit by name |\n" +
	"| `T_UNTIL` | `2020-11-05T12:00:00Z` | a time like 2020-11-05T12:00:00Z |\n"

func TestReference(t *testing.T) {
	t.Parallel()
	for why, of := range map[string]any{"a struct": settings{}, "a pointer": (*settings)(nil)} {
		var b strings.Builder
		if err := config.Reference(&b, of); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantReference, b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", why, diff)
		}
	}
}

func TestReferenceOfARequiredVariable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := config.Reference(&b, struct {
		Key string `envconfig:"T_KEY" required:"true" desc:"the key"`
	}{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("| `T_KEY` | required | the key |\n", b.String()); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	got, err := config.Names(settings{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"T_ON", "T_HOST", "T_PORT", "T_NAMES", "T_TIMEOUT", "T_FORMAT", "T_PLACE", "T_SHARE", "T_LIMITS", "T_UNTIL"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, of := range []any{nil, 7, new(int)} {
		if _, err := config.Names(of); err == nil {
			t.Errorf("Names(%v) is no error", of)
		}
	}
}
