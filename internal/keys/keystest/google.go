package keystest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"net"
	"strconv"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Google is Google Cloud KMS: the part of its gRPC service that concerns keys,
// with checksums both ways. It has one ring, GoogleRing.
type Google struct {
	*cabinet
	kmspb.UnimplementedKeyManagementServiceServer

	listener net.Listener
	server   *grpc.Server
}

// GoogleRing is the key ring that is there.
const GoogleRing = "projects/en/locations/europe-west3/keyRings/main"

// StartGoogle starts one on a port of its own.
func StartGoogle() (*Google, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &Google{cabinet: newCabinet(), listener: listener}
	g.server = grpc.NewServer(grpc.UnaryInterceptor(g.intercept))
	kmspb.RegisterKeyManagementServiceServer(g.server, g)
	go func() { _ = g.server.Serve(listener) }() // ends with Close
	return g, nil
}

// Close ends it.
func (g *Google) Close() { g.server.Stop() }

// Env is what programs need in their environment.
func (g *Google) Env() map[string]string {
	return map[string]string{"DEBUG_GCP_KMS_ENDPOINT": g.listener.Addr().String()}
}

// NewSigning makes a signing key.
func (g *Google) NewSigning(kind Kind) string {
	name := GoogleRing + "/cryptoKeys/" + g.name()
	g.add(name, kind)
	return "gcpkms://" + name + "/versions/1"
}

// NewWrapping makes a wrapping key.
func (g *Google) NewWrapping() string {
	name := GoogleRing + "/cryptoKeys/" + g.name()
	g.add(name, AES)
	return "gcpkms://" + name
}

// Key is the name of a key without its version.
func (g *Google) Key(keyURL string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(keyURL, "gcpkms://"), "/versions/")
	return name
}

// faultKey carries the fault that an answer must have.
type faultKey struct{}

func faultOf(ctx context.Context) Fault { f, _ := ctx.Value(faultKey{}).(Fault); return f }

// intercept does what happens to all questions about a key.
func (g *Google) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	name := ""
	if r, ok := req.(interface{ GetName() string }); ok {
		name = r.GetName()
	} else if r, ok := req.(interface{ GetParent() string }); ok {
		name = r.GetParent()
	}
	name, _, _ = strings.Cut(name, "/cryptoKeyVersions/")
	f := g.next(name)
	if k := g.look(name); k != nil && k.denied {
		return nil, status.Errorf(codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.use' denied on resource '%s' (or it may not exist).", name)
	}
	switch f {
	case Busy:
		return nil, status.Error(codes.Unavailable, "The service is currently unavailable.")
	case Throttled:
		return nil, status.Error(codes.ResourceExhausted, "Quota exceeded for quota metric 'Cryptographic requests'")
	case Slow:
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	case Lost:
		_, _ = handle(ctx, req)
		return nil, status.Error(codes.Unavailable, "error reading from server: EOF")
	}
	return handle(context.WithValue(ctx, faultKey{}, f), req)
}

// find gives a key and, of a version's name, the version, which must be able to
// work.
func (g *Google) find(name string) (*keyset, *version, error) {
	key, number, versioned := strings.Cut(name, "/cryptoKeyVersions/")
	k := g.look(key)
	if k == nil {
		return nil, nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", key)
	}
	v := k.versions[len(k.versions)-1]
	if versioned {
		n, _ := strconv.Atoi(number)
		if v = k.at(n); v == nil {
			return nil, nil, status.Errorf(codes.NotFound, "CryptoKeyVersion %s not found.", name)
		}
	}
	if k.disabled {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "%s is not enabled, current state is: DISABLED.", name)
	}
	return k, v, nil
}

func googleAlgorithm(kind Kind) kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm {
	return map[Kind]kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm{
		P256: kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256, P384: kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384,
		RSA: kmspb.CryptoKeyVersion_RSA_SIGN_PSS_2048_SHA256, AES: kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION,
	}[kind]
}

// GetPublicKey implements the service.
func (g *Google) GetPublicKey(ctx context.Context, r *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	k, v, err := g.find(r.Name)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(v.signer.Public())
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &kmspb.PublicKey{
		Name: r.Name, Algorithm: googleAlgorithm(k.kind), Pem: string(text), PemCrc32C: castagnoli(text, faultOf(ctx)),
	}, nil
}

// AsymmetricSign implements the service.
func (g *Google) AsymmetricSign(ctx context.Context, r *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	_, v, err := g.find(r.Name)
	if err != nil {
		return nil, err
	}
	digest := r.GetDigest().GetSha256()
	if len(digest) != crypto.SHA256.Size() {
		return nil, status.Error(codes.InvalidArgument, "The digest does not match the algorithm of the key.")
	}
	if err := heard(digest, r.DigestCrc32C); err != nil {
		return nil, err
	}
	signature, err := v.sign(digest, faultOf(ctx).only(Forged))
	return &kmspb.AsymmetricSignResponse{
		Name: r.Name, Signature: signature, SignatureCrc32C: castagnoli(signature, faultOf(ctx)), VerifiedDigestCrc32C: r.DigestCrc32C != nil,
	}, err
}

// Encrypt implements the service.
func (g *Google) Encrypt(ctx context.Context, r *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	k, v, err := g.find(r.Name)
	if err != nil {
		return nil, err
	}
	if k.kind != AES {
		return nil, status.Errorf(codes.FailedPrecondition, "The purpose of %s is not ENCRYPT_DECRYPT.", r.Name)
	}
	if err := heard(r.Plaintext, r.PlaintextCrc32C); err != nil {
		return nil, err
	}
	if err := heard(r.AdditionalAuthenticatedData, r.AdditionalAuthenticatedDataCrc32C); err != nil {
		return nil, err
	}
	g.bind(r.Name, r.AdditionalAuthenticatedData)
	sealed := v.aead.Seal(nil, nil, r.Plaintext, r.AdditionalAuthenticatedData)
	return &kmspb.EncryptResponse{
		Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", r.Name, len(k.versions)), Ciphertext: sealed, CiphertextCrc32C: castagnoli(sealed, faultOf(ctx)),
		VerifiedPlaintextCrc32C: r.PlaintextCrc32C != nil, VerifiedAdditionalAuthenticatedDataCrc32C: r.AdditionalAuthenticatedDataCrc32C != nil,
	}, nil
}

// Decrypt implements the service.
func (g *Google) Decrypt(ctx context.Context, r *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	k, _, err := g.find(r.Name)
	if err != nil {
		return nil, err
	}
	if err := heard(r.Ciphertext, r.CiphertextCrc32C); err != nil {
		return nil, err
	}
	for _, v := range k.versions {
		if plain, err := v.aead.Open(nil, nil, r.Ciphertext, r.AdditionalAuthenticatedData); err == nil {
			return &kmspb.DecryptResponse{Plaintext: plain, PlaintextCrc32C: castagnoli(plain, faultOf(ctx))}, nil
		}
	}
	return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
}

// GetCryptoKey implements the service.
func (g *Google) GetCryptoKey(_ context.Context, r *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	k, _, err := g.find(r.Name)
	if err != nil {
		return nil, err
	}
	purpose := kmspb.CryptoKey_ASYMMETRIC_SIGN
	if k.kind == AES {
		purpose = kmspb.CryptoKey_ENCRYPT_DECRYPT
	}
	level := kmspb.ProtectionLevel_SOFTWARE
	if k.hardware {
		level = kmspb.ProtectionLevel_HSM
	}
	return &kmspb.CryptoKey{
		Name: r.Name, Purpose: purpose,
		VersionTemplate: &kmspb.CryptoKeyVersionTemplate{Algorithm: googleAlgorithm(k.kind), ProtectionLevel: level},
	}, nil
}

// GetCryptoKeyVersion implements the service.
func (g *Google) GetCryptoKeyVersion(ctx context.Context, r *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	if _, _, err := g.find(r.Name); err != nil {
		return nil, err
	}
	state := kmspb.CryptoKeyVersion_ENABLED
	if faultOf(ctx) == Pending {
		state = kmspb.CryptoKeyVersion_PENDING_GENERATION
	}
	return &kmspb.CryptoKeyVersion{Name: r.Name, State: state}, nil
}

// CreateCryptoKey implements the service.
func (g *Google) CreateCryptoKey(_ context.Context, r *kmspb.CreateCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	name := r.Parent + "/cryptoKeys/" + r.CryptoKeyId
	if r.Parent != GoogleRing {
		return nil, status.Errorf(codes.NotFound, "KeyRing %s not found.", r.Parent)
	}
	if g.look(name) != nil {
		return nil, status.Errorf(codes.AlreadyExists, "CryptoKey %s already exists.", name)
	}
	kind := P256
	if r.CryptoKey.Purpose == kmspb.CryptoKey_ENCRYPT_DECRYPT {
		kind = AES
	}
	g.add(name, kind)
	hardware := r.CryptoKey.GetVersionTemplate().GetProtectionLevel() == kmspb.ProtectionLevel_HSM
	g.change(name, func(k *keyset) { k.hardware = hardware })
	return &kmspb.CryptoKey{Name: name, Purpose: r.CryptoKey.Purpose}, nil
}

// CreateCryptoKeyVersion implements the service.
func (g *Google) CreateCryptoKeyVersion(_ context.Context, r *kmspb.CreateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	k, _, err := g.find(r.Parent)
	if err != nil {
		return nil, err
	}
	g.add(r.Parent, k.kind)
	return &kmspb.CryptoKeyVersion{Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", r.Parent, len(k.versions)+1)}, nil
}

func heard(data []byte, sum *wrapperspb.Int64Value) error {
	if sum != nil && sum.Value != castagnoli(data, 0).Value {
		return status.Error(codes.InvalidArgument, "The checksum in the request did not match the data.")
	}
	return nil
}

// castagnoli is the checksum of an answer, or, garbled, that of another.
func castagnoli(data []byte, f Fault) *wrapperspb.Int64Value {
	if f == Garbled {
		data = append(bytes.Clone(data), 0)
	}
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}
