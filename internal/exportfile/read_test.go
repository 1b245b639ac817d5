package exportfile_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/quick"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
)

// readAll gives both lists of a file.
func readAll(file []byte) (keys, revised []exposure.Exposure, c exportfile.Contents, err error) {
	c, err = exportfile.Read(bytes.NewReader(file), int64(len(file)), func(e exposure.Exposure, isRevised bool) error {
		if isRevised {
			revised = append(revised, e)
		} else {
			keys = append(keys, e)
		}
		return nil
	})
	return keys, revised, c, err
}

// Whatever is written is read back, and passes the rules of phones.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	s, trusted := signer(t, "310", "v1")
	trip := func(seed uint64, n, m uint16) bool {
		keys, revised := exposures(seed, int(n%3000)), exposures(seed+1, int(m%300))
		file, summary := write(t, []exportfile.Signer{s}, keys, revised)
		checked, err := check(file, trusted)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		gotKeys, gotRevised, read, err := readAll(file)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(checked, read) + cmp.Diff(summary.BinSHA256, read.BinSHA256); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
		if !slices.EqualFunc(keys, gotKeys, same) || !slices.EqualFunc(revised, gotRevised, same) {
			t.Errorf("seed %d: read otherwise than written", seed)
		}
		return !t.Failed()
	}
	if err := quick.Check(trip, &quick.Config{MaxCount: 15}); err != nil {
		t.Error(err)
	}
}

// Read shows what is in a file that Check refuses, so that somebody can find out
// why.
func TestReadBelieves(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	d := newDraft(s)
	d.signers = nil
	d.export.BatchNum = proto.Int32(7)
	d.export.Keys[0].RollingPeriod = proto.Int32(1000)
	keys, revised, c, err := readAll(d.file(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || len(revised) != 1 || c.Keys != 2 || c.Revised != 1 || keys[0].Period != 1000 {
		t.Errorf("read %d keys, %d revised, contents %+v", len(keys), len(revised), c)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	long := newDraft(s)
	long.export.Keys[0].KeyData = make([]byte, 17)
	cut := newDraft(s)
	cut.tail = []byte{7<<3 | 2, 34, 1}
	for _, tc := range []struct {
		why  string
		file []byte
		want string
	}{
		{"no zip", []byte("no zip"), "zip"},
		{"a key that is none", long.file(t), "key_length"},
		{"a message that is none", cut.file(t), "message"},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			_, _, _, err := readAll(tc.file)
			checkBroken(t, err, tc.want)
		})
	}
}

func TestReadStopsWithItsVisitor(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, "310", "v1")
	file, _ := write(t, []exportfile.Signer{s}, exposures(1, 10), nil)
	enough := errors.New("enough")
	visits := 0
	_, err := exportfile.Read(bytes.NewReader(file), int64(len(file)), func(exposure.Exposure, bool) error {
		visits++
		return enough
	})
	if !errors.Is(err, enough) || visits != 1 {
		t.Errorf("err = %v after %d visits, want %v after one", err, visits, enough)
	}
}
