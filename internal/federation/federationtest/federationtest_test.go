package federationtest_test

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/testing/protocmp"

	"enkeyserver/internal/federation/federationtest"
	federationpb "enkeyserver/internal/pb/federation"
)

// Both definitions, on both sides: what one says the other understands.
func TestForeignersUnderstandUs(t *testing.T) {
	t.Parallel()
	state := &federationpb.FetchState{
		KeyCursor:        &federationpb.Cursor{Timestamp: 1604577600, NextToken: "key"},
		RevisedKeyCursor: &federationpb.Cursor{Timestamp: 1 << 40, NextToken: "revised"},
	}
	ask := &federationpb.FederationFetchRequest{
		IncludeRegions: []string{"US"}, ExcludeRegions: []string{"CA", "MX"}, OnlyTravelers: true, OnlyLocalProvenance: true,
		MaxExposureKeys: 1 << 31, State: state,
	}
	want := &federationpb.FederationFetchResponse{
		Keys: []*federationpb.ExposureKey{{
			ExposureKey: []byte("0123456789abcdef"), TransmissionRisk: 8, IntervalNumber: 2670048, IntervalCount: 144,
			ReportType: federationpb.ExposureKey_CONFIRMED_TEST, DaysSinceOnsetOfSymptoms: -14, HasSymptomOnset: true, Traveler: true,
			Regions: []string{"US", "MX"},
		}},
		RevisedKeys:     []*federationpb.ExposureKey{{ReportType: federationpb.ExposureKey_REVOKED}},
		PartialResponse: true,
		NextFetchState:  state,
	}
	answer := func(context.Context, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
		return want, nil
	}
	ours := func(ctx context.Context, conn grpc.ClientConnInterface, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
		return federationpb.NewFederationClient(conn).Fetch(ctx, ask)
	}
	for _, tc := range []struct {
		why    string
		server *federationtest.Server
		fetch  func(context.Context, grpc.ClientConnInterface, *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error)
	}{
		{"we ask them", federationtest.NewForeignServer(t, answer), ours},
		{"they ask us", federationtest.NewServer(t, answer), federationtest.NewForeigner(t).Fetch},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			got, err := tc.fetch(t.Context(), dial(t, tc.server), ask)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			asked := tc.server.Asked()
			if diff := cmp.Diff(ask, asked[0].Request, protocmp.Transform()); len(asked) != 1 || diff != "" {
				t.Errorf("%d requests (-want +got):\n%s", len(asked), diff)
			}
		})
	}
}

func dial(t *testing.T, s *federationtest.Server) *grpc.ClientConn {
	t.Helper()
	creds := credentials.NewTLS(&tls.Config{RootCAs: s.CA.Pool()})
	conn, err := grpc.NewClient(s.Addr(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
