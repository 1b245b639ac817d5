package exportfile

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"

	"enkeyserver/internal/errs"
)

// Readers of a zip disagree: some go by the directory at its end, some by the
// headers before each member, and phones of both kinds exist. So a file is read
// here by both, which must say the same, and must cover every byte of it. This
// is why archive/zip, which goes by the directory, does not serve.

// Bounds of what is read. A file of 500 000 keys packs 17 MB into 9 MB.
const (
	maxFile      = 512 << 20 // of the zip
	maxBin       = 512 << 20 // of export.bin, unpacked: some 15 million keys
	maxSig       = 16 << 10  // of export.sig, unpacked
	maxDirectory = 16 << 10

	// Keys are random, so a file that holds any packs to a half at best. What
	// claims to unpack to far more holds something else.
	maxRatio = 8
	minRatio = 4 << 10 // plus this, for files with hardly a key
)

// Sizes and signatures of the records of a zip.
const (
	endSize        = 22
	entrySize      = 46
	localSize      = 30
	endMagic       = 0x06054b50
	entryMagic     = 0x02014b50
	localMagic     = 0x04034b50
	descMagic      = 0x08074b50
	descSize       = 12 // and 4 more with its magic
	methodStored   = 0
	methodDeflate  = 8
	flagDescriptor = 1 << 3
	flagsAllowed   = 1<<1 | 1<<2 | flagDescriptor | 1<<11 // how hard it was packed; UTF-8
)

// member is a file in a zip.
type member struct {
	name          string
	flags, method uint16
	crc           uint32
	packed, size  int64
	offset        int64 // of its local header
	data          int64 // offset of its packed bytes
}

// openZip finds the two members.
func openZip(r io.ReaderAt, size int64) (bin, sig member, err error) {
	directory, start, err := readDirectory(r, size)
	if err != nil {
		return member{}, member{}, err
	}
	first, rest, err := parseEntry(directory)
	if err != nil {
		return member{}, member{}, err
	}
	second, rest, err := parseEntry(rest)
	if err != nil {
		return member{}, member{}, err
	}
	if len(rest) > 0 {
		return member{}, member{}, brokenZip("its directory holds more than it says")
	}
	if second.offset < first.offset {
		first, second = second, first
	}
	if err := layOut(r, &first, &second, start); err != nil {
		return member{}, member{}, err
	}
	return nameMembers(first, second)
}

func brokenZip(what string) error { return errs.Invalid(ruleZip, "the zip is broken: %s", what) }

func wrongMembers() error {
	return errs.Invalid(ruleMembers, "a file has exactly two members, %s and %s", binName, sigName)
}

// readDirectory reads the central directory, which must end the file.
func readDirectory(r io.ReaderAt, size int64) (directory []byte, start int64, err error) {
	if size < endSize {
		return nil, 0, brokenZip("it is shorter than any zip")
	}
	if size > maxFile {
		return nil, 0, errs.Invalid(ruleSize, "the file has %d bytes, more than the %d that are read", size, int64(maxFile))
	}
	end, err := readAt(r, size-endSize, endSize)
	if err != nil {
		return nil, 0, err
	}
	if u32(end, 0) != endMagic || u16(end, 20) != 0 {
		return nil, 0, brokenZip("it does not end with its directory")
	}
	if u16(end, 4) != 0 || u16(end, 6) != 0 {
		return nil, 0, brokenZip("it spans disks")
	}
	if u16(end, 8) != 2 || u16(end, 10) != 2 {
		return nil, 0, wrongMembers()
	}
	length, start := int64(u32(end, 12)), int64(u32(end, 16))
	if start+length != size-endSize || length > maxDirectory {
		return nil, 0, brokenZip("its directory is not where it says")
	}
	directory, err = readAt(r, start, int(length))
	return directory, start, err
}

// parseEntry reads one member's entry in the directory.
func parseEntry(b []byte) (m member, rest []byte, err error) {
	if len(b) < entrySize || u32(b, 0) != entryMagic {
		return m, nil, brokenZip("its directory is malformed")
	}
	name, extra, comment := int(u16(b, 28)), int(u16(b, 30)), int(u16(b, 32))
	if len(b) < entrySize+name+extra+comment {
		return m, nil, brokenZip("its directory is malformed")
	}
	m = member{
		name:  string(b[entrySize : entrySize+name]),
		flags: u16(b, 8), method: u16(b, 10), crc: u32(b, 16),
		packed: int64(u32(b, 20)), size: int64(u32(b, 24)), offset: int64(u32(b, 42)),
	}
	return m, b[entrySize+name+extra+comment:], m.check()
}

func (m member) check() error {
	switch {
	case m.flags&^flagsAllowed != 0:
		return brokenZip("a member is encrypted or of a kind that phones do not read")
	case m.method != methodStored && m.method != methodDeflate:
		return brokenZip("a member is neither stored nor deflated")
	case m.method == methodStored && m.flags&flagDescriptor != 0:
		return errs.Invalid(ruleStoredDescriptor, "a stored member must have its size in the local header")
	case m.method == methodStored && m.packed != m.size:
		return brokenZip("a stored member has two sizes")
	case m.size > maxBin || m.size > maxRatio*m.packed+minRatio:
		return errs.Invalid(ruleSize, "a member of %d bytes unpacks to %d, which no keys do", m.packed, m.size)
	}
	return nil
}

// layOut finds where the packed bytes are, and that nothing lies between.
func layOut(r io.ReaderAt, first, second *member, directory int64) error {
	if first.offset != 0 {
		return brokenZip("it does not begin with a member")
	}
	if err := first.locate(r, second.offset); err != nil {
		return err
	}
	return second.locate(r, directory)
}

// locate reads a member's local header, and what stands between its packed
// bytes and the next record.
func (m *member) locate(r io.ReaderAt, next int64) error {
	b, err := readAt(r, m.offset, localSize+len(m.name))
	if err != nil {
		return err
	}
	if u32(b, 0) != localMagic || u16(b, 6) != m.flags || u16(b, 8) != m.method ||
		int(u16(b, 26)) != len(m.name) || string(b[localSize:]) != m.name {
		return brokenZip("a member and its entry in the directory differ")
	}
	m.data = m.offset + int64(len(b)) + int64(u16(b, 28))
	gap := next - m.data - m.packed
	if m.flags&flagDescriptor == 0 {
		return m.sameSizes(b[14:26], gap)
	}
	if !zeros(b[14:26]) {
		return brokenZip("a member has its sizes twice")
	}
	return m.checkDescriptor(r, gap)
}

// sameSizes compares CRC and sizes of the local header, when it has them.
func (m member) sameSizes(b []byte, gap int64) error {
	if gap != 0 {
		return brokenZip("there are bytes that belong to no member")
	}
	if u32(b, 0) != m.crc || int64(u32(b, 4)) != m.packed || int64(u32(b, 8)) != m.size {
		return brokenZip("a member and its entry in the directory differ")
	}
	return nil
}

// checkDescriptor reads CRC and sizes after the packed bytes; their magic is
// optional.
func (m member) checkDescriptor(r io.ReaderAt, gap int64) error {
	if gap != descSize && gap != descSize+4 {
		return brokenZip("there are bytes that belong to no member")
	}
	b, err := readAt(r, m.data+m.packed, int(gap))
	if err != nil {
		return err
	}
	if gap == descSize+4 {
		if u32(b, 0) != descMagic {
			return brokenZip("there are bytes that belong to no member")
		}
		b = b[4:]
	}
	return m.sameSizes(b, 0)
}

func nameMembers(a, b member) (bin, sig member, err error) {
	if a.name == sigName {
		a, b = b, a
	}
	if a.name != binName || b.name != sigName {
		return member{}, member{}, wrongMembers()
	}
	if b.size > maxSig {
		return member{}, member{}, errs.Invalid(ruleSize, "%s has %d bytes, more than the %d that are read", sigName, b.size, maxSig)
	}
	return a, b, nil
}

// memberReader unpacks a member. It gives io.EOF only once size, CRC and end of
// the packed bytes are as the zip says.
type memberReader struct {
	member
	packed *bufio.Reader
	plain  io.Reader
	sum    hash.Hash32
	read   int64
}

func (m member) open(r io.ReaderAt) *memberReader {
	packed := bufio.NewReaderSize(io.NewSectionReader(r, m.data, m.packed), bufferSize)
	plain := io.Reader(packed)
	if m.method == methodDeflate {
		// Not the library that packs: two that agree are worth more than one.
		plain = flate.NewReader(packed)
	}
	return &memberReader{member: m, packed: packed, plain: plain, sum: crc32.NewIEEE()}
}

func (m *memberReader) Read(p []byte) (n int, err error) {
	n, err = m.plain.Read(p)
	m.read += int64(n)
	if m.read > m.size {
		return 0, brokenZip("a member is longer than it says")
	}
	m.sum.Write(p[:n]) // never fails
	if err == io.EOF {
		return n, m.end()
	}
	return n, damaged(err)
}

func (m *memberReader) end() error {
	if m.read != m.size {
		return brokenZip("a member is shorter than it says")
	}
	if m.sum.Sum32() != m.crc {
		return brokenZip("a member does not match its CRC")
	}
	if _, err := m.packed.ReadByte(); err != io.EOF {
		return brokenZip("a member has packed bytes after its end")
	}
	return io.EOF
}

// damaged tells a broken file from a reader that fails: the first stays as it
// is, the second may be tried again.
func damaged(err error) error {
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.From(err, errs.KindInvalid, ruleZip, "the zip is broken: a member cannot be unpacked")
	}
	return err
}

// readAt reads n bytes, which the caller has bounded.
func readAt(r io.ReaderAt, offset int64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := r.ReadAt(b, offset)
	if got == n {
		return b, nil
	}
	if err == io.EOF {
		return nil, brokenZip("it is cut off")
	}
	return nil, err
}

func u16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }

func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
