package secrets

import (
	"context"
	"hash/crc32"
	"strings"
	"sync"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// googleManager reads from Google Secret Manager, with a client for each region that
// keeps its secrets to itself, and one for the rest.
type googleManager struct {
	ctx      context.Context // of the clients, which outlive a question
	endpoint string          // of development

	mu      sync.Mutex
	clients map[string]*secretmanager.Client // by location
}

func openGoogle(ctx context.Context, endpoint string) *googleManager {
	return &googleManager{ctx: ctx, endpoint: endpoint, clients: map[string]*secretmanager.Client{}}
}

// read implements manager.
func (g *googleManager) read(ctx context.Context, id identity) ([]byte, error) {
	client, err := g.client(id.name)
	if err != nil {
		return nil, err
	}
	name := id.name
	if !strings.Contains(name, "/versions/") {
		name += "/versions/latest"
	}
	answer, err := client.AccessSecretVersion(ctx, &secretmanagerpb.AccessSecretVersionRequest{Name: name})
	if err != nil {
		return nil, judgeGoogle(id, err)
	}
	payload := answer.GetPayload()
	if payload.DataCrc32C != nil && payload.GetDataCrc32C() != int64(crc32.Checksum(payload.GetData(), crc32.MakeTable(crc32.Castagnoli))) {
		return nil, status.Error(codes.DataLoss, "the value was damaged on its way")
	}
	return payload.GetData(), nil
}

func (g *googleManager) client(name string) (*secretmanager.Client, error) {
	location := ""
	if _, rest, ok := strings.Cut(name, "/locations/"); ok {
		location, _, _ = strings.Cut(rest, "/")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.clients[location]; ok {
		return c, nil
	}
	c, err := secretmanager.NewClient(g.ctx, g.options(location)...)
	if err != nil {
		return nil, err
	}
	c.CallOptions = &secretmanager.CallOptions{} // it repeats for minutes; we do it ourselves
	g.clients[location] = c
	return c, nil
}

// options leave the library's instruments out: a secret is read once in a
// while.
func (g *googleManager) options(location string) []option.ClientOption {
	bound := option.WithGRPCDialOption(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	options := []option.ClientOption{option.WithTelemetryDisabled(), bound}
	switch {
	case g.endpoint != "":
		return append(options, option.WithEndpoint(g.endpoint), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	case location != "":
		return append(options, option.WithEndpoint("secretmanager."+location+".rep.googleapis.com:443"))
	default:
		return options
	}
}

func judgeGoogle(id identity, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return &failure{verdict: missing, identity: id}
	case codes.FailedPrecondition:
		return &failure{verdict: disabled, identity: id}
	case codes.PermissionDenied, codes.Unauthenticated:
		return &failure{verdict: denied, identity: id}
	case codes.ResourceExhausted:
		if strings.Contains(err.Error(), "larger than max") {
			return unusableFor(id, tooLong)
		}
	}
	return err
}
