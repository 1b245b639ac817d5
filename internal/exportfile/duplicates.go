package exportfile

import (
	"hash/maphash"
	"io"
	"slices"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
)

// fingerprints finds keys that stand in a file twice, over both lists, with 8
// bytes a key: 4 MB for 500 000 keys, 80 MB for 10 million, 200 MB for the
// densest file that is read at all.
//
// A fingerprint is a hash under a secret of this run, so that nobody can make
// keys that collide. Should two do so all the same (one file of 500 000 keys in
// 100 million), a second pass compares the keys themselves.
type fingerprints struct {
	seed   maphash.Seed
	hashes []uint64
}

// bytesPerKey is a little less than what a key takes in export.bin, and so
// makes room for all keys of a file at once.
const bytesPerKey = 30

func newFingerprints(binSize int64) *fingerprints {
	return &fingerprints{seed: maphash.MakeSeed(), hashes: make([]uint64, 0, binSize/bytesPerKey)}
}

func (p *fingerprints) add(k exposure.Key) { p.hashes = append(p.hashes, p.of(k)) }

func (p *fingerprints) of(k exposure.Key) uint64 { return maphash.Bytes(p.seed, k[:]) }

// unique tells whether all keys differ, reading export.bin again if it must.
func (p *fingerprints) unique(bin member, r io.ReaderAt) error {
	suspects := p.repeated()
	if len(suspects) == 0 {
		return nil
	}
	met := map[exposure.Key]bool{}
	_, err := decode(bin.open(r), strictly(func(e exposure.Exposure, _ list) error {
		if _, suspect := slices.BinarySearch(suspects, p.of(e.Key)); !suspect {
			return nil
		}
		if met[e.Key] {
			return errs.Invalid(ruleDuplicateKey, "a key stands in the file twice")
		}
		met[e.Key] = true
		return nil
	}))
	return err
}

// repeated gives the fingerprints that more than one key has, in order.
func (p *fingerprints) repeated() (suspects []uint64) {
	slices.Sort(p.hashes)
	for i := 1; i < len(p.hashes); i++ {
		if p.hashes[i] == p.hashes[i-1] {
			suspects = append(suspects, p.hashes[i])
		}
	}
	return suspects
}
