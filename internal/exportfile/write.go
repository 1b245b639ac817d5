package exportfile

import (
	"context"
	"io"
	"iter"

	"enkeyserver/internal/exposure"
)

// Write streams a signed zip. keys and revised come in the order of Compare.
func Write(ctx context.Context, w io.Writer, m Meta, signers []Signer, keys, revised iter.Seq2[exposure.Exposure, error]) (Summary, error) {
	panic("unwritten")
}

// Compare is the order of exposures in a file.
func Compare(a, b exposure.Exposure) int { panic("unwritten") }
