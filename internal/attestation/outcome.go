package attestation

import (
	"errors"
	"fmt"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/errs"
)

// ErrUnavailable is in the chain of an error that passes by itself: a vendor
// could not be asked.
var ErrUnavailable = errors.New("the vendor cannot be asked now")

// ErrMisconfigured is in the chain of an error that an operator must mend: our
// keys, roots or accounts are missing or wrong. It deserves an alarm, because
// every upload fails until then.
var ErrMisconfigured = errors.New("device attestation is misconfigured")

// Refused is a proof that is not believed. rule is the broken one in plain
// words, without anything of the proof.
func Refused(rule string, args ...any) error {
	return errs.Denied(apiv1.CodeInvalidAttestation, "the device attestation is refused: %s", fmt.Sprintf(rule, args...))
}

// Unavailable is a proof that nobody could judge; the phone may send it again.
func Unavailable(cause error) error {
	return errs.From(errors.Join(ErrUnavailable, cause), errs.Internal, apiv1.CodeInternal,
		"the server could not check the device now, try again later")
}

// Misconfigured is a proof that we could not judge for a mistake of ours. For
// the phone it is like Unavailable: the mistake must not cost an upload.
func Misconfigured(format string, args ...any) error {
	return errs.From(fmt.Errorf("%w: %w", ErrMisconfigured, fmt.Errorf(format, args...)), errs.Internal, apiv1.CodeInternal,
		"the server could not check the device now, try again later")
}

// spent is a token that Google has decoded before and will not judge again. It
// says nothing about the device: only a new token can.
func spent() error {
	return errs.New(errs.Internal, apiv1.CodeInternal,
		"the device attestation has been decoded before: make a new one and send the upload again")
}
