package configuration

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
)

// Action is what happens to an entry.
type Action string

// The actions. An export is never removed, for the names of its objects must not
// be used again: it ends, and may be revived.
const (
	Add    Action = "add"
	Update Action = "change"
	Remove Action = "remove"
	End    Action = "end"
	Revive Action = "revive"
)

// Change is one entry that differs.
type Change struct {
	Action Action  `json:"action"`
	Kind   string  `json:"kind"` // "health authority", "app", "signing key", "export", …
	Name   string  `json:"name"`
	Fields []Field `json:"fields"`
}

// Field is what differs in an entry. Of an added one Old is empty.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// Plan is the way from the configuration that is to the one that is wanted.
type Plan struct {
	Changes []Change `json:"changes"`
	Notes   []string `json:"notes"` // what is allowed and perhaps not meant

	reconfiguration store.Reconfiguration
}

// Empty tells whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Changes) == 0 }

// NewPlan compares two configurations, and refuses a wanted one that could not be
// reached: one that names what will not be there, or moves an export.
func NewPlan(current, wanted store.Configuration, others Others, now time.Time) (Plan, error) {
	p := planner{
		Plan:    Plan{Changes: []Change{}, Notes: []string{}},
		current: current, wanted: wanted, others: others, now: now.UTC().Truncate(time.Second),
	}
	final, err := p.final()
	if err != nil {
		return Plan{}, err
	}
	if err := references(final); err != nil {
		return Plan{}, err
	}
	if err := refuseGaps(final, p.now); err != nil {
		return Plan{}, err
	}
	p.authorities()
	p.apps()
	p.signingKeys(final)
	p.exports()
	p.neighbours()
	p.note(final)
	return p.Plan, nil
}

// Others is the policy for entries that the wanted configuration lacks.
type Others string

// The policies.
const (
	KeepOthers   Others = "keep"
	RemoveOthers Others = "remove"
)

type planner struct {
	Plan
	current, wanted store.Configuration
	others          Others
	now             time.Time
}

// final is what will be there, as far as references are concerned. Exports that
// go on need their signing keys; those that have ended are looked after apart.
func (p *planner) final() (store.Configuration, error) {
	if err := p.samePlaces(); err != nil {
		return store.Configuration{}, err
	}
	if p.others == RemoveOthers {
		return p.wanted, nil
	}
	return store.Configuration{
		Authorities: merge(p.current.Authorities, p.wanted.Authorities, issuerOf),
		Apps:        merge(p.current.Apps, p.wanted.Apps, appIDOf),
		SigningKeys: merge(p.current.SigningKeys, p.wanted.SigningKeys, keyNameOf),
		Exports:     merge(p.current.Exports, p.wanted.Exports, exportNameOf),
		Pulls:       merge(p.current.Pulls, p.wanted.Pulls, pullNameOf),
		Allows:      merge(p.current.Allows, p.wanted.Allows, allowNameOf),
		Imports:     merge(p.current.Imports, p.wanted.Imports, importNameOf),
		Mirrors:     merge(p.current.Mirrors, p.wanted.Mirrors, mirrorNameOf),
	}, nil
}

func issuerOf(a store.AuthorityConfig) string   { return a.Issuer }
func appIDOf(a store.AppConfig) string          { return a.AppID }
func keyNameOf(k store.SigningKeyConfig) string { return k.Name }
func exportNameOf(x store.ExportConfig) string  { return x.Name }

// merge gives the wanted entries and those that only are there, by name.
func merge[T any](current, wanted []T, name func(T) string) []T {
	byName := index(wanted, name)
	merged := slices.Clone(wanted)
	for _, v := range current {
		if _, ok := byName[name(v)]; !ok {
			merged = append(merged, v)
		}
	}
	slices.SortFunc(merged, func(a, b T) int { return cmp.Compare(name(a), name(b)) })
	return merged
}

func index[T any](all []T, name func(T) string) map[string]T {
	byName := map[string]T{}
	for _, v := range all {
		byName[name(v)] = v
	}
	return byName
}

// samePlaces keeps bucket and root with their export for ever: phones remember
// the last name that they have read, and a name that comes again is another
// file to them, or none.
func (p *planner) samePlaces() error {
	var found problems
	taken := map[string]string{}
	for _, x := range p.current.Exports {
		taken[x.Bucket+" "+x.Root] = x.Name
	}
	current := index(p.current.Exports, exportNameOf)
	for _, x := range p.wanted.Exports {
		old, ok := current[x.Name]
		if ok && (old.Bucket != x.Bucket || old.Root != x.Root) {
			found = append(found, fmt.Sprintf("export %s: its bucket and root never change, they are %s and %s: add an export of another name for the new place", x.Name, old.Bucket, old.Root))
		}
		if owner, ok := taken[x.Bucket+" "+x.Root]; ok && owner != x.Name {
			found = append(found, fmt.Sprintf("export %s: bucket %s and root %s belong to the export %s for ever, even when that has ended: choose another root", x.Name, x.Bucket, x.Root, owner))
		}
	}
	found = append(found, p.sameMirrorPlaces()...)
	if len(found) > 0 {
		return errs.From(found, errs.KindInvalid, "configuration", "the configuration cannot be applied")
	}
	return nil
}

func (p *planner) authorities() {
	put := &p.reconfiguration.Put.Authorities
	compare(p, "health authority", p.current.Authorities, p.wanted.Authorities, issuerOf, authorityFields, put)
	p.reconfiguration.Remove.Authorities = removals(p, "health authority", p.current.Authorities, p.wanted.Authorities, issuerOf, authorityFields)
	p.noteKeySets()
}

// noteKeySets tells what the next moments bring for authorities whose key set
// moves.
func (p *planner) noteKeySets() {
	current := index(p.current.Authorities, issuerOf)
	for _, a := range p.wanted.Authorities {
		if old := current[a.Issuer].JWKSURI; old != "" && old != a.JWKSURI {
			p.Notes = append(p.Notes, fmt.Sprintf("health authority %s: keys that were discovered at its old jwksURI are refused from now on; call /update of jwks to read the new one at once", a.Issuer))
		}
	}
}

func (p *planner) apps() {
	put := &p.reconfiguration.Put.Apps
	compare(p, "app", p.current.Apps, p.wanted.Apps, appIDOf, appFields, put)
	p.reconfiguration.Remove.Apps = removals(p, "app", p.current.Apps, p.wanted.Apps, appIDOf, appFields)
}

// signingKeys keeps those that exports which have ended, or end now, still need:
// for their last files, and for the indexes from which files are taken out.
func (p *planner) signingKeys(final store.Configuration) {
	put := &p.reconfiguration.Put.SigningKeys
	compare(p, "signing key", p.current.SigningKeys, p.wanted.SigningKeys, keyNameOf, signingKeyFields, put)
	var gone []store.SigningKeyConfig
	for _, k := range p.current.SigningKeys {
		if user := p.lastUser(k.Name, final); user == "" {
			gone = append(gone, k)
		} else if _, wanted := index(p.wanted.SigningKeys, keyNameOf)[k.Name]; !wanted && p.others == RemoveOthers {
			p.Notes = append(p.Notes, fmt.Sprintf("signing key %s is kept: export %s has ended and still signs with it", k.Name, user))
		}
	}
	p.reconfiguration.Remove.SigningKeys = removals(p, "signing key", gone, p.wanted.SigningKeys, keyNameOf, signingKeyFields)
}

// lastUser is an export that is not among the final ones and needs the key.
func (p *planner) lastUser(key string, final store.Configuration) string {
	staying := index(final.Exports, exportNameOf)
	for _, x := range p.current.Exports {
		_, stays := staying[x.Name]
		if !stays && x.Unfinished && slices.Contains(x.SigningKeys, key) {
			return x.Name
		}
	}
	return ""
}

func (p *planner) exports() {
	current := index(p.current.Exports, exportNameOf)
	for _, x := range p.wanted.Exports {
		old, ok := current[x.Name]
		switch {
		case !ok:
			p.change(Add, "export", x.Name, nil, exportFields(x))
		case p.ended(old) && !p.ended(x):
			p.change(Revive, "export", x.Name, exportFields(old), exportFields(x))
		case !p.change(Update, "export", x.Name, exportFields(old), exportFields(x)):
			continue
		}
		p.reconfiguration.Put.Exports = append(p.reconfiguration.Put.Exports, x)
	}
	if p.others == RemoveOthers {
		p.endOthers()
	}
}

func (p *planner) endOthers() {
	wanted := index(p.wanted.Exports, exportNameOf)
	for _, x := range p.current.Exports {
		if _, ok := wanted[x.Name]; ok || p.ended(x) {
			continue
		}
		ended := x
		ended.Thru = p.now
		p.change(End, "export", x.Name, exportFields(x), exportFields(ended))
		p.reconfiguration.Put.Exports = append(p.reconfiguration.Put.Exports, ended)
	}
}

func (p *planner) ended(x store.ExportConfig) bool { return !x.Thru.IsZero() && !x.Thru.After(p.now) }

// compare plans what is to be added and changed.
func compare[T any](p *planner, kind string, current, wanted []T, name func(T) string, fields func(T) []Field, put *[]T) {
	there := index(current, name)
	for _, v := range wanted {
		old, ok := there[name(v)]
		if !ok {
			p.change(Add, kind, name(v), nil, fields(v))
		} else if !p.change(Update, kind, name(v), fields(old), fields(v)) {
			continue
		}
		*put = append(*put, v)
	}
}

// removals plans what is to be removed, and names it.
func removals[T any](p *planner, kind string, current, wanted []T, name func(T) string, fields func(T) []Field) (names []string) {
	if p.others != RemoveOthers {
		return nil
	}
	staying := index(wanted, name)
	for _, v := range current {
		if _, ok := staying[name(v)]; !ok {
			p.change(Remove, kind, name(v), fields(v), nil)
			names = append(names, name(v))
		}
	}
	return names
}

// change notes an entry that differs. It reports false when it does not.
func (p *planner) change(action Action, kind, name string, old, wanted []Field) bool {
	fields := difference(old, wanted)
	if len(fields) == 0 && action == Update {
		return false
	}
	p.Changes = append(p.Changes, Change{Action: action, Kind: kind, Name: name, Fields: fields})
	return true
}

// note tells of what is allowed but perhaps not meant.
func (p *planner) note(final store.Configuration) {
	for _, a := range final.Authorities {
		if len(a.Keys) == 0 && a.JWKSURI == "" {
			p.Notes = append(p.Notes, fmt.Sprintf("health authority %s has no key: every certificate of it is refused", a.Issuer))
		}
	}
	for _, a := range final.Apps {
		p.noteApp(a)
	}
	for _, x := range final.Exports {
		p.noteSigning(x, final.SigningKeys)
	}
}

func (p *planner) noteSigning(x store.ExportConfig, keys []store.SigningKeyConfig) {
	if p.ended(x) {
		return
	}
	if len(x.SigningKeys) == 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("export %s has no signing key: no file is made for it", x.Name))
		return
	}
	for _, w := range SigningOf(x, keys, p.now).Warnings {
		p.Notes = append(p.Notes, fmt.Sprintf("export %s: %s", x.Name, w.Text))
	}
}

func (p *planner) noteApp(a store.AppConfig) {
	if len(a.Regions) == 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("app %s has no region: its uploads fail", a.AppID))
	}
	if a.SkipCertificate {
		p.Notes = append(p.Notes, fmt.Sprintf("app %s uploads without a certificate: anybody can warn people, use it for development only", a.AppID))
	} else if len(a.Authorities) == 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("app %s has no health authority: its uploads are refused", a.AppID))
	}
	p.noteAttestation(a)
}

// difference lists the fields that are not the same; both lists are complete and
// in the order in which they are to be shown.
func difference(old, wanted []Field) (fields []Field) {
	before := map[string]string{}
	for _, f := range old {
		before[f.Name] = f.New
	}
	after := map[string]bool{}
	for _, f := range wanted {
		after[f.Name] = true
		if before[f.Name] != f.New {
			fields = append(fields, Field{Name: f.Name, Old: before[f.Name], New: f.New})
		}
	}
	for _, f := range old {
		if !after[f.Name] && f.New != "" {
			fields = append(fields, Field{Name: f.Name, Old: f.New})
		}
	}
	return fields
}

func authorityFields(a store.AuthorityConfig) []Field {
	fields := []Field{
		{Name: "audience", New: a.Audience},
		{Name: "name", New: a.Name},
		{Name: "jwksURI", New: a.JWKSURI},
		{Name: "statsAPI", New: yes(a.StatsAPI)},
	}
	for _, k := range a.Keys {
		// A fingerprint says all that a reader can compare.
		text := fmt.Sprintf("SHA-256 %x", sha256.Sum256([]byte(k.PublicKey)))
		fields = append(fields, Field{Name: "key " + k.Version, New: text + window(k.From, k.Thru)})
	}
	return fields
}

func appFields(a store.AppConfig) []Field {
	fields := []Field{
		{Name: "regions", New: strings.Join(a.Regions, " ")},
		{Name: "healthAuthorities", New: strings.Join(a.Authorities, " ")},
		{Name: "skipCertificate", New: yes(a.SkipCertificate)},
		{Name: "skipRevisionToken", New: yes(a.SkipRevisionToken)},
	}
	return append(fields, policyFields(a)...)
}

func signingKeyFields(k store.SigningKeyConfig) []Field {
	return []Field{
		{Name: "key", New: k.KeyURL},
		{Name: "id", New: k.KeyID},
		{Name: "version", New: k.KeyVersion},
		{Name: "from", New: at(k.From)},
		{Name: "leads", New: at(k.Leads)},
		{Name: "thru", New: at(k.Thru)},
	}
}

func exportFields(x store.ExportConfig) []Field {
	fields := []Field{
		{Name: "bucket", New: x.Bucket},
		{Name: "root", New: x.Root},
		{Name: "region", New: x.Region},
		{Name: "inputRegions", New: strings.Join(x.InputRegions, " ")},
		{Name: "excludeRegions", New: strings.Join(x.ExcludeRegions, " ")},
		{Name: "travelers", New: string(x.Travelers)},
		{Name: "provenance", New: string(x.Provenance)},
		{Name: "period", New: Duration(x.Period).String()},
		{Name: "from", New: at(x.From)},
		{Name: "thru", New: at(x.Thru)},
		{Name: "backfill", New: yes(x.Backfill)},
		{Name: "signingKeys", New: strings.Join(x.SigningKeys, " ")},
	}
	if x.MaxRecords != 0 {
		fields = append(fields, Field{Name: "maxRecords", New: fmt.Sprint(x.MaxRecords)})
	}
	return fields
}

func yes(set bool) string {
	if set {
		return "true"
	}
	return ""
}

func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func window(from, thru time.Time) (text string) {
	if !from.IsZero() {
		text += " from " + at(from)
	}
	if !thru.IsZero() {
		text += " thru " + at(thru)
	}
	return text
}
