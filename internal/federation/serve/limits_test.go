package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/store"
)

// When the time is up a page holds what there is, and the place that goes with
// it, though that be no key at all.
func TestPageEndsWithItsTime(t *testing.T) {
	t.Parallel()
	late, early := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	at := func(epoch, ordinal int32) store.Position { return store.Position{Epoch: epoch, Ordinal: ordinal} }
	for _, tc := range []struct {
		why     string
		room    int
		enough  time.Time
		step    int // keys that a reading finds
		keys    int
		reached store.Position
	}{
		{"time enough", 10, early, 1, 9, at(10, 0)},
		{"full", 3, early, 1, 3, at(4, 0)},
		{"late: one step, so that somebody who is always late comes to an end", 10, late, 1, 1, at(2, 0)},
		{"late, with nothing found", 10, late, 0, 0, at(2, 0)},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			// Each reading comes one epoch further.
			read := func(_ context.Context, _ store.Share, from, _ store.Position, limit int) (found []store.SharedKey, _ store.Position, _ error) {
				for range min(tc.step, limit) {
					found = append(found, store.SharedKey{Exposure: entest.Exposure(1, entest.Noon()), At: at(from.Epoch, 1)})
				}
				return found, at(from.Epoch+1, 0), nil
			}
			keys, reached, err := serve.Fill(t.Context(), tc.room, tc.enough, read, at(1, 0), at(10, 0))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.reached, reached); len(keys) != tc.keys || diff != "" {
				t.Errorf("%d keys, want %d; reached (-want +got):\n%s", len(keys), tc.keys, diff)
			}
		})
	}
}

// A neighbour's deadline is honoured even when the database hangs.
func TestDeadline(t *testing.T) {
	t.Parallel()
	// Shorter than the database lets a statement wait for a lock.
	s := newStation(t, func(settings *serve.Settings) { settings.Timeout = 1500 * time.Millisecond })
	s.allow("ca", subject, []string{"US"}, nil)
	s.awaitAnswer()

	conn, err := s.db.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), `BEGIN; LOCK TABLE log_head`); err != nil {
		t.Fatal(err)
	}
	s.expect(s.as(subject), "by our own deadline", codes.DeadlineExceeded)
	ctx, cancel := context.WithTimeout(s.as(subject), 50*time.Millisecond)
	defer cancel()
	s.expect(ctx, "by the neighbour's", codes.DeadlineExceeded)
	if _, err := conn.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	s.awaitAnswer()
}

// awaitAnswer asks until there is one: on a machine that is busy not everything
// is in time.
func (s *station) awaitAnswer() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if s.code(s.as(subject)) == codes.OK {
			return
		}
	}
	s.t.Fatal("there is no answer")
}

// A neighbour that asks without end is slowed down and then refused; the others
// do not notice.
func TestNeighbourThatNeverEnds(t *testing.T) {
	t.Parallel()
	s := newStation(t, func(settings *serve.Settings) { settings.Rate = 1 })
	s.allow("ca", subject, []string{"US"}, nil)
	s.allow("mx", "mx-puller", []string{"US"}, nil)
	ctx, others := s.as(subject), s.as("mx-puller")
	var answers [codes.Unauthenticated + 1]atomic.Int32
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() { answers[s.code(ctx)].Add(1) })
	}
	s.expect(others, "another neighbour", codes.OK)
	all.Wait()
	ok, refused := answers[codes.OK].Load(), answers[codes.ResourceExhausted].Load()
	if ok < 1 || refused < 20 || ok+refused != 60 {
		t.Errorf("of 60 requests at once %d were answered and %d refused", ok, refused)
	}
	s.expect(others, "another neighbour, afterwards", codes.OK)
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"US"}, nil)
	ask := &federationpb.FederationFetchRequest{IncludeRegions: []string{strings.Repeat("X", 100<<10)}}
	if _, err := s.try(s.as(subject), ask); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 100 KiB is answered with %v", err)
	}
}

// Servers and clients that know only the contract understand ours.
func TestForeignerAsks(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	s.allow("ca", subject, []string{"CA", "US"}, nil)
	s.seal(keys(entest.Exposures(1, 3, s.now()))...)
	foreigner := federationtest.NewForeigner(t)
	ask := &federationpb.FederationFetchRequest{IncludeRegions: []string{"US"}, MaxExposureKeys: 2}
	got := 0
	for page := 1; ; page++ {
		answer, err := foreigner.Fetch(s.as(subject), s.conn, ask)
		if err != nil {
			t.Fatal(err)
		}
		got += len(s.read(answer.GetKeys()))
		ask.State = answer.GetNextFetchState()
		if !answer.GetPartialResponse() {
			break
		}
		if page > 5 {
			t.Fatal("it does not end")
		}
	}
	if got != 3 {
		t.Errorf("%d keys, want 3", got)
	}
}

func TestNoReflection(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	err := s.conn.Invoke(t.Context(), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &federationpb.Cursor{}, &federationpb.Cursor{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("reflection answers %v", err)
	}
}

// One record a request: what it says of failures is for the operator, what the
// caller reads is meant for it.
func TestRecords(t *testing.T) {
	t.Parallel()
	const method = "/Federation/Fetch"
	for _, tc := range []struct {
		why     string
		method  string
		handle  grpc.UnaryHandler
		code    codes.Code
		message string
		record  string
	}{
		{"an answer", method, func(context.Context, any) (any, error) { return 1, nil }, codes.OK, "", `level=INFO msg=request method=gRPC route=/Federation/Fetch status=OK duration=D`},
		{
			"a refusal", method, func(context.Context, any) (any, error) {
				return nil, errs.From(errors.New("its subject is another one"), errs.KindDenied, "unauthenticated", "not accepted")
			}, codes.Unauthenticated, "not accepted",
			`level=INFO msg=request method=gRPC route=/Federation/Fetch status=Unauthenticated duration=D code=unauthenticated error="not accepted: its subject is another one"`,
		},
		{
			"asking too often", method, func(context.Context, any) (any, error) {
				return nil, errs.New(errs.KindBusy, "too_often", "you ask too often")
			}, codes.ResourceExhausted, "you ask too often",
			`level=INFO msg=request method=gRPC route=/Federation/Fetch status=ResourceExhausted duration=D code=too_often error="you ask too often"`,
		},
		{
			"the database", method, func(context.Context, any) (any, error) { return nil, errors.New("Log: connection refused") },
			codes.Unavailable, "the server could not do this now, try again later",
			`level=ERROR msg=request method=gRPC route=/Federation/Fetch status=Unavailable duration=D code=internal_error error="Log: connection refused"`,
		},
		{
			"no time left", method, func(context.Context, any) (any, error) { return nil, fmt.Errorf("Log: %w", context.DeadlineExceeded) },
			codes.DeadlineExceeded, "the server could not answer in time: ask for fewer keys, or give it longer",
			`level=ERROR msg=request method=gRPC route=/Federation/Fetch status=DeadlineExceeded duration=D code=internal_error error="Log: context deadline exceeded"`,
		},
		{
			"a panic", method, func(context.Context, any) (any, error) { panic("boom") }, codes.Internal, "the server could not do this now, try again later",
			`level=ERROR msg=request method=gRPC route=/Federation/Fetch status=Internal duration=D code=internal_error error="panic: boom at S"`,
		},
		{"a probe", "/grpc.health.v1.Health/Check", func(context.Context, any) (any, error) { return 1, nil }, codes.OK, "", ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			record := serve.Record(slog.New(slog.NewTextHandler(&log, nil)))
			_, err := record(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: tc.method}, tc.handle)
			if got := status.Convert(err); got.Code() != tc.code || got.Message() != tc.message {
				t.Errorf("the caller gets %v, want %s: %s", got, tc.code, tc.message)
			}
			got := regexp.MustCompile(`time=\S+ `).ReplaceAllString(strings.TrimSpace(log.String()), "")
			got = regexp.MustCompile(`duration=\S+`).ReplaceAllString(got, "duration=D")
			got = regexp.MustCompile(` at enkeyserver.*"`).ReplaceAllString(got, ` at S"`)
			if diff := cmp.Diff(tc.record, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		settings serve.Settings
		want     string
	}{
		{serve.Settings{Page: 10, MaxPage: 5}, "FEDERATION_PAGE is 10: it must be at most FEDERATION_MAX_PAGE, which is 5"},
		{serve.Settings{Cert: "c"}, "FEDERATION_TLS_CERT and FEDERATION_TLS_KEY go together: set both, or none"},
		{serve.Settings{Key: "k"}, "FEDERATION_TLS_CERT and FEDERATION_TLS_KEY go together: set both, or none"},
		{serve.Settings{ClientCA: "a"}, "FEDERATION_TLS_CLIENT_CA needs FEDERATION_TLS_CERT: without TLS nobody shows a certificate"},
	} {
		_, err := serve.NewService(tc.settings, serve.Deps{})
		if diff := cmp.Diff(tc.want, fmt.Sprint(err)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
