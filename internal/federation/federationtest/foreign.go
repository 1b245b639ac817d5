package federationtest

import (
	"context"
	_ "embed"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	federationpb "enkeyserver/internal/pb/federation"
)

// definitions are the contract's, not ours.
//
//go:embed definitions.textproto
var definitions []byte

// Foreigner speaks federation by definitions of its own. It hands over to our
// types by the names of the fields, so that a number or a type that differs on
// the wire comes out as another value, or as an error.
type Foreigner struct{ fetch protoreflect.MethodDescriptor }

// NewForeigner reads the definitions.
func NewForeigner(t testing.TB) Foreigner {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal(definitions, &file); err != nil {
		t.Fatal(err)
	}
	built, err := protodesc.NewFile(&file, new(protoregistry.Files))
	if err != nil {
		t.Fatal(err)
	}
	return Foreigner{fetch: built.Services().ByName("Federation").Methods().ByName("Fetch")}
}

// Fetch asks a server.
func (f Foreigner) Fetch(ctx context.Context, conn grpc.ClientConnInterface, ask *federationpb.FederationFetchRequest) (*federationpb.FederationFetchResponse, error) {
	req := dynamicpb.NewMessage(f.fetch.Input())
	if err := translate(ask, req); err != nil {
		return nil, err
	}
	resp := dynamicpb.NewMessage(f.fetch.Output())
	if err := conn.Invoke(ctx, "/Federation/Fetch", req, resp); err != nil {
		return nil, err
	}
	answer := new(federationpb.FederationFetchResponse)
	return answer, translate(resp, answer)
}

// service is the server's side.
func (f Foreigner) service(answer Answer) *grpc.ServiceDesc {
	handle := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		req := dynamicpb.NewMessage(f.fetch.Input())
		if err := decode(req); err != nil {
			return nil, err
		}
		ask := new(federationpb.FederationFetchRequest)
		if err := translate(req, ask); err != nil {
			return nil, err
		}
		answered, err := answer(ctx, ask)
		if err != nil {
			return nil, err
		}
		resp := dynamicpb.NewMessage(f.fetch.Output())
		return resp, translate(answered, resp)
	}
	return &grpc.ServiceDesc{
		ServiceName: string(f.fetch.Parent().FullName()),
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: string(f.fetch.Name()), Handler: handle}},
	}
}

// translate copies by name. Fields that only one side knows are an error.
func translate(from, to proto.Message) error {
	if unknown := from.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		return fmt.Errorf("%d bytes of fields that nobody knows", len(unknown))
	}
	text, err := protojson.Marshal(from)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, to)
}
