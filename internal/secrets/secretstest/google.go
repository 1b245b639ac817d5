package secretstest

import (
	"context"
	"hash/crc32"
	"net"
	"strconv"
	"strings"
	"testing"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Google is a fake Google Secret Manager: gRPC without encryption.
type Google struct {
	*Stock
	secretmanagerpb.UnimplementedSecretManagerServiceServer
	address string
}

const googleFolder = "projects/fake/secrets/"

// NewGoogle starts one. It ends with the test.
func NewGoogle(tb testing.TB) *Google {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	g := &Google{Stock: newStock(), address: listener.Addr().String()}
	server := grpc.NewServer()
	secretmanagerpb.RegisterSecretManagerServiceServer(server, g)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	tb.Cleanup(server.Stop)
	return g
}

// Env is the environment in which programs find the server.
func (g *Google) Env() map[string]string {
	return map[string]string{"DEBUG_GCP_SECRET_MANAGER_ENDPOINT": g.address}
}

// Reference refers to a secret.
func (*Google) Reference(name string) string { return "secret://gcp/" + googleFolder + name }

// Field refers to a field of a secret.
func (g *Google) Field(name, field string) string { return g.Reference(name) + "#" + field }

// AccessSecretVersion implements the service.
func (g *Google) AccessSecretVersion(ctx context.Context, in *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	name, number, ok := googleName(in.GetName())
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "that is no version of a secret of this project")
	}
	switch g.fails(name) {
	case Unavailable, Cut:
		return nil, status.Error(codes.Unavailable, "not now")
	case Stalled:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	value, why := g.version(name, number)
	switch why {
	case missing:
		return nil, status.Error(codes.NotFound, "Secret not found or has no versions.")
	case disabled:
		return nil, status.Error(codes.FailedPrecondition, "Secret Version is in DISABLED state.")
	case forbidden:
		return nil, status.Error(codes.PermissionDenied, "Permission 'secretmanager.versions.access' denied.")
	}
	sum := int64(crc32.Checksum(value, crc32.MakeTable(crc32.Castagnoli)))
	return &secretmanagerpb.AccessSecretVersionResponse{
		Name:    in.GetName(),
		Payload: &secretmanagerpb.SecretPayload{Data: value, DataCrc32C: proto.Int64(sum)},
	}, nil
}

// googleName reads projects/fake/secrets/NAME/versions/VERSION.
func googleName(full string) (name string, number int, ok bool) {
	rest, ok := strings.CutPrefix(full, googleFolder)
	name, version, versioned := strings.Cut(rest, "/versions/")
	if !ok || !versioned {
		return "", 0, false
	}
	if version == "latest" {
		return name, 0, true
	}
	number, err := strconv.Atoi(version)
	return name, number, err == nil
}
