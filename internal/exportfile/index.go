package exportfile

import "time"

// Index is the list of the files of an export, oldest first.
type Index struct {
	Sequence int64
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

// Text is index.txt.
func (x Index) Text() []byte { panic("unwritten") }

// JSON is index.json.
func (x Index) JSON() ([]byte, error) { panic("unwritten") }

// ParseIndexText reads index.txt.
func ParseIndexText(text []byte) ([]string, error) { panic("unwritten") }

// ParseIndexJSON reads index.json.
func ParseIndexJSON(data []byte) (Index, error) { panic("unwritten") }

// SignIndex makes index.sig.json of the bytes of index.json.
func SignIndex(json []byte, signers []Signer) ([]byte, error) { panic("unwritten") }

// VerifyIndex tells whether sig is a signature of json by a trusted key.
func VerifyIndex(json, sig []byte, trusted []PublicKey) error { panic("unwritten") }
