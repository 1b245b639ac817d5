package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/app"
	"enkeyserver/internal/config"
)

// ends names, to a child of this test, how its run ends.
const ends = "APP_TEST_ENDS"

// settings are a service's own.
type settings struct {
	app.Settings
	Ends string `envconfig:"APP_TEST_ENDS" desc:"how the run ends"`
}

// TestMain makes this binary a service when a test starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv(ends) != "" {
		app.Main(run)
	}
	os.Exit(m.Run())
}

func run(ctx context.Context, a *app.App, s settings) error {
	switch s.Ends {
	case "serve":
		return a.Serve(ctx, http.NewServeMux())
	case "error":
		return errors.Join(errors.New("no bucket"), errors.New("no key"))
	case "panic":
		panic("boom")
	case "password":
		fmt.Println(s.Database.Password)
	case "secret":
		value, err := a.Secret(ctx, "secret://file/found-elsewhere")
		fmt.Println(value)
		return err
	case "clock":
		fmt.Println(time.Until(a.Now()).Round(time.Minute))
	}
	return nil
}

// child prepares this binary as a service in an environment of its own.
func child(t *testing.T, how string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append([]string{ends + "=" + how, "PORT=0", "METRICS_PORT=0"}, env...)
	return cmd
}

func TestMainEnds(t *testing.T) {
	t.Parallel()
	const stopped = `{"time":"T","level":"INFO","msg":"stopped","service":"app.test"}` + "\n"
	for _, tc := range []struct {
		why, how string
		env      []string
		status   int
		out, err string
	}{
		{"well", "nil", nil, 0, "", stopped},
		{
			"with an error, on one line", "error", nil, 1, "",
			`{"time":"T","level":"ERROR","msg":"stopped by an error","service":"app.test","error":"no bucket; no key"}` + "\n",
		},
		{
			"with a wrong variable, on one plain line", "nil",
			[]string{"PORT=http"},
			1, "", "app.test: PORT must be a whole number, from 0 to 65535\n",
		},
		{
			"with a reference that is none", "nil",
			[]string{"DB_PASSWORD=secret://projects/x"},
			1, "",
			"app.test: DB_PASSWORD: a secret of Google Secret Manager is referred to by secret://gcp/projects/PROJECT/secrets/NAME, with /versions/VERSION if not the latest\n",
		},
		{
			"with a secret that is not there", "nil",
			[]string{"SECRET_MANAGER=file", "DB_PASSWORD=secret://none"},
			1, "",
			"app.test: DB_PASSWORD: there is no secret none in the files of secrets: create it, or correct the reference\n",
		},
		{
			"with a reference where secrets are looked for", "nil",
			[]string{"SECRETS_DIR=secret://none"},
			1, "",
			"app.test: SECRETS_DIR: secret:// references are not resolved here; set the value itself\n",
		},
		{
			"with another manager of secrets in production, before that is asked", "nil",
			[]string{"ENVIRONMENT=production", "DEBUG_GCP_SECRET_MANAGER_ENDPOINT=localhost:1", "DB_PASSWORD=secret://projects/p/secrets/s"},
			1, "",
			"app.test: DEBUG_GCP_SECRET_MANAGER_ENDPOINT must not be set when ENVIRONMENT=production: it is for development only\n",
		},
		{
			"with a weakened rule in production", "clock",
			[]string{"ENVIRONMENT=production", "DEBUG_CLOCK_OFFSET=1h"},
			1, "",
			`{"time":"T","level":"ERROR","msg":"stopped by an error","service":"app.test","error":"DEBUG_CLOCK_OFFSET must not be set when ENVIRONMENT=production: it is for development only"}` + "\n",
		},
		{
			"well, in development, and loudly", "clock",
			[]string{"DEBUG_CLOCK_OFFSET=48h", "LOG_FORMAT=text"},
			0, "48h0m0s\n",
			`time=T level=WARN msg="DEVELOPMENT ONLY: a rule that protects people is weakened" service=app.test variable=DEBUG_CLOCK_OFFSET` + "\n" +
				"time=T level=INFO msg=stopped service=app.test\n",
		},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			cmd := child(t, tc.how, tc.env...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // the status says it
			if got := cmd.ProcessState.ExitCode(); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
			if diff := cmp.Diff(tc.out, stdout.String()); diff != "" {
				t.Errorf("stdout (-want +got):\n%s", diff)
			}
			got := regexp.MustCompile(`20\d\d-[^ "]*`).ReplaceAllString(stderr.String(), "T")
			if diff := cmp.Diff(tc.err, got); diff != "" {
				t.Errorf("stderr (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMainRecovers(t *testing.T) {
	t.Parallel()
	cmd := child(t, "panic")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
	if text := string(out); strings.Count(text, "\n") != 1 || !strings.Contains(text, "panic: boom at enkeyserver/internal/app_test.run:") {
		t.Errorf("the panic is told as %s", text)
	}
}

func TestSignalsStopTheService(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			cmd := child(t, "serve", fmt.Sprintf("METRICS_PORT=%d", freePort(t)))
			stderr, w := io.Pipe()
			cmd.Stderr = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			s := listening(t, stderr)
			for _, url := range []string{s.url + "/health", s.metricsURL + "/metrics"} {
				if status, body := get(t, url); status != http.StatusOK {
					t.Errorf("%s gave %d %s", url, status, body)
				}
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("stopped with %v", err)
			}
		})
	}
}

func TestDevelopmentOnly(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why         string
		environment string
		environ     []string
		wantWarned  int
		wantErr     string
	}{
		{"nothing set", "production", []string{"PATH=/bin", "DEBUGGER=x"}, 0, ""},
		{"an empty variable is not set", "production", []string{"DEBUG_SEAL_NOW="}, 0, ""},
		{"refused in production", "production", []string{"DEBUG_SEAL_NOW=true"}, 0, "DEBUG_SEAL_NOW must not be set when ENVIRONMENT=production: it is for development only"},
		{"also when it says off", "production", []string{"DEBUG_SEAL_NOW=false"}, 0, "DEBUG_SEAL_NOW must not be set when ENVIRONMENT=production: it is for development only"},
		{"also when no service knows it", "production", []string{"DEBUG_ANYTHING=1"}, 0, "DEBUG_ANYTHING must not be set when ENVIRONMENT=production: it is for development only"},
		{"however production is written", " Prod", []string{"DEBUG_SEAL_NOW=true"}, 0, "DEBUG_SEAL_NOW must not be set when ENVIRONMENT=production: it is for development only"},
		{"warned of elsewhere, each one", "staging", []string{"DEBUG_SEAL_NOW=true", "DEBUG_CLOCK_OFFSET=1h"}, 2, ""},
		{"warned of when nobody said where", "", []string{"DEBUG_SEAL_NOW=true"}, 1, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			a := app.New(app.Settings{Environment: tc.environment}, slog.New(slog.NewTextHandler(&log, nil)), 0, 0)
			err := a.RefuseDebugging(tc.environ)
			if got := errorText(err); got != tc.wantErr {
				t.Errorf("error %q, want %q", got, tc.wantErr)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != tc.wantWarned {
				t.Errorf("%d warnings, want %d:\n%s", got, tc.wantWarned, log.String())
			}
		})
	}
}

func TestDevelopmentOnlyWarnsOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := app.New(app.Settings{}, slog.New(slog.NewTextHandler(&log, nil)), 0, 0)
	for _, set := range []bool{false, true, true} {
		if err := a.DevelopmentOnly("skipCertificate", set); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// The names are a contract with operators.
func TestSettingsNames(t *testing.T) {
	t.Parallel()
	got, err := config.Names(app.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"PORT", "METRICS_PORT", "ENVIRONMENT", "MAINTENANCE_MODE", "DEBUG_CLOCK_OFFSET", "LOG_LEVEL", "LOG_FORMAT",
		"DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD",
		"DB_SSLMODE", "DB_SSLCERT", "DB_SSLKEY", "DB_SSLROOTCERT", "DB_POOL_MAX_CONNS",
		"SECRET_MANAGER", "SECRET_CACHE_TTL", "SECRET_TIMEOUT", "SECRETS_DIR",
		"VAULT_TOKEN_FILE", "VAULT_KUBERNETES_ROLE", "VAULT_KUBERNETES_MOUNT", "VAULT_KUBERNETES_TOKEN_FILE",
		"DEBUG_GCP_SECRET_MANAGER_ENDPOINT", "DEBUG_AZURE_KEY_VAULT_ENDPOINT",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
