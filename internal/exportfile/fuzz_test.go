package exportfile_test

import (
	"bytes"
	"runtime"
	"slices"
	"testing"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
)

// seeds are files that are good, and nearly so.
func seeds(f *testing.F) (trusted exportfile.PublicKey) {
	f.Helper()
	s, trusted := signer(f, "310", "v1")
	file, _ := write(f, []exportfile.Signer{s}, exposures(1, 20), exposures(2, 3))
	members := unzip(f, file)
	empty, _ := write(f, []exportfile.Signer{s}, nil, nil)
	f.Add(file)
	f.Add(empty)
	f.Add(file[:len(file)/2])
	f.Add(members["export.bin"])
	return trusted
}

// zipped makes a zip of what fuzzing found, so that it reaches the message
// without having to guess a CRC.
func zipped(bin []byte) []byte {
	return storedZip(slices.Concat([]byte(binHeader), bin), []byte{})
}

// FuzzCheck: no file makes Check panic, allocate far more than it is long, or
// fail with anything but the name of a rule.
func FuzzCheck(f *testing.F) {
	trusted := seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range [][]byte{data, zipped(data)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := check(file, trusted)
			runtime.ReadMemStats(&after)
			if err != nil && errs.KindOf(err) != errs.KindInvalid {
				t.Errorf("err = %v, want the name of a rule", err)
			}
			if got, most := after.TotalAlloc-before.TotalAlloc, uint64(2<<20+64*len(file)); got > most {
				t.Errorf("Check allocates %d bytes for a file of %d", got, len(file))
			}
		}
	})
}

// FuzzRead: what can be read can be written again, if it keeps the rules, and
// is then read the same.
func FuzzRead(f *testing.F) {
	seeds(f)
	s, trusted := signer(f, "310", "v1")
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, file := range [][]byte{data, zipped(data)} {
			keys, revised, c, err := readAll(file)
			if err != nil {
				continue
			}
			if c.Keys != len(keys) || c.Revised != len(revised) {
				t.Fatalf("%d and %d keys visited, %d and %d counted", len(keys), len(revised), c.Keys, c.Revised)
			}
			rewrite(t, s, trusted, keys, revised)
		}
	})
}

func rewrite(t *testing.T, s exportfile.Signer, trusted exportfile.PublicKey, keys, revised []exposure.Exposure) {
	t.Helper()
	slices.SortFunc(keys, exportfile.Compare)
	slices.SortFunc(revised, exportfile.Compare)
	var b bytes.Buffer
	if _, err := exportfile.Write(t.Context(), &b, meta, []exportfile.Signer{s}, seq(keys), seq(revised)); err != nil {
		return
	}
	gotKeys, gotRevised, _, err := readAll(b.Bytes())
	if err != nil || !slices.EqualFunc(keys, gotKeys, same) || !slices.EqualFunc(revised, gotRevised, same) {
		t.Errorf("read otherwise than written: %v", err)
	}
	// Two rules look at more than one key, or at the clock; Write leaves them
	// to Check.
	_, err = check(b.Bytes(), trusted)
	if err != nil && errs.CodeOf(err) != "duplicate_key" && errs.CodeOf(err) != "not_released" {
		t.Errorf("Write wrote what Check refuses: %v", err)
	}
}

func same(a, b exposure.Exposure) bool { return exportfile.Compare(a, b) == 0 }

// FuzzIndexText: what is accepted is written as the same names.
func FuzzIndexText(f *testing.F) {
	f.Add([]byte("us/1604563200-1604577600-00001.zip\nus/1604577600-1604592000-00001.zip"))
	f.Add([]byte("a b\tc\r\nd"))
	f.Add([]byte("../a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := exportfile.ParseIndexText(data)
		if err != nil {
			return
		}
		var x exportfile.Index
		for _, name := range names {
			x.Files = append(x.Files, exportfile.IndexEntry{Name: name})
		}
		text := x.Text()
		if !bytes.Equal(text, bytes.Join(bytes.Fields(data), []byte("\n"))) {
			t.Errorf("%q is written as %q", data, text)
		}
		again, err := exportfile.ParseIndexText(text)
		if err != nil || !slices.Equal(names, again) {
			t.Errorf("%q is read as %q, then as %q, %v", data, names, again, err)
		}
	})
}

// FuzzIndexJSON: what is accepted is written, and is then the same for good.
func FuzzIndexJSON(f *testing.F) {
	good, err := index().JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"sequence":1,"time":"2020-11-05T12:00:00+01:00","files":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := exportfile.ParseIndexJSON(data)
		if err != nil {
			return
		}
		first, err := x.JSON()
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		again, err := exportfile.ParseIndexJSON(first)
		if err != nil {
			t.Fatalf("written but not read: %v", err)
		}
		second, err := again.JSON()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s becomes %s, %v", first, second, err)
		}
	})
}

// FuzzVerifyIndex: only what SignIndex made is believed.
func FuzzVerifyIndex(f *testing.F) {
	s, trusted := signer(f, "310", "v1")
	sig, err := exportfile.SignIndex(payload, []exportfile.Signer{s})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload, sig)
	f.Fuzz(func(t *testing.T, data, sig []byte) {
		if err := exportfile.VerifyIndex(data, sig, []exportfile.PublicKey{trusted}); err == nil && !bytes.Equal(data, payload) {
			t.Errorf("%q is believed", data)
		}
	})
}
