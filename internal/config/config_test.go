package config_test

import (
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/config"
)

type inner struct {
	Host  string   `envconfig:"T_HOST" default:"localhost" desc:"host name"`
	Port  int      `envconfig:"T_PORT" default:"80" min:"1" max:"65535" desc:"port"`
	Names []string `envconfig:"T_NAMES" desc:"names | words"`
}

type embedded struct {
	On bool `envconfig:"T_ON" default:"false" desc:"whether it is on"`
}

type settings struct {
	embedded
	Inner   inner
	Timeout time.Duration  `envconfig:"T_TIMEOUT" default:"5m" min:"1s" desc:"one run at most"`
	Format  string         `envconfig:"T_FORMAT" default:"json" options:"json,text" desc:"form of the log"`
	Place   url.URL        `envconfig:"T_PLACE" desc:"where it is"`
	Share   float64        `envconfig:"T_SHARE" default:"0.5" desc:"share of it"`
	Limits  map[string]int `envconfig:"T_LIMITS" desc:"limit by name"`
	Until   time.Time      `envconfig:"T_UNTIL" default:"2020-11-05T12:00:00Z" desc:"a time like 2020-11-05T12:00:00Z"`
	private int            //nolint:unused // Read must leave it alone
}

func defaults() settings {
	return settings{
		Inner:   inner{Host: "localhost", Port: 80},
		Timeout: 5 * time.Minute,
		Format:  "json",
		Share:   0.5,
		Until:   time.Date(2020, 11, 5, 12, 0, 0, 0, time.UTC),
	}
}

// The tests of Read change the environment, and so are not parallel.

func TestRead(t *testing.T) {
	for _, tc := range []struct {
		why  string
		env  map[string]string
		want func(s *settings)
	}{
		{"defaults", nil, func(*settings) {}},
		{"an empty variable is one that is not set", map[string]string{"T_PORT": "", "T_FORMAT": "", "T_HOST": ""}, func(*settings) {}},
		{"every type", map[string]string{
			"T_ON": "true", "T_HOST": "db", "T_PORT": "65535", "T_NAMES": "a,b", "T_TIMEOUT": "90s",
			"T_FORMAT": "text", "T_PLACE": "https://example.org/x", "T_SHARE": "1", "T_LIMITS": "a:1,b:2",
			"T_UNTIL": "2021-01-02T03:04:05Z",
		}, func(s *settings) {
			s.On = true
			s.Inner = inner{Host: "db", Port: 65535, Names: []string{"a", "b"}}
			s.Timeout = 90 * time.Second
			s.Format = "text"
			s.Place = url.URL{Scheme: "https", Host: "example.org", Path: "/x"}
			s.Share = 1
			s.Limits = map[string]int{"a": 1, "b": 2}
			s.Until = time.Date(2021, 1, 2, 3, 4, 5, 0, time.UTC)
		}},
		{"an option counts in any case", map[string]string{"T_FORMAT": "TEXT"}, func(s *settings) { s.Format = "text" }},
		{"the name of the outer field is no prefix", map[string]string{"INNER_T_HOST": "no", "INNER_HOST": "no"}, func(*settings) {}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			setenv(t, tc.env)
			want := defaults()
			tc.want(&want)

			var got settings
			if err := config.Read(t.Context(), &got, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	for _, tc := range []struct{ why, name, value, want string }{
		{"no number", "T_PORT", "s3same", "T_PORT must be a whole number, from 1 to 65535"},
		{"below the least", "T_PORT", "0", "T_PORT must be a whole number, from 1 to 65535"},
		{"above the most", "T_PORT", "65536", "T_PORT must be a whole number, from 1 to 65535"},
		{"a number is no duration", "T_TIMEOUT", "30", "T_TIMEOUT must be a duration such as 90s, 15m or 336h, at least 1s"},
		{"too short a duration", "T_TIMEOUT", "1ms", "T_TIMEOUT must be a duration such as 90s, 15m or 336h, at least 1s"},
		{"no option", "T_FORMAT", "s3same", "T_FORMAT must be one of json, text"},
		{"no truth", "T_ON", "s3same", "T_ON must be true or false"},
		{"a word is no URL", "T_PLACE", "s3same", "T_PLACE must be a URL with its scheme"},
		{"not a URL at all", "T_PLACE", "s3same://%zz", "T_PLACE must be a URL with its scheme"},
		{"no share", "T_SHARE", "s3same", "T_SHARE must be a number"},
		{"no map", "T_LIMITS", "s3same", "T_LIMITS must be a list like name:value,name:value"},
		{"a type of its own says what it accepts", "T_UNTIL", "s3same", "T_UNTIL must be a time like 2020-11-05T12:00:00Z"},
		{"a reference that nobody resolves", "T_HOST", "secret://s3same", "T_HOST: secret:// references are not resolved here; set the value itself"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Setenv(tc.name, tc.value)
			err := config.Read(t.Context(), new(settings), nil)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if got := err.Error(); got != tc.want {
				t.Errorf("error %q, want %q", got, tc.want)
			}
			if strings.Contains(err.Error(), "s3same") {
				t.Error("the error repeats the value, which may be a secret")
			}
		})
	}
}

func TestReadRequired(t *testing.T) {
	type required struct {
		Key string `envconfig:"T_KEY" required:"true" desc:"the URL of the key"`
	}
	const want = "T_KEY must be set: the URL of the key"
	for _, value := range []string{"", "file:///k"} {
		t.Setenv("T_KEY", value)
		var got required
		err := config.Read(t.Context(), &got, nil)
		if value == "" && (err == nil || err.Error() != want) {
			t.Errorf("unset: error %v, want %s", err, want)
		}
		if value != "" && (err != nil || got.Key != value) {
			t.Errorf("set to %s: got %q, %v", value, got.Key, err)
		}
	}
}

func TestReadSecrets(t *testing.T) {
	for _, tc := range []struct{ why, name, ref, wantErr string }{
		{"text", "T_HOST", "secret://host", ""},
		{"a number", "T_PORT", "secret://port", ""},
		{"a secret of the wrong type stays secret", "T_PORT", "secret://word", "T_PORT must be a whole number, from 1 to 65535"},
		{"an empty secret is no default", "T_HOST", "secret://empty", "T_HOST: the secret is empty"},
		{"the resolver's refusal", "T_HOST", "secret://none", "T_HOST: there is no such secret"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Setenv(tc.name, tc.ref)
			var got settings
			err := config.Read(t.Context(), &got, manager{})
			if text := errorText(err); text != tc.wantErr {
				t.Errorf("error %q, want %q", text, tc.wantErr)
			}
			if now := os.Getenv(tc.name); now != tc.ref {
				t.Errorf("afterwards the environment holds %q: programs started later would inherit it", now)
			}
			want := map[string]inner{
				"secret://host": {Host: "s3same", Port: 80},
				"secret://port": {Host: "localhost", Port: 5432},
			}
			if tc.wantErr == "" {
				if diff := cmp.Diff(want[tc.ref], got.Inner); diff != "" {
					t.Errorf("settings (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestMistakesInAStructAreFound(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why  string
		into any
		want string
	}{
		{"no pointer", settings{}, "config: config_test.settings is not a pointer to a struct"},
		{"nothing", nil, "config: <nil> is not a pointer to a struct"},
		{"a field without a variable", new(struct{ Port int }), "config: field Port of struct { Port int } names no variable in an envconfig tag"},
		{"a variable that cannot be set", new(struct {
			port int `envconfig:"T_X"`
		}), "is not exported"},
		{"a bound that is no number", new(struct {
			N int `envconfig:"T_X" min:"few"`
		}), "T_X must be a whole number, at least few"},
		{"a bound that nothing checks", new(struct {
			N float64 `envconfig:"T_X" min:"1"`
		}), "T_X must be a number, at least 1"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			if err := config.Read(t.Context(), tc.into, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
