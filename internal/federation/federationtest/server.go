package federationtest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	federationpb "enkeyserver/internal/pb/federation"
)

// Answer is what a neighbour's server does with a request.
type Answer func(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error)

// Asked is one request that a server got.
type Asked struct {
	Request       *federationpb.FederationFetchRequest
	Authorization string // the metadata
}

// Server is a neighbour's server, over TLS on the loopback interface.
type Server struct {
	federationpb.UnimplementedFederationServer
	CA *Authority

	addr string

	mu     sync.Mutex
	answer Answer
	asked  []Asked
}

// NewServer starts a server that answers as it is told.
func NewServer(t testing.TB, answer Answer, options ...grpc.ServerOption) *Server {
	t.Helper()
	s := newServer(t, answer)
	server := s.grpc(t, options)
	federationpb.RegisterFederationServer(server, s)
	s.serve(t, server)
	return s
}

// NewForeignServer is NewServer with definitions of its own: see Foreigner.
func NewForeignServer(t testing.TB, answer Answer, options ...grpc.ServerOption) *Server {
	t.Helper()
	s := newServer(t, answer)
	server := s.grpc(t, options)
	server.RegisterService(NewForeigner(t).service(s.Fetch), nil)
	s.serve(t, server)
	return s
}

func newServer(t testing.TB, answer Answer) *Server {
	t.Helper()
	return &Server{CA: NewAuthority(t), answer: answer}
}

// grpc makes the server; an option given later wins, so a test may bring its
// own grpc.Creds.
func (s *Server) grpc(t testing.TB, options []grpc.ServerOption) *grpc.Server {
	t.Helper()
	creds := credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{s.CA.Certificate(t, "server")},
	})
	return grpc.NewServer(append([]grpc.ServerOption{grpc.Creds(creds)}, options...)...)
}

func (s *Server) serve(t testing.TB, server *grpc.Server) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return s.addr }

// Say changes what it does.
func (s *Server) Say(answer Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// Asked are the requests until now.
func (s *Server) Asked() []Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Asked{}, s.asked...)
}

// Fetch serves the method.
func (s *Server) Fetch(ctx context.Context, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	s.mu.Lock()
	answer := s.answer
	s.asked = append(s.asked, Asked{Request: proto.CloneOf(ask), Authorization: authorization(ctx)})
	s.mu.Unlock()
	return answer(ctx, ask)
}

func authorization(ctx context.Context) string {
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) > 0 {
		return values[0]
	}
	return ""
}
