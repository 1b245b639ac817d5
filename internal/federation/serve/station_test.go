package serve_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"enkeyserver/internal/database"
	"enkeyserver/internal/database/dbtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/federation"
	"enkeyserver/internal/federation/federationtest"
	"enkeyserver/internal/federation/serve"
	federationpb "enkeyserver/internal/pb/federation"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/store"
)

// station is a federation server with a log, an issuer whose tokens it may
// believe, and a clock.
type station struct {
	t      testing.TB
	db     *store.DB // the test's own connections
	pool   *store.DB // the service's
	issuer *federationtest.Issuer
	addr   string
	conn   *grpc.ClientConn
	offset atomic.Int64 // of the clock, in seconds
}

const (
	subject  = "ca-puller"
	audience = "us.federation"
)

func newStation(t testing.TB, edits ...func(*serve.Settings)) *station {
	t.Helper()
	s := &station{t: t}
	s.issuer = federationtest.NewIssuer(t, s.now)
	url := dbtest.URL(t)
	s.db = open(t, store.Open, url)
	s.pool = open(t, store.OpenForNeighbours, url)
	if _, err := s.db.EnsurePartitions(t.Context(), s.now(), 16*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	client, err := remote.New(
		remote.Settings{AllowPrivate: true, CAFile: s.issuer.CA.File(t), Timeout: time.Minute},
		remote.Deps{DevelopmentOnly: func(string, bool) error { return nil }},
	)
	if err != nil {
		t.Fatal(err)
	}
	settings := serve.Settings{Page: 500, MaxPage: 10_000, Timeout: 20 * time.Second, Rate: 10_000}
	for _, edit := range edits {
		edit(&settings)
	}
	service, err := serve.NewService(settings, serve.Deps{Store: s.pool, Remote: client, Now: s.now})
	if err != nil {
		t.Fatal(err)
	}
	s.listen(service)
	s.conn = s.dial(insecure.NewCredentials())
	return s
}

func open(t testing.TB, door func(context.Context, database.Settings) (*store.DB, error), url string) *store.DB {
	t.Helper()
	db, err := door(context.Background(), database.Settings{URL: url, PoolMax: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func (s *station) listen(service *serve.Service) {
	s.t.Helper()
	server, err := serve.NewServer(service)
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	s.t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

func (s *station) dial(creds credentials.TransportCredentials) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *station) now() time.Time {
	return entest.Noon().Add(time.Duration(s.offset.Load()) * time.Second)
}

func (s *station) pass(d time.Duration) { s.offset.Add(int64(d / time.Second)) }

func (s *station) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// allow lets a neighbour ask, of the test's issuer and audience.
func (s *station) allow(name, subject string, include, exclude []string) {
	s.t.Helper()
	s.exec(`
		INSERT INTO federation_allow (name, issuer, subject, audience, include_regions, exclude_regions)
		VALUES ($1, $2, $3, $4, $5, $6)`, name, s.issuer.URL(), subject, audience, append([]string{}, include...), append([]string{}, exclude...))
	s.pass(serve.PeersAge)
}

// sealed is a row of the log.
type sealed struct {
	exposure.Exposure
	revision bool
	origin   int
	epoch    int32
}

// seal puts rows into the log, as one epoch.
func (s *station) seal(rows ...sealed) {
	s.t.Helper()
	for _, r := range rows {
		var onset *int32
		if r.HasOnset {
			onset = &r.DaysSinceOnset
		}
		event := 0
		if r.revision {
			event = 1
		}
		s.exec(`
			INSERT INTO arrival (key, event, start_interval, period, risk, report, onset, traveler, regions, origin, due_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			r.Key[:], event, int32(r.Start), r.Period, r.Risk, int16(r.Report), onset, r.Traveler, r.Regions, r.origin, s.now())
	}
	s.sealArrivals()
}

func (s *station) sealArrivals() store.Sealed {
	s.t.Helper()
	done, err := s.db.Seal(s.t.Context(), s.now(), store.SealOptions{
		Period: time.Hour, MinUploads: 1, MaxWait: time.Hour, Always: true, Retention: 16 * 24 * time.Hour,
		MinRecords: 30, MinRevised: 5, MaxRecords: 1000,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

// export makes epochs hold padding.
func (s *station) export() {
	s.t.Helper()
	s.exec(`INSERT INTO signing_key (name, key_url, key_id, key_version) VALUES ('us-1', 'file:///us-1.pem', '310', 'v1')`)
	s.exec(`
		INSERT INTO export (name, bucket, root, region, input_regions, period, created_at)
		VALUES ('us', 'mem://', 'us', 'US', '{US}', '1h', $1)`, s.now().Add(-time.Hour))
	s.exec(`INSERT INTO export_signing_key SELECT export_id, 'us-1' FROM export`)
	s.sealArrivals() // the batcher meets it
}

// keys makes rows of keys, of no revision.
func keys(all []exposure.Exposure) []sealed {
	rows := make([]sealed, len(all))
	for i, e := range all {
		rows[i] = sealed{Exposure: e}
	}
	return rows
}

// as is a context of a caller with a token for a subject.
func (s *station) as(subject string) context.Context {
	s.t.Helper()
	return bearing(s.t.Context(), s.issuer.Token(s.t, subject, audience))
}

func bearing(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func (s *station) try(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	return federationpb.NewFederationClient(s.conn).Fetch(ctx, ask)
}

func (s *station) fetch(ctx context.Context, ask *federationpb.FederationFetchRequest) *federationpb.FederationFetchResponse {
	s.t.Helper()
	answer, err := s.try(ctx, ask)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

// pulled is all that a neighbour was told in one run.
type pulled struct {
	keys, revised []exposure.Exposure
	pages         int
	state         *federationpb.FetchState
}

// pull asks until there is no more, as neighbours do.
func (s *station) pull(ctx context.Context, ask *federationpb.FederationFetchRequest) (all pulled) {
	s.t.Helper()
	for {
		answer := s.fetch(ctx, ask)
		all.pages++
		all.keys = append(all.keys, s.read(answer.GetKeys())...)
		all.revised = append(all.revised, s.read(answer.GetRevisedKeys())...)
		all.state = answer.GetNextFetchState()
		ask = &federationpb.FederationFetchRequest{
			IncludeRegions: ask.GetIncludeRegions(), ExcludeRegions: ask.GetExcludeRegions(), OnlyTravelers: ask.GetOnlyTravelers(),
			OnlyLocalProvenance: ask.GetOnlyLocalProvenance(), MaxExposureKeys: ask.GetMaxExposureKeys(), State: all.state,
		}
		if !answer.GetPartialResponse() {
			return all
		}
		if all.pages > 50_000 {
			s.t.Fatal("it does not end")
		}
	}
}

func (s *station) read(wire []*federationpb.ExposureKey) (all []exposure.Exposure) {
	s.t.Helper()
	for _, k := range wire {
		e, err := federation.FromWire(k)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}
