package exportfile

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"enkeyserver/internal/errs"
)

// Index is the list of the files of an export, oldest first. Phones remember
// the last entry that they read and go on after it: entries are only ever added
// at the end, and dropped at the front.
type Index struct {
	Sequence int64 // grows with each change; says which of two is newer
	Time     time.Time
	Files    []IndexEntry
}

// IndexEntry is one file of an index.
type IndexEntry struct {
	Name                  string // root included
	Size                  int64
	SHA256                []byte // of the object
	FirstEpoch, LastEpoch int
}

// Bounds of an index that is read. Ours list two weeks of files.
const (
	maxIndex      = 32 << 20
	maxEntries    = 100_000
	maxObjectName = 1024
)

// Text is index.txt: the names, one a line. There is no line end after the last
// one, since some readers would take what follows it for one more name.
func (x Index) Text() []byte {
	names := make([]string, 0, len(x.Files))
	for _, f := range x.Files {
		names = append(names, f.Name)
	}
	return []byte(strings.Join(names, "\n"))
}

// ParseIndexText reads an index.txt, its own or another server's, in the way of
// phones: split at white space.
func ParseIndexText(text []byte) (names []string, err error) {
	defer errs.Wrap(&err, "ParseIndexText(%d bytes)", len(text))

	if len(text) > maxIndex || !utf8.Valid(text) {
		return nil, errs.Invalid("index", "an index is UTF-8 of at most %d bytes", maxIndex)
	}
	names = strings.Fields(string(text))
	if err := checkEntries(names); err != nil {
		return nil, err
	}
	return names, nil
}

// checkEntries holds for every list of names, before it is written and after
// it is read.
func checkEntries(names []string) error {
	if len(names) > maxEntries {
		return errs.Invalid("index", "an index has at most %d entries", maxEntries)
	}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		if !relative(name) {
			return errs.Invalid("index", "entry %d is not the relative name of an object", i)
		}
		if seen[name] {
			return errs.Invalid("index", "entry %d repeats an earlier one", i)
		}
		seen[name] = true
	}
	return nil
}

// CheckEntry refuses what cannot stand in an index as the name of an object:
// resolved as a path, as a URL or in a bucket, it must stay below where the
// index says.
func CheckEntry(name string) error {
	if !relative(name) {
		return errs.Invalid("index", "an entry is not the relative name of an object")
	}
	return nil
}

// relative tells whether a name stays below where the index says, wherever it
// is resolved: as a path, as a URL or in a bucket.
func relative(name string) bool {
	if name == "" || len(name) > maxObjectName || !utf8.ValidString(name) || strings.ContainsFunc(name, unsafeInName) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// unsafeInName tells the characters that end a name, begin a query or a scheme,
// hide others, or are no characters.
func unsafeInName(r rune) bool {
	return !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == utf8.RuneError || strings.ContainsRune(`\?#%:"<>|`, r)
}

// indexJSON and entryJSON are the words of index.json.
type indexJSON struct {
	Sequence int64       `json:"sequence"`
	Time     time.Time   `json:"time"`
	Files    []entryJSON `json:"files"`
}

type entryJSON struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"` // hexadecimal
	FirstEpoch int    `json:"firstEpoch"`
	LastEpoch  int    `json:"lastEpoch"`
}

// JSON is index.json. It refuses an index that no reader would accept, so it is
// made before index.txt is written.
func (x Index) JSON() (_ []byte, err error) {
	defer errs.Wrap(&err, "Index.JSON(%d)", x.Sequence)

	if err := x.check(); err != nil {
		return nil, ours(err, "the index cannot be written")
	}
	out := indexJSON{Sequence: x.Sequence, Time: x.Time.UTC(), Files: make([]entryJSON, 0, len(x.Files))}
	for _, f := range x.Files {
		out.Files = append(out.Files, entryJSON{f.Name, f.Size, hex.EncodeToString(f.SHA256), f.FirstEpoch, f.LastEpoch})
	}
	return json.Marshal(out)
}

// ParseIndexJSON reads an index.json. Names that it does not know it skips:
// later servers may say more.
func ParseIndexJSON(data []byte) (x Index, err error) {
	defer errs.Wrap(&err, "ParseIndexJSON(%d bytes)", len(data))

	if len(data) > maxIndex {
		return Index{}, errs.Invalid("index", "an index has at most %d bytes", maxIndex)
	}
	var in indexJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return Index{}, errs.From(err, errs.KindInvalid, "index", "the index is not the JSON that it should be")
	}
	x = Index{Sequence: in.Sequence, Time: in.Time.UTC()}
	for i, f := range in.Files {
		sum, err := hex.DecodeString(f.SHA256)
		if err != nil {
			return Index{}, errs.Invalid("index", "the SHA-256 of entry %d is not hexadecimal", i)
		}
		x.Files = append(x.Files, IndexEntry{f.Name, f.Size, sum, f.FirstEpoch, f.LastEpoch})
	}
	if err := x.check(); err != nil {
		return Index{}, err
	}
	return x, nil
}

func (x Index) check() error {
	if x.Sequence < 0 {
		return errs.Invalid("index", "the sequence number is negative")
	}
	if year := x.Time.UTC().Year(); year < 2020 || year > 9999 {
		return errs.Invalid("index", "the time of the index is in the year %d", year)
	}
	names := make([]string, 0, len(x.Files))
	for i, f := range x.Files {
		if err := f.check(); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		names = append(names, f.Name)
	}
	return checkEntries(names)
}

func (f IndexEntry) check() error {
	if f.Size <= 0 || len(f.SHA256) != 32 {
		return errs.Invalid("index", "an entry has a size and a SHA-256")
	}
	if f.FirstEpoch < 0 || f.LastEpoch < f.FirstEpoch {
		return errs.Invalid("index", "an entry's first epoch is not after its last")
	}
	return nil
}
