package listing

import (
	"context"
	"errors"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

// Signers opens the signing keys of a batch or an index, newest first as they
// are given; those after the tenth are too old to matter. What has no signing
// key at all is an error that says what to configure.
func Signers(ctx context.Context, ring *keys.Ring, signing []store.SigningKey) (_ []exportfile.Signer, err error) {
	defer errs.Wrap(&err, "Signers")
	if len(signing) == 0 {
		return nil, errors.New("there is no signing key that is valid now: name one under signingKeys of the export, and apply the configuration")
	}
	var signers []exportfile.Signer
	for _, k := range signing[:min(len(signing), exportfile.MaxSigners)] {
		key, err := ring.Signer(ctx, k.URL)
		if err != nil {
			return nil, err
		}
		signers = append(signers, exportfile.Signer{Key: key, ID: k.ID, Version: k.Version})
	}
	return signers, nil
}
