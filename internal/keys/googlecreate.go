package keys

import (
	"context"
	"net/url"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// googleMaker needs cloudkms.cryptoKeys.get, cryptoKeys.create,
// cryptoKeyVersions.create and get. The key ring must be there: Google cannot
// delete rings, so it is for people to make them.
type googleMaker struct {
	googleKey
	level kmspb.ProtectionLevel
}

func newGoogleMaker(u *url.URL) (maker, error) {
	hsm, u, err := protected(u)
	if err != nil {
		return nil, err
	}
	name, number, err := parseGoogle(u)
	if err != nil {
		return nil, err
	}
	if number != "" {
		return nil, versioned()
	}
	level := kmspb.ProtectionLevel_SOFTWARE
	if hsm {
		level = kmspb.ProtectionLevel_HSM
	}
	return googleMaker{googleKey{name, newLazy(openGoogle)}, level}, nil
}

func (m googleMaker) makeSigning(ctx context.Context) (string, error) {
	const algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
	found, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	version := m.name + "/cryptoKeyVersions/1"
	switch {
	case found == nil:
		err = m.create(ctx, kmspb.CryptoKey_ASYMMETRIC_SIGN, algorithm)
	case found.Purpose != kmspb.CryptoKey_ASYMMETRIC_SIGN || found.GetVersionTemplate().GetAlgorithm() != algorithm:
		return "", otherKind(m.name, found.Purpose.String()+" "+found.GetVersionTemplate().GetAlgorithm().String())
	case m.level == kmspb.ProtectionLevel_HSM && found.GetVersionTemplate().GetProtectionLevel() != m.level:
		return "", otherKind(m.name, found.GetVersionTemplate().GetProtectionLevel().String())
	default:
		version, err = m.add(ctx)
	}
	if err != nil {
		return "", err
	}
	if err := m.settle(ctx, version); err != nil {
		return "", err
	}
	return schemeGoogle + "://" + strings.Replace(version, "/cryptoKeyVersions/", "/versions/", 1), nil
}

func (m googleMaker) makeWrapping(ctx context.Context) (string, error) {
	found, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	if found != nil {
		return "", existing(m.name)
	}
	err = m.create(ctx, kmspb.CryptoKey_ENCRYPT_DECRYPT, kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION)
	return schemeGoogle + "://" + m.name, err
}

// find gives nil if there is no such key.
func (m googleMaker) find(ctx context.Context) (*kmspb.CryptoKey, error) {
	return ask(ctx, usual(), func(ctx context.Context) (*kmspb.CryptoKey, error) {
		client, err := m.client.get(ctx)
		if err != nil {
			return nil, err
		}
		key, err := client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: m.name}, onceOnly())
		if status.Code(err) == codes.NotFound {
			return nil, nil
		}
		if err != nil {
			return nil, m.fault(err)
		}
		return key, nil
	})
}

// create makes the key and its version 1.
func (m googleMaker) create(ctx context.Context, purpose kmspb.CryptoKey_CryptoKeyPurpose, algorithm kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm) error {
	client, err := m.client.get(ctx)
	if err != nil {
		return err
	}
	ring, id, _ := strings.Cut(m.name, "/cryptoKeys/")
	_, err = client.CreateCryptoKey(ctx, &kmspb.CreateCryptoKeyRequest{
		Parent: ring, CryptoKeyId: id,
		CryptoKey: &kmspb.CryptoKey{
			Purpose:         purpose,
			VersionTemplate: &kmspb.CryptoKeyVersionTemplate{Algorithm: algorithm, ProtectionLevel: m.level},
		},
	}, onceOnly())
	if status.Code(err) == codes.NotFound {
		return refuse("Google Cloud KMS knows no %s: make the key ring first, gcloud kms keyrings create", ring)
	}
	if err != nil {
		return m.fault(err)
	}
	return nil
}

func (m googleMaker) add(ctx context.Context) (version string, err error) {
	client, err := m.client.get(ctx)
	if err != nil {
		return "", err
	}
	made, err := client.CreateCryptoKeyVersion(ctx, &kmspb.CreateCryptoKeyVersionRequest{
		Parent: m.name, CryptoKeyVersion: &kmspb.CryptoKeyVersion{},
	}, onceOnly())
	if err != nil {
		return "", m.fault(err)
	}
	return made.Name, nil
}

// settle waits until the version exists: an HSM makes it while nobody waits.
func (m googleMaker) settle(ctx context.Context, version string) error {
	p := usual()
	p.whole = createTimeout
	_, err := ask(ctx, p, func(ctx context.Context) (struct{}, error) {
		client, err := m.client.get(ctx)
		if err != nil {
			return struct{}{}, err
		}
		made, err := client.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: version}, onceOnly())
		if err != nil {
			return struct{}{}, m.fault(err)
		}
		if made.State == kmspb.CryptoKeyVersion_PENDING_GENERATION {
			return struct{}{}, again("%s is being made", version)
		}
		return struct{}{}, nil
	})
	return err
}
