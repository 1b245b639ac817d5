package listingtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
)

// Published is what an export's index and all its files say together.
type Published struct {
	Sequence int64    // 0: there is no index yet
	Files    []string // as listed
	Keys     map[exposure.Key]exposure.Exposure
	Revised  map[exposure.Key]exposure.Exposure
}

// Look downloads what the index of an export lists, and fails the test unless
// all of it is as it should be: each listed file is there and passes the rules
// of phones, sizes and hashes are as told and signed, no key is published
// twice, and the list is the one of the last look, less old entries and plus
// new ones at its end.
func (o *Office) Look(export string) Published {
	o.t.Helper()
	var bucketURL, root string
	if err := o.Pool().QueryRow(o.t.Context(), `SELECT bucket, root FROM export WHERE name = $1`, export).Scan(&bucketURL, &root); err != nil {
		o.t.Fatal(err)
	}
	bucket, err := o.Bucket(o.t.Context(), bucketURL)
	if err != nil {
		o.t.Fatal(err)
	}
	p := Published{Keys: map[exposure.Key]exposure.Exposure{}, Revised: map[exposure.Key]exposure.Exposure{}}
	text, info, err := o.read(bucket, exportfile.IndexText(root))
	if errs.KindOf(err) == errs.KindNotFound {
		return p
	}
	if err == nil {
		p.Sequence = info.Sequence
		p.Files, err = exportfile.ParseIndexText(text)
	}
	if err == nil {
		err = o.lookAtFiles(bucket, &p)
	}
	if err == nil {
		err = o.lookAtIndex(bucket, root, p)
	}
	if err == nil {
		err = onlyAppended(o.listed[root], p.Files)
	}
	if err != nil {
		o.t.Fatalf("export %s: %v", export, err)
	}
	o.listed[root] = p.Files
	return p
}

// lookAtIndex compares the text that phones read with the document that says
// more. The document is written first, so it may be ahead after a crash.
func (o *Office) lookAtIndex(bucket blob.Bucket, root string, p Published) error {
	document, info, err := o.read(bucket, exportfile.IndexJSON(root))
	if err != nil {
		return err
	}
	if info.Sequence != p.Sequence {
		return nil
	}
	signature, _, err := o.read(bucket, exportfile.IndexSignature(root))
	if err != nil {
		return err
	}
	if err := exportfile.VerifyIndex(document, signature, o.trusted); err != nil {
		return err
	}
	index, err := exportfile.ParseIndexJSON(document)
	if err != nil {
		return err
	}
	if index.Sequence != p.Sequence || len(index.Files) != len(p.Files) {
		return fmt.Errorf("index.json says number %d and %d files, index.txt %d and %d", index.Sequence, len(index.Files), p.Sequence, len(p.Files))
	}
	for i, entry := range index.Files {
		content, _, err := o.read(bucket, entry.Name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		if entry.Name != p.Files[i] || entry.Size != int64(len(content)) || !bytes.Equal(entry.SHA256, sum[:]) || entry.FirstEpoch > entry.LastEpoch {
			return fmt.Errorf("index.json does not describe %s as it is", p.Files[i])
		}
	}
	return nil
}

// lookAtFiles downloads everything.
func (o *Office) lookAtFiles(bucket blob.Bucket, p *Published) error {
	identities := map[string]string{}
	for _, name := range p.Files {
		content, info, err := o.read(bucket, name)
		if err != nil {
			return err
		}
		if info.ContentType != exportfile.ContentTypeZip || info.CacheControl != exportfile.CacheFile {
			return fmt.Errorf("%s is served as %s, %s", name, info.ContentType, info.CacheControl)
		}
		contents, err := o.lookAtFile(content, p)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		identity := fmt.Sprint(contents.Start.Unix(), contents.End.Unix())
		if other, taken := identities[identity]; taken {
			return fmt.Errorf("%s and %s have the same start and end", name, other)
		}
		identities[identity] = name
		if err := namedAs(name, contents); err != nil {
			return err
		}
	}
	return nil
}

func (o *Office) lookAtFile(content []byte, p *Published) (exportfile.Contents, error) {
	r := bytes.NewReader(content)
	contents, err := exportfile.Check(r, r.Size(), o.trusted, o.Now())
	if err != nil {
		return contents, err
	}
	_, err = exportfile.Read(r, r.Size(), func(e exposure.Exposure, revised bool) error {
		all := p.Keys
		if revised {
			all = p.Revised
		}
		if _, twice := all[e.Key]; twice {
			return fmt.Errorf("a key is published twice (revised: %t)", revised)
		}
		all[e.Key] = e
		return nil
	})
	return contents, err
}

// namedAs holds a file's name against its header.
func namedAs(name string, contents exportfile.Contents) error {
	_, start, end, _, err := exportfile.ParseObjectName(name)
	if err == nil && (!start.Equal(contents.Start) || !end.Equal(contents.End)) {
		err = fmt.Errorf("%s is not named after its header", name)
	}
	return err
}

// onlyAppended holds an index against the one before: phones remember the last
// entry that they have seen and go on behind it.
func onlyAppended(before, after []string) error {
	kept := before
	for len(kept) > 0 && !slices.Contains(after, kept[0]) {
		kept = kept[1:]
	}
	if len(after) < len(kept) || !slices.Equal(kept, after[:len(kept)]) {
		return fmt.Errorf("the index lost or inserted entries: %v became %v", before, after)
	}
	return nil
}

// Objects gives the bytes of everything that is in a bucket.
func (o *Office) Objects(bucketURL string) map[string][]byte {
	o.t.Helper()
	bucket, err := o.Bucket(o.t.Context(), bucketURL)
	if err != nil {
		o.t.Fatal(err)
	}
	all := map[string][]byte{}
	for info, err := range bucket.List(o.t.Context(), "") {
		if err == nil {
			all[info.Name], _, err = o.read(bucket, info.Name)
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}
	return all
}

func (o *Office) read(bucket blob.Bucket, name string) ([]byte, blob.Info, error) {
	body, info, err := bucket.Open(o.t.Context(), name)
	if err != nil {
		return nil, info, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return content, info, err
}
