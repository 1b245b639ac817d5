package serve

import (
	"time"

	"go.opencensus.io/plugin/ocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	federationpb "enkeyserver/internal/pb/federation"
)

// The bounds of a connection. Those who ask do so every few minutes, one
// request after the other.
const (
	maxRequest    = 64 << 10     // states and lists of regions
	maxAnswer     = 4 << 20      // more than maxPageBytes
	maxHeader     = 2 * maxToken // the token, and what proxies add
	maxStreams    = 16           // requests at once on one connection
	handshakeTime = 10 * time.Second

	idleTime = 5 * time.Minute
	// connectionAge spreads callers over instances that came later, and makes
	// them show their certificates again.
	connectionAge   = 30 * time.Minute
	connectionGrace = 30 * time.Second // more than FEDERATION_TIMEOUT

	pingEvery = 2 * time.Minute // to find connections that are dead
	pingTime  = 20 * time.Second
	pingLeast = 10 * time.Second // between two pings of a caller
)

// NewServer makes the gRPC server of the service, for app.ServeGRPC. It has no
// reflection: whoever may ask has the definitions.
func NewServer(s *Service) (*grpc.Server, error) {
	creds, err := s.credentials()
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(
		grpc.Creds(creds),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(maxAnswer),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingLeast, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTime, MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionGrace,
			Time: pingEvery, Timeout: pingTime,
		}),
		grpc.ChainUnaryInterceptor(recorder{}.intercept),
		// What a stranger says of its own trace is not believed.
		grpc.StatsHandler(&ocgrpc.ServerHandler{IsPublicEndpoint: true}),
	)
	federationpb.RegisterFederationServer(server, s)
	return server, nil
}

// credentials are those of the settings. Without TLS the platform ends it in
// front of us, and speaks HTTP/2 in the clear.
func (s *Service) credentials() (credentials.TransportCredentials, error) {
	if s.settings.Cert == "" {
		return insecure.NewCredentials(), nil
	}
	files := &tlsFiles{settings: s.settings, now: s.now}
	if err := files.read(); err != nil {
		return nil, err
	}
	return credentials.NewTLS(files.config()), nil
}
