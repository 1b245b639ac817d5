package system

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/phone"
)

// Published is everything that phones can download of one export.
type Published struct {
	Root  string
	Index exportfile.Index
	Files []PublishedFile
}

// PublishedFile is one file of an export.
type PublishedFile struct {
	exportfile.IndexEntry
	Contents exportfile.Contents
	Keys     []exposure.Exposure
	Revised  []exposure.Exposure
}

// Audit downloads an export as phones do, all of it, and checks what must hold
// at any time: every listed file is there and breaks no rule of phones; all
// signing keys signed; index.txt, index.json and its signatures say the same;
// no two files share their identity; no key is published as first seen twice.
// An export that has published nothing yet is empty.
func (s *System) Audit(ctx context.Context, root string) (_ Published, err error) {
	defer errs.Wrap(&err, "Audit(%s)", root)
	feed, err := s.Feed(root)
	if err != nil {
		return Published{}, err
	}
	listed, err := feed.List(ctx)
	if err != nil || listed == nil {
		return Published{Root: root}, err
	}
	index, err := readIndex(ctx, feed, root)
	if err != nil {
		return Published{}, err
	}
	if names := namesOf(index); !slices.Equal(names, listed) {
		return Published{}, fmt.Errorf("index.txt lists %d files and index.json %d, or others", len(listed), len(names))
	}
	p := Published{Root: root, Index: index}
	for _, entry := range index.Files {
		file, err := s.auditFile(ctx, feed, entry)
		if err != nil {
			return Published{}, err
		}
		p.Files = append(p.Files, file)
	}
	return p, p.check()
}

// readIndex reads index.json and verifies it with every signing key: each must
// have signed, since a phone or mirror may know only one of them.
func readIndex(ctx context.Context, feed phone.Feed, root string) (exportfile.Index, error) {
	text, err := get(ctx, feed, exportfile.IndexJSON(root))
	if err != nil {
		return exportfile.Index{}, err
	}
	signature, err := get(ctx, feed, exportfile.IndexSignature(root))
	if err != nil {
		return exportfile.Index{}, err
	}
	for _, key := range feed.Trusted {
		if err := exportfile.VerifyIndex(text, signature, []exportfile.PublicKey{key}); err != nil {
			return exportfile.Index{}, fmt.Errorf("key %s-%s: %w", key.ID, key.Version, err)
		}
	}
	return exportfile.ParseIndexJSON(text)
}

func get(ctx context.Context, feed phone.Feed, name string) ([]byte, error) {
	body, status, err := feed.Get(ctx, name)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d", name, status)
	}
	return body, err
}

func namesOf(index exportfile.Index) []string {
	var names []string
	for _, f := range index.Files {
		names = append(names, f.Name)
	}
	return names
}

func (s *System) auditFile(ctx context.Context, feed phone.Feed, entry exportfile.IndexEntry) (_ PublishedFile, err error) {
	defer errs.Wrap(&err, "auditFile(%s)", entry.Name)
	f := PublishedFile{IndexEntry: entry}
	object, err := get(ctx, feed, entry.Name)
	if err != nil {
		return f, err
	}
	if sum := sha256.Sum256(object); int64(len(object)) != entry.Size || !bytes.Equal(sum[:], entry.SHA256) {
		return f, fmt.Errorf("size or hash differ from what index.json says")
	}
	for _, key := range feed.Trusted {
		f.Contents, err = exportfile.Check(bytes.NewReader(object), entry.Size, []exportfile.PublicKey{key}, s.Now())
		if err != nil {
			return f, fmt.Errorf("key %s-%s: %w", key.ID, key.Version, err)
		}
	}
	if f.Contents.Keys+f.Contents.Revised == 0 {
		return f, fmt.Errorf("the file is empty")
	}
	_, err = exportfile.Read(bytes.NewReader(object), entry.Size, func(e exposure.Exposure, revised bool) error {
		if revised {
			f.Revised = append(f.Revised, e)
			return nil
		}
		f.Keys = append(f.Keys, e)
		return nil
	})
	return f, err
}

// check looks at all files together.
func (p Published) check() error {
	seen := map[exposure.Key]string{}
	revised := map[exposure.Key]string{}
	identities := map[[2]int64]string{}
	for _, f := range p.Files {
		identity := [2]int64{f.Contents.Start.Unix(), f.Contents.End.Unix()}
		if other, ok := identities[identity]; ok {
			return fmt.Errorf("%s and %s have the same start and end", other, f.Name)
		}
		identities[identity] = f.Name
		if err := once(f.Name, f.Keys, seen); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
		if err := once(f.Name, f.Revised, revised); err != nil {
			return fmt.Errorf("revised keys: %w", err)
		}
	}
	return nil
}

func once(file string, keys []exposure.Exposure, seen map[exposure.Key]string) error {
	for _, e := range keys {
		if other, ok := seen[e.Key]; ok {
			return fmt.Errorf("a key is in %s and again in %s", other, file)
		}
		seen[e.Key] = file
	}
	return nil
}

// Bytes is the size of all files.
func (p Published) Bytes() (n int64) {
	for _, f := range p.Files {
		n += f.Size
	}
	return n
}

// Find tells what is published of a key: as first seen, and as revised.
func (p Published) Find(key exposure.Key) (first, revised *exposure.Exposure) {
	for _, f := range p.Files {
		for i := range f.Keys {
			if f.Keys[i].Key == key {
				first = &f.Keys[i]
			}
		}
		for i := range f.Revised {
			if f.Revised[i].Key == key {
				revised = &f.Revised[i]
			}
		}
	}
	return first, revised
}
