package keys

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// azureMaker needs the rights get and create.
type azureMaker struct {
	azureKey
	hsm bool
}

func newAzureMaker(u *url.URL) (maker, error) {
	hsm, u, err := protected(u)
	if err != nil {
		return nil, err
	}
	key, err := parseAzure(u)
	if err != nil {
		return nil, err
	}
	if key.version != "" {
		return nil, versioned()
	}
	return azureMaker{key, hsm || key.inHSM()}, nil
}

// inHSM tells a managed HSM from a vault: it has nothing but hardware keys, and
// AES among them.
func (k azureKey) inHSM() bool { return strings.Contains(k.vault, ".managedhsm.") }

func (m azureMaker) makeSigning(ctx context.Context) (string, error) {
	kind, curve := azkeys.KeyTypeEC, azkeys.CurveNameP256
	if m.hsm {
		kind = azkeys.KeyTypeECHSM
	}
	found, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	if found != nil && (value(found.Kty) != kind || value(found.Crv) != curve) {
		return "", otherKind(m.name, string(value(found.Kty))+" "+string(value(found.Crv)))
	}
	made, err := m.create(ctx, azkeys.CreateKeyParameters{
		Kty: &kind, Curve: &curve, KeyOps: operations(azkeys.KeyOperationSign, azkeys.KeyOperationVerify),
	})
	if err != nil {
		return "", err
	}
	return schemeAzure + "://" + m.vault + "/" + m.name + "/" + made.KID.Version(), nil
}

func (m azureMaker) makeWrapping(ctx context.Context) (string, error) {
	found, err := m.find(ctx)
	if err != nil {
		return "", err
	}
	if found != nil {
		return "", existing(m.name)
	}
	kind, size := azkeys.KeyTypeRSA, int32(3072)
	switch {
	case m.inHSM():
		kind, size = azkeys.KeyTypeOctHSM, 256
	case m.hsm:
		kind = azkeys.KeyTypeRSAHSM
	}
	_, err = m.create(ctx, azkeys.CreateKeyParameters{
		Kty: &kind, KeySize: &size, KeyOps: operations(azkeys.KeyOperationWrapKey, azkeys.KeyOperationUnwrapKey),
	})
	return schemeAzure + "://" + m.vault + "/" + m.name, err
}

func operations(all ...azkeys.KeyOperation) (pointers []*azkeys.KeyOperation) {
	for i := range all {
		pointers = append(pointers, &all[i])
	}
	return pointers
}

// find gives nil if there is no such key, disabled ones included.
func (m azureMaker) find(ctx context.Context) (*azkeys.JSONWebKey, error) {
	return ask(ctx, usual(), func(ctx context.Context) (*azkeys.JSONWebKey, error) {
		client, err := m.client.get(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := client.GetKey(ctx, m.name, "", nil)
		if status, _ := azureAnswer(err); status == http.StatusNotFound {
			return nil, nil
		}
		if err != nil {
			return nil, m.fault(err)
		}
		return answer.Key, nil
	})
}

// create makes a key, or a version of one.
func (m azureMaker) create(ctx context.Context, in azkeys.CreateKeyParameters) (*azkeys.JSONWebKey, error) {
	client, err := m.client.get(ctx)
	if err != nil {
		return nil, err
	}
	made, err := client.CreateKey(ctx, m.name, in, nil)
	if status, said := azureAnswer(err); status == http.StatusConflict {
		return nil, refuse("Azure keeps a deleted key %s that can be recovered: choose another name, or recover it: %s", m.name, oneLine(said.Message))
	}
	if err != nil {
		return nil, m.fault(err)
	}
	if made.Key == nil || made.Key.KID == nil {
		return nil, again("Azure answered without the key that it made")
	}
	return made.Key, nil
}
