package operator

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/configuration"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

func signingCommands() []command {
	return []command{{
		name: "signing status", short: "show by which keys phones see exports signed, and what comes",
		help: `
For each export: the keys that sign its next file, the leading one first as
phones see them; what their dates (from, leads, thru) will change; and warnings.
It opens every key that signs or will, and verifies the newest file in the
bucket with them, so run it where the export-worker's keys and buckets can be
used, best before a new key's first day.

  enctl signing status
  enctl signing status -o json | jq -e '[.exports[].warnings[]] == []'`,
		build: buildSigningStatus,
	}}
}

func buildSigningStatus(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := exactly(args); err != nil {
			return err
		}
		return s.withStore(ctx, func(db *store.DB) error {
			status, err := readSigningStatus(ctx, db, s.Now())
			if err != nil {
				return err
			}
			return out.show(status, status.write)
		})
	}
}

// signingStatus is the answer of the command.
type signingStatus struct {
	At      time.Time       `json:"at"`
	Exports []exportSigning `json:"exports"`
}

type exportSigning struct {
	Export   string                         `json:"export"`
	Region   string                         `json:"region"`
	Since    time.Time                      `json:"since,omitzero"` // when today's order began; left out: ever
	Keys     []keySigning                   `json:"keys"`           // that sign the next file, as phones see them
	Coming   []keySigning                   `json:"coming"`         // keys that do not sign yet
	Newest   *newestFile                    `json:"newestFile,omitempty"`
	Next     []signingStep                  `json:"next"`
	Held     map[string]int                 `json:"unfinishedBatches"` // by key, valid or not
	Warnings []configuration.SigningWarning `json:"warnings"`
}

type keySigning struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Role    string    `json:"role"` // leads, follows, is rehearsed or is coming
	From    time.Time `json:"from,omitzero"`
	Leads   time.Time `json:"leads,omitzero"`
	Thru    time.Time `json:"thru,omitzero"`
}

// newestFile is what phones got last.
type newestFile struct {
	Object     string    `json:"object"`
	CutAt      time.Time `json:"cutAt"`
	Signatures []string  `json:"signatures"`
}

type signingStep struct {
	At   time.Time `json:"at"`
	What []string  `json:"what"`
	Keys []string  `json:"keys"` // ids and versions, in order
}

func readSigningStatus(ctx context.Context, db *store.DB, now time.Time) (signingStatus, error) {
	status := signingStatus{At: now.UTC(), Exports: []exportSigning{}}
	c, err := db.Configuration(ctx)
	if err != nil {
		return status, err
	}
	signed, err := db.Signed(ctx)
	if err != nil {
		return status, err
	}
	inspector := signatureInspector{now: now}
	for _, x := range c.Exports {
		if x.Thru.IsZero() || x.Thru.After(now) {
			status.Exports = append(status.Exports, inspector.inspect(ctx, x, c.SigningKeys, signed[x.Name]))
		}
	}
	return status, nil
}

// signatureInspector opens keys and buckets, each once.
type signatureInspector struct {
	now     time.Time
	ring    keys.Ring
	buckets blob.Opener
}

func (i *signatureInspector) inspect(ctx context.Context, x store.ExportConfig, all []store.SigningKeyConfig, signed store.Signed) exportSigning {
	plan := configuration.SigningOf(x, all, i.now)
	e := exportSigning{
		Export: x.Name, Region: x.Region, Since: plan.Since,
		Keys: []keySigning{}, Coming: []keySigning{}, Next: []signingStep{}, Held: map[string]int{},
		Warnings: slices.Concat([]configuration.SigningWarning{}, plan.Warnings),
	}
	for place, k := range plan.Today {
		e.Keys = append(e.Keys, describeKey(k, roleOf(place, k, i.now)))
	}
	used := plan.Today
	for _, k := range all {
		if slices.Contains(x.SigningKeys, k.Name) && k.From.After(i.now) {
			e.Coming = append(e.Coming, describeKey(k, "is coming"))
			used = append(used, k)
		}
	}
	for _, step := range plan.Next {
		e.Next = append(e.Next, signingStep{At: step.At, What: step.What, Keys: phoneNames(step.Keys)})
	}
	maps.Copy(e.Held, signed.Unfinished)
	public, warnings := i.open(ctx, used)
	e.Warnings = append(e.Warnings, warnings...)
	if signed.Newest.Object != "" {
		e.Newest = describeFile(signed.Newest)
		e.Warnings = append(e.Warnings, i.verify(ctx, signed.Newest, public)...)
	}
	return e
}

func roleOf(place int, k store.SigningKeyConfig, now time.Time) string {
	switch {
	case place == 0:
		return "leads"
	case k.LeadsFrom().After(now):
		return "is rehearsed"
	}
	return "follows"
}

func describeKey(k store.SigningKeyConfig, role string) keySigning {
	return keySigning{Name: k.Name, ID: k.KeyID, Version: k.KeyVersion, Role: role, From: k.From, Leads: k.LeadsFrom(), Thru: k.Thru}
}

func describeFile(f store.SignedFile) *newestFile {
	described := newestFile{Object: f.Object, CutAt: f.CutAt, Signatures: []string{}}
	for _, k := range f.SigningKeys {
		described.Signatures = append(described.Signatures, phoneName(k).String())
	}
	return &described
}

func phoneNames(all []store.SigningKeyConfig) []string {
	names := []string{}
	for _, k := range all {
		names = append(names, k.KeyID+"-"+k.KeyVersion)
	}
	return names
}

// open gives the public halves of keys, by the names that phones know, and warns of those that cannot be
// opened: one such key keeps a batch from being finished.
func (i *signatureInspector) open(ctx context.Context, all []store.SigningKeyConfig) (public map[exportfile.KeyName]*ecdsa.PublicKey, warnings []configuration.SigningWarning) {
	public = map[exportfile.KeyName]*ecdsa.PublicKey{}
	for _, k := range all {
		signer, err := i.ring.Signer(ctx, k.KeyURL)
		if err == nil {
			key, ok := signer.Public().(*ecdsa.PublicKey)
			if ok {
				public[exportfile.KeyName{ID: k.KeyID, Version: k.KeyVersion}] = key
				continue
			}
			err = errors.New("it is not an ECDSA key")
		}
		warnings = append(warnings, configuration.SigningWarning{
			Code: "cannot_open", Key: k.Name, At: k.From,
			Text: fmt.Sprintf("%s cannot be opened from here: %v; files that it must sign wait until it can", k.Name, err),
		})
	}
	return public, warnings
}

// verify holds the newest file against the keys of today that signed it: who
// changed what is behind a name that phones know blinds them.
func (i *signatureInspector) verify(ctx context.Context, f store.SignedFile, public map[exportfile.KeyName]*ecdsa.PublicKey) (warnings []configuration.SigningWarning) {
	signers := slices.DeleteFunc(slices.Clone(f.SigningKeys), func(k store.SigningKey) bool { return public[phoneName(k)] == nil })
	if len(signers) == 0 {
		return nil
	}
	file, err := i.download(ctx, f)
	if err != nil {
		return []configuration.SigningWarning{{Code: "no_file", Text: fmt.Sprintf("%s could not be read from its bucket: %v", f.Object, err)}}
	}
	defer file.Close()
	for _, k := range signers {
		trusted := exportfile.PublicKey{ID: k.ID, Version: k.Version, Key: public[phoneName(k)]}
		if _, err := exportfile.Check(file, f.Size, []exportfile.PublicKey{trusted}, i.now); err != nil {
			warnings = append(warnings, warnOfFile(f, k, err))
		}
	}
	return warnings
}

func phoneName(k store.SigningKey) exportfile.KeyName {
	return exportfile.KeyName{ID: k.ID, Version: k.Version}
}

// warnOfFile says what is wrong with a file, or rather with a key.
func warnOfFile(f store.SignedFile, k store.SigningKey, err error) configuration.SigningWarning {
	if errs.CodeOf(err) != "signature" {
		return configuration.SigningWarning{Code: "bad_file", Text: fmt.Sprintf("phones refuse %s: %v", f.Object, err)}
	}
	return configuration.SigningWarning{
		Code: "wrong_key", Key: k.Name,
		Text: fmt.Sprintf("%s is not the key that signed %s as %s-%s; phones know that one, so put it back, or give this one another version", k.Name, f.Object, k.ID, k.Version),
	}
}

// download brings an object into a file that has no name any more.
func (i *signatureInspector) download(ctx context.Context, f store.SignedFile) (_ *os.File, err error) {
	bucket, err := i.buckets.Bucket(ctx, f.Bucket)
	if err != nil {
		return nil, err
	}
	body, _, err := bucket.Open(ctx, f.Object)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	file, err := os.CreateTemp("", "enctl-")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(file, io.LimitReader(body, f.Size))
	if err := errors.Join(err, os.Remove(file.Name())); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (st signingStatus) write(w io.Writer) error {
	if len(st.Exports) == 0 {
		_, err := fmt.Fprintln(w, "there is no export")
		return err
	}
	for n, e := range st.Exports {
		if n > 0 {
			fmt.Fprintln(w)
		}
		if err := e.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (e exportSigning) write(w io.Writer) error {
	fmt.Fprintf(w, "export %s (%s)\n  %s\n", e.Export, e.Region, e.heading())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range append(slices.Clone(e.Keys), e.Coming...) {
		fmt.Fprintf(t, "    %s-%s\t%s\t%s\t%s\n", k.ID, k.Version, k.Name, k.Role, k.dates())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if e.Newest != nil {
		fmt.Fprintf(w, "  the newest file is %s of %s, signed by %s\n", e.Newest.Object, e.Newest.CutAt.Format(time.RFC3339), strings.Join(e.Newest.Signatures, ", "))
	}
	for _, step := range e.Next {
		fmt.Fprintf(w, "  %s: %s; then %s\n", step.At.Format(time.RFC3339), strings.Join(step.What, ", "), orNobody(step.Keys))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Held)) {
		fmt.Fprintf(w, "  %d unfinished batches need %s\n", e.Held[name], name)
	}
	for _, warning := range e.Warnings {
		if _, err := fmt.Fprintf(w, "  warning: %s\n", warning.Text); err != nil {
			return err
		}
	}
	return nil
}

func (e exportSigning) heading() string {
	switch {
	case len(e.Keys) == 0:
		return "nobody signs: no file is made"
	case e.Since.IsZero():
		return "the next file is signed by"
	}
	return "the next file is signed by, as since " + e.Since.Format(time.RFC3339)
}

func (k keySigning) dates() string {
	var dates []string
	if !k.From.IsZero() {
		dates = append(dates, "from "+k.From.Format(time.RFC3339))
	}
	if k.Leads.After(k.From) {
		dates = append(dates, "leads "+k.Leads.Format(time.RFC3339))
	}
	if !k.Thru.IsZero() {
		dates = append(dates, "thru "+k.Thru.Format(time.RFC3339))
	}
	return strings.Join(dates, ", ")
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody signs"
	}
	return strings.Join(names, ", ")
}
