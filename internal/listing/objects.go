package listing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/store"
)

// project turns what the database says into what the bucket should say.
func project(x store.Index, now time.Time) exportfile.Index {
	index := exportfile.Index{Sequence: x.Sequence, Time: now}
	for _, f := range x.Files {
		index.Files = append(index.Files, exportfile.IndexEntry{
			Name: f.Object, Size: f.Size, SHA256: f.SHA256,
			FirstEpoch: f.FirstEpoch, LastEpoch: f.LastEpoch,
		})
	}
	return index
}

// leaveOutMissing takes the files out of the index that are not in the bucket:
// one download that fails stops a phone from getting any other file. No run of
// ours takes away what is listed, so the operator is told.
func leaveOutMissing(ctx context.Context, bucket blob.Bucket, x *store.Index) (missing, err error) {
	there := map[string]bool{}
	for info, err := range bucket.List(ctx, x.Root+"/") {
		if err != nil {
			return nil, err
		}
		there[info.Name] = true
	}
	var present []store.IndexedFile
	for _, f := range x.Files {
		if there[f.Object] {
			present = append(present, f)
		}
	}
	if gone := len(x.Files) - len(present); gone > 0 {
		missing = fmt.Errorf("%d of %d files are no longer in bucket %s and were left out of the index: look for a lifecycle rule or a person that deleted them", gone, len(x.Files), x.Bucket)
	}
	x.Files = present
	return missing, nil
}

// maxIndex bounds what is read of an index: 16 MiB hold more than 50 000 files.
const maxIndex = 16 << 20

// read gives the bytes and the sequence number of one of the index's objects.
func read(ctx context.Context, bucket blob.Bucket, name string) (_ []byte, sequence int64, err error) {
	defer errs.Wrap(&err, "read(%s)", name)
	body, info, err := bucket.Open(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxIndex))
	return content, info.Sequence, err
}

func object(contentType string, content []byte) blob.Object {
	return blob.Object{
		ContentType:  contentType,
		CacheControl: exportfile.CacheIndex,
		Size:         int64(len(content)),
		Body:         bytes.NewReader(content),
	}
}
