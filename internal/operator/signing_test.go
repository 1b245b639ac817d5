package operator_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/export"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/listing"
	"enkeyserver/internal/store"
)

const oneDay = 24 * time.Hour

// press is a desk with an export, and the services that publish it.
type press struct {
	*desk
	folder  string
	uploads int
	public  map[string]exportfile.PublicKey // by version
}

func newPress(t *testing.T) *press {
	t.Helper()
	p := &press{desk: newDesk(t), folder: t.TempDir(), public: map[string]exportfile.PublicKey{}}
	for _, version := range []string{"v1", "v2"} {
		public, err := keys.CreateSigningKey(filepath.Join(p.folder, version+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		p.public[version] = exportfile.PublicKey{ID: "310", Version: version, Key: public.(*ecdsa.PublicKey)}
	}
	return p
}

// apply writes the file of a configuration whose signing keys have these dates.
func (p *press) apply(v1, v2 string) {
	p.t.Helper()
	text := fmt.Sprintf(`
signingKeys:
  - {name: us-1, key: "file://%[1]s/v1.pem", id: "310", version: v1%[2]s}
  - {name: us-2, key: "file://%[1]s/v2.pem", id: "310", version: v2%[3]s}
exports:
  - {name: us, bucket: "file://%[1]s/bucket", root: us, region: US, inputRegions: [US], period: 1h, signingKeys: [us-1, us-2]}
`, p.folder, v1, v2)
	p.must(text, "apply", "-f", "-")
}

// cut stores, seals and cuts three new keys.
func (p *press) cut() {
	p.t.Helper()
	if _, err := p.db.EnsurePartitions(p.t.Context(), p.now, 16*oneDay); err != nil {
		p.t.Fatal(err)
	}
	p.uploads++
	_, err := p.db.AddUpload(p.t.Context(), p.now, store.Upload{
		Receipt: sha256.Sum256([]byte{byte(p.uploads)}), ReceiptExpires: p.now.Add(time.Hour),
		Keys: entest.Exposures(10*p.uploads, 3, p.now), May: exposure.ByToken(nil),
	}, entest.Rules().Release)
	if err != nil {
		p.t.Fatal(err)
	}
	p.seal()
}

func (p *press) seal() {
	p.t.Helper()
	if _, err := p.db.Seal(p.t.Context(), p.now, store.SealOptions{
		Period: time.Hour, MinUploads: 1, MaxWait: oneDay, Retention: 16 * oneDay, MaxRecords: 1000, Always: true,
	}); err != nil {
		p.t.Fatal(err)
	}
}

// print lets a worker make what was cut, and gives the newest file.
func (p *press) print() string {
	p.t.Helper()
	var buckets blob.Opener
	var ring keys.Ring
	now := func() time.Time { return p.now }
	publisher := listing.New(listing.Deps{Store: p.db, Buckets: &buckets, Keys: &ring, Now: now})
	worker := export.NewWorker(export.WorkerSettings{Timeout: time.Minute, Files: 1}, export.WorkerDeps{
		Store: p.db, Buckets: &buckets, Keys: &ring, Listing: publisher, Now: now,
	})
	if _, err := worker.Run(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	listed := strings.Fields(p.object("us/index.txt"))
	return listed[len(listed)-1]
}

// object reads what phones download.
func (p *press) object(name string) string {
	p.t.Helper()
	bucket, err := blob.Open(context.Background(), "file://"+p.folder+"/bucket")
	if err != nil {
		p.t.Fatal(err)
	}
	body, _, err := bucket.Open(p.t.Context(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(content)
}

// seen is what phones make of a file and its index.
type seen struct {
	File, Index             string // signatures in order
	OldPhone, Both, NewOnly bool   // whether a phone with these keys takes the file
}

func (p *press) look(name string) seen {
	p.t.Helper()
	file := p.object(name)
	check := func(versions ...string) ([]exportfile.KeyName, bool) {
		var trusted []exportfile.PublicKey
		for _, v := range versions {
			trusted = append(trusted, p.public[v])
		}
		contents, err := exportfile.Check(strings.NewReader(file), int64(len(file)), trusted, p.now)
		index := exportfile.VerifyIndex([]byte(p.object("us/index.json")), []byte(p.object("us/index.sig.json")), trusted)
		if (err == nil) != (index == nil) {
			p.t.Errorf("phones with %v: the file says %v, its index %v", versions, err, index)
		}
		return contents.Signatures, err == nil
	}
	s := seen{Index: p.indexSigners()}
	_, s.OldPhone = check("v1")
	_, s.NewOnly = check("v2")
	var names []exportfile.KeyName
	names, s.Both = check("v1", "v2")
	for _, n := range names {
		s.File = strings.TrimSpace(s.File + " " + n.String())
	}
	return s
}

func (p *press) indexSigners() (names string) {
	p.t.Helper()
	var sig struct{ Signatures []struct{ Protected string } }
	if err := json.Unmarshal([]byte(p.object("us/index.sig.json")), &sig); err != nil {
		p.t.Fatal(err)
	}
	for _, s := range sig.Signatures {
		header, err := base64.RawURLEncoding.DecodeString(s.Protected)
		if err != nil {
			p.t.Fatal(err)
		}
		var h struct{ Kid string }
		if err := json.Unmarshal(header, &h); err != nil {
			p.t.Fatal(err)
		}
		names = strings.TrimSpace(names + " " + h.Kid)
	}
	return names
}

func (p *press) expect(why, file string, want seen) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.look(file)); diff != "" {
		p.t.Errorf("%s (-want +got):\n%s", why, diff)
	}
}

// A signing key turns over by its dates: phones that know the old key take
// files to its end, those that know the new one from its beginning, and at each
// time the status says what they see.
func TestSigningKeyTurnsOver(t *testing.T) {
	t.Parallel()
	p := newPress(t)
	begin := p.now
	on := func(days int) string { return begin.Add(time.Duration(days) * oneDay).Format(time.RFC3339) }
	p.apply("", ", from: 2030-01-01T00:00:00Z")
	p.seal() // the batcher meets the export

	p.now = begin.Add(time.Hour)
	p.cut()
	first := p.print()
	p.expect("before", first, seen{File: "310-v1", Index: "310-v1", OldPhone: true, Both: true})

	p.apply(", thru: "+on(60), fmt.Sprintf(", from: %s, leads: %s", on(1), on(8)))
	p.says(`
export us (US)
  the next file is signed by
    310-v1  us-1  leads      thru `+on(60)+`
    310-v2  us-2  is coming  from `+on(1)+`, leads `+on(8)+`
  the newest file is `+first+` of `+p.now.Format(time.RFC3339)+`, signed by 310-v1
  `+on(1)+`: us-2 is added; then 310-v1, 310-v2
  `+on(8)+`: us-2 leads; then 310-v2, 310-v1
  `+on(60)+`: us-1 ends; then 310-v2
`, "", "signing", "status")

	p.now = begin.Add(2 * oneDay)
	p.cut()
	p.expect("rehearsed", p.print(), seen{File: "310-v1 310-v2", Index: "310-v1 310-v2", OldPhone: true, Both: true, NewOnly: true})

	p.now = begin.Add(10 * oneDay)
	p.cut()
	p.expect("leading", p.print(), seen{File: "310-v2 310-v1", Index: "310-v2 310-v1", OldPhone: true, Both: true, NewOnly: true})

	p.now = begin.Add(60*oneDay - time.Second)
	p.cut()
	p.now = begin.Add(60 * oneDay)
	frozen := p.status()
	if frozen.Held["us-1"] != 1 || len(frozen.Keys) != 1 {
		t.Errorf("a batch that was cut with the old key is not told of: %+v", frozen)
	}
	file := p.print()
	if _, err := exportfile.Check(strings.NewReader(p.object(file)), int64(len(p.object(file))), []exportfile.PublicKey{p.public["v1"]}, p.now); err != nil {
		t.Errorf("a batch that was cut before the old key's end is not signed by it: %v", err)
	}

	p.now = begin.Add(61 * oneDay)
	p.cut()
	p.expect("after", p.print(), seen{File: "310-v2", Index: "310-v2", Both: true, NewOnly: true})
	if got := p.status(); len(got.Warnings) != 0 || got.Keys[0].Role != "leads" || got.Since.Format(time.RFC3339) != on(60) {
		t.Errorf("at the end: %+v", got)
	}
}

// signingOfExport is what the command says of one export, as programs read it.
type signingOfExport struct {
	Since    time.Time
	Keys     []struct{ Name, Role string }
	Held     map[string]int `json:"unfinishedBatches"`
	Warnings []struct{ Code, Key, Text string }
}

func (p *press) status() signingOfExport {
	p.t.Helper()
	var answer struct{ Exports []signingOfExport }
	if err := json.Unmarshal([]byte(p.must("", "signing", "status", "-o", "json")), &answer); err != nil || len(answer.Exports) != 1 {
		p.t.Fatal(answer, err)
	}
	return answer.Exports[0]
}

// What would blind phones, or keep files from being made, is told.
func TestSigningWarnings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		why   string
		spoil func(p *press)
		want  []string // code and key
	}{
		{"all is well", func(*press) {}, nil},
		{"a key that is gone", func(p *press) { p.remove("v1.pem") }, []string{"cannot_open us-1"}},
		{"a key of tomorrow that is not there", func(p *press) {
			p.apply("", ", from: 2020-11-07T00:00:00Z, leads: 2020-12-01T00:00:00Z")
			p.remove("v2.pem")
		}, []string{"cannot_open us-2"}},
		{"another key behind the same name", func(p *press) {
			p.remove("v1.pem")
			if _, err := keys.CreateSigningKey(filepath.Join(p.folder, "v1.pem")); err != nil {
				p.t.Fatal(err)
			}
		}, []string{"wrong_key us-1"}},
		{"the newest file is gone", func(p *press) {
			p.remove(filepath.Join("bucket", strings.Fields(p.object("us/index.txt"))[0]))
		}, []string{"no_file "}},
		{"a key near its end, and nobody to follow", func(p *press) { p.apply(", thru: 2020-11-20T00:00:00Z", ", thru: 2020-11-21T00:00:00Z") }, []string{"no_key ", "ends_soon us-1", "ends_soon us-2"}},
	} {
		t.Run(tc.why, func(t *testing.T) {
			t.Parallel()
			p := newPress(t)
			p.apply("", "")
			p.seal()
			p.now = p.now.Add(time.Hour)
			p.cut()
			p.print()
			tc.spoil(p)
			var got []string
			for _, w := range p.status().Warnings {
				got = append(got, w.Code+" "+w.Key)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func (p *press) remove(name string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.folder, name)); err != nil {
		p.t.Fatal(err)
	}
}

func TestSigningStatusWithoutExports(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.says("there is no export\n", "", "signing", "status")
	d.fails(2, "arguments", "", "signing", "status", "us")
}
