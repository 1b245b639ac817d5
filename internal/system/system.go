// Package system runs the whole of it for real: a private PostgreSQL, the
// services as processes of their own, a bucket that phones download from, and
// the operator's command line. The demo, the end-to-end tests and the
// benchmarks stand on it.
package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"enkeyserver/internal/attestation"
	"enkeyserver/internal/blob"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/database"
	"enkeyserver/internal/database/cluster"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/phone"
	"enkeyserver/internal/store"
)

// databaseName is that of the system's database in its private server.
const databaseName = "en"

// Options shape a system.
type Options struct {
	// Binaries is the folder with the built services; when empty they are built.
	Binaries string

	// Clock is what the services' clocks say when the system starts, and go on
	// from; zero is the true time.
	Clock time.Time

	// Exports are what is published.
	Exports []configuration.Export

	// Attestation is what the devices of an app must prove, by the app's id.
	Attestation map[string]attestation.Policy

	// Environment is for every service, on top of what any system sets.
	Environment map[string]string

	// Cloud is where files, keys and secrets are kept; nil: in the system's
	// folder.
	Cloud *Cloud

	// Durable waits for the disk at each commit, as production does.
	Durable bool
}

// System is a running key server with everything around it. Close it: nothing
// of it then remains.
type System struct {
	Folder    string          // everything that the system writes, but for the database
	BucketURL string          // where phones download from, with the slash at its end
	Authority phone.Authority // whose certificates the system believes
	Store     *store.DB

	binaries string
	options  Options
	cluster  *cluster.Cluster
	bucket   *http.Server
	starter  *starter

	mu        sync.Mutex
	exports   []configuration.Export        // applied last
	policies  map[string]attestation.Policy // by app
	amend     []func(f *configuration.File)
	secrets   map[string]string // references, by the variable that they stand in
	offset    time.Duration
	processes []*Process
	logs      int
}

// New starts everything but the services: see Launch and Up. When it fails
// nothing is left behind.
func New(ctx context.Context, o Options) (_ *System, err error) {
	defer errs.Wrap(&err, "system.New")
	folder, err := os.MkdirTemp("", "enkeyserver-")
	if err != nil {
		return nil, err
	}
	s := &System{Folder: folder, options: o, starter: newStarter(), policies: map[string]attestation.Policy{}, secrets: map[string]string{}}
	maps.Copy(s.policies, o.Attestation)
	if !o.Clock.IsZero() {
		s.offset = time.Until(o.Clock)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *System) prepare(ctx context.Context) error {
	for _, dir := range []string{"log", "keys", "bucket"} {
		if err := os.Mkdir(filepath.Join(s.Folder, dir), 0o755); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{
		s.build,
		s.startDatabase,
		s.serveBucket,
		s.createKeys,
		func(ctx context.Context) error { return s.Apply(ctx, s.options.Exports...) },
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// build makes the services, unless somebody has.
func (s *System) build(ctx context.Context) error {
	if s.options.Binaries == "" {
		s.binaries = filepath.Join(s.Folder, "bin")
		return Build(ctx, s.binaries)
	}
	var err error
	s.binaries, err = filepath.Abs(s.options.Binaries)
	return err
}

// Build compiles all services into a folder. Flags go to "go build"; without any
// the programs are as they are released.
func Build(ctx context.Context, folder string, flags ...string) (err error) {
	defer errs.Wrap(&err, "Build")
	args := append([]string{"build"}, flags...)
	args = append(args, "-o", folder+string(filepath.Separator), "enkeyserver/cmd/...")
	cmd := exec.CommandContext(ctx, "go", args...)
	if len(flags) == 0 {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func (s *System) startDatabase(ctx context.Context) (err error) {
	s.cluster, err = cluster.Start(ctx, cluster.Settings{
		Durable: s.options.Durable,
		// As in production: in its usual form a row that breaks a constraint
		// is written to the server's log, key and all.
		Extra: map[string]string{"log_error_verbosity": "terse"},
	})
	if err != nil {
		return err
	}
	if err := s.createDatabase(ctx); err != nil {
		return err
	}
	if err := s.keepSecrets(ctx); err != nil {
		return err
	}
	if _, err := s.Run(ctx, "migrate", "up"); err != nil {
		return err
	}
	s.Store, err = store.Open(ctx, database.Settings{URL: s.dsn(), PoolMax: 4})
	return err
}

func (s *System) createDatabase(ctx context.Context) error {
	db, err := database.Open(ctx, database.Settings{URL: s.cluster.DSN("postgres")})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := untilReady(ctx, db.Ping); err != nil {
		return err
	}
	_, err = db.Exec(ctx, "CREATE DATABASE "+databaseName)
	return err
}

func (s *System) dsn() string { return s.cluster.DSN(databaseName) }

// serveBucket stands in for the CDN.
func (s *System) serveBucket(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.BucketURL = "http://" + listener.Addr().String() + "/"
	s.bucket = &http.Server{Handler: blob.Handler(s.openBucket()), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.bucket.Serve(listener) }()
	return nil
}

// Now is what the services' clocks say.
func (s *System) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.offset).UTC()
}

// Travel moves the clock of every service that is started from now on.
func (s *System) Travel(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset += d
}

// environment is all that a program of the system sees: nothing of ours, so
// that a DATABASE_URL of the person who runs this is never touched.
func (s *System) environment() []string {
	s.mu.Lock()
	offset := s.offset
	s.mu.Unlock()
	env := map[string]string{
		"PATH":               os.Getenv("PATH"),
		"HOME":               s.Folder,
		"DATABASE_URL":       s.dsn(),
		"PORT":               "0",
		"METRICS_PORT":       "0",
		"LOG_FORMAT":         "json",
		"DEBUG_CLOCK_OFFSET": offset.String(),
		"REVISION_TOKEN_KEY": s.wrappingKeyURL(),
	}
	if s.options.Cloud != nil {
		maps.Copy(env, s.options.Cloud.Environment)
	}
	maps.Copy(env, s.secrets)
	maps.Copy(env, s.options.Environment)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, name+"="+env[name])
	}
	return lines
}

// Run runs a program of the system to its end, as an operator does, and gives
// what it printed on its standard output.
func (s *System) Run(ctx context.Context, program string, args ...string) (_ string, err error) {
	defer errs.Wrap(&err, "Run(%s %v)", program, args)
	cmd := exec.Command(filepath.Join(s.binaries, program), args...)
	cmd.Dir = s.Folder
	cmd.Env = s.environment()
	log, err := s.logFile(program)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, log), log
	err = errors.Join(s.await(ctx, cmd), log.Close())
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, tail(log.Name()))
	}
	return out.String(), nil
}

// await runs a command to its end, or until ctx ends.
func (s *System) await(ctx context.Context, cmd *exec.Cmd) error {
	isolate(cmd)
	if err := s.starter.start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	return errors.Join(cmd.Wait(), ctx.Err())
}

// logFile makes a file for the output of one process.
func (s *System) logFile(program string) (*os.File, error) {
	s.mu.Lock()
	s.logs++
	name := fmt.Sprintf("%05d-%s.log", s.logs, program)
	s.mu.Unlock()
	return os.Create(filepath.Join(s.Folder, "log", name))
}

// Output is everything that any process of the system has printed so far.
func (s *System) Output() ([]byte, error) {
	names, err := filepath.Glob(filepath.Join(s.Folder, "log", "*.log"))
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, text...)
	}
	return all, nil
}

func (s *System) adopt(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = append(s.processes, p)
}

// running gives all services that have been started and not ended.
func (s *System) running() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = slices.DeleteFunc(s.processes, func(p *Process) bool { return !p.Running() })
	return slices.Clone(s.processes)
}

// listening gives the instances of a service that can be called.
func (s *System) listening(service string) []*Process {
	return slices.DeleteFunc(s.running(), func(p *Process) bool { return p.Service != service || p.URL() == "" })
}

// CrashDatabase ends PostgreSQL without a goodbye.
func (s *System) CrashDatabase(ctx context.Context) error { return s.cluster.Kill(ctx) }

// RestartDatabase brings PostgreSQL up again.
func (s *System) RestartDatabase(ctx context.Context) error { return s.cluster.Restart(ctx) }

// Close ends every process, and removes everything. What fails does not stop
// the rest.
func (s *System) Close() error {
	err := s.Down()
	if s.bucket != nil {
		err = errors.Join(err, s.bucket.Close())
	}
	if s.Store != nil {
		s.Store.Close()
	}
	if s.cluster != nil {
		err = errors.Join(err, s.cluster.Stop())
	}
	s.starter.close()
	return errors.Join(err, os.RemoveAll(s.Folder))
}
