package configuration

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

var (
	regionForm  = regexp.MustCompile(`^[A-Z]{2,}(-[A-Z0-9]+)*$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	keyNameForm = regexp.MustCompile(`^[A-Za-z0-9_]+$`) // protocol, section 8: of the name by which phones look keys up
	rootForm    = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)
)

// checker collects everything that is wrong with a file. Its methods are named
// after what they check.
type checker struct {
	file  File
	dir   string
	found problems
	at    string // where the entry stands that is looked at, and its name
}

// check gives what the file means, or all that is wrong with it.
func (f File) check(dir string) (store.Configuration, error) {
	c := checker{file: f, dir: dir}
	wanted := store.Configuration{
		Authorities: c.authorities(),
		Apps:        c.apps(),
		SigningKeys: c.signingKeys(),
		Exports:     c.exports(),
		Pulls:       c.pulls(),
		Allows:      c.allows(),
		Imports:     c.imports(),
		Mirrors:     c.mirrors(),
	}
	if len(c.found) > 0 {
		return store.Configuration{}, c.found
	}
	sortAll(&wanted)
	return wanted, nil
}

func sortAll(c *store.Configuration) {
	slices.SortFunc(c.Authorities, func(a, b store.AuthorityConfig) int { return cmp.Compare(a.Issuer, b.Issuer) })
	slices.SortFunc(c.Apps, func(a, b store.AppConfig) int { return cmp.Compare(a.AppID, b.AppID) })
	slices.SortFunc(c.SigningKeys, func(a, b store.SigningKeyConfig) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Exports, func(a, b store.ExportConfig) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Pulls, func(a, b store.PullConfig) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Allows, func(a, b store.AllowConfig) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Imports, func(a, b store.ImportConfig) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Mirrors, func(a, b store.MirrorConfig) int { return cmp.Compare(a.Name, b.Name) })
}

// entry starts the look at one entry of a section.
func (c *checker) entry(section, kind, name string, number int) {
	c.at = c.file.lines.of(section, number) + kind + " " + cmp.Or(name, fmt.Sprintf("number %d", number+1)) + ": "
}

func (c *checker) problem(format string, args ...any) {
	c.found = append(c.found, c.at+fmt.Sprintf(format, args...))
}

func (c *checker) authorities() (all []store.AuthorityConfig) {
	issuers := map[string]bool{}
	for i, a := range c.file.HealthAuthorities {
		c.entry("healthAuthorities", "health authority", a.Issuer, i)
		c.needed("issuer", a.Issuer)
		c.needed("audience", a.Audience)
		c.once("issuer", a.Issuer, issuers)
		c.jwksURI(a.JWKSURI)
		all = append(all, store.AuthorityConfig{
			Issuer: a.Issuer, Audience: a.Audience, Name: a.Name, JWKSURI: a.JWKSURI, StatsAPI: a.StatsAPI,
			Keys: c.authorityKeys(a.Keys),
		})
	}
	return all
}

// longestURI fits into an index of the database, beside the name of a key.
const longestURI = 1000

func (c *checker) jwksURI(uri string) {
	if u, err := url.Parse(uri); uri != "" && (err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || len(uri) > longestURI) {
		c.problem("jwksURI must be an https:// address without a user, of at most %d bytes, or empty", longestURI)
	}
}

func (c *checker) authorityKeys(list []PublicKey) (all []store.AuthorityKeyConfig) {
	ids := map[string]bool{}
	for _, k := range list {
		c.needed("the id of a key", k.ID)
		c.once("the key id", k.ID, ids)
		if k.Version != "" {
			c.problem("key %s: a health authority's key has no version: its id is the kid of certificates", k.ID)
		}
		from, thru := c.window("key "+k.ID+": ", k.From, k.Thru)
		all = append(all, store.AuthorityKeyConfig{Version: k.ID, PublicKey: c.pem(k), From: from, Thru: thru})
	}
	slices.SortFunc(all, func(a, b store.AuthorityKeyConfig) int { return cmp.Compare(a.Version, b.Version) })
	return all
}

// pem gives the key in one form, so that white space makes no difference.
func (c *checker) pem(k PublicKey) string {
	text := []byte(k.PublicKey)
	switch {
	case (k.PublicKey == "") == (k.PublicKeyFile == ""):
		c.problem("key %s: give either publicKey or publicKeyFile", k.ID)
		return ""
	case k.PublicKeyFile != "":
		path := k.PublicKeyFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.dir, path)
		}
		var err error
		if text, err = os.ReadFile(path); err != nil {
			c.problem("key %s: publicKeyFile: %v", k.ID, err)
			return ""
		}
	}
	key, err := keys.ParsePublicPEM(text)
	if err != nil {
		c.problem("key %s: %v", k.ID, err)
		return ""
	}
	canonical, err := keys.PublicPEM(key)
	if err != nil {
		c.problem("key %s: %v", k.ID, err)
	}
	return string(canonical)
}

func (c *checker) apps() (all []store.AppConfig) {
	ids := map[string]bool{}
	for i, a := range c.file.AuthorizedApps {
		id := strings.ToLower(a.ID)
		c.entry("authorizedApps", "app", id, i)
		c.needed("id", id)
		c.once("id", id, ids)
		all = append(all, store.AppConfig{
			AppID: id, Regions: c.regions("regions", a.Regions), Authorities: c.set("healthAuthorities", a.HealthAuthorities),
			SkipCertificate: a.SkipCertificate, SkipRevisionToken: a.SkipRevisionToken,
			Attestation: c.attestation(a.Attestation),
		})
	}
	return all
}

func (c *checker) signingKeys() (all []store.SigningKeyConfig) {
	names, lookups := map[string]bool{}, map[string]bool{}
	for i, k := range c.file.SigningKeys {
		c.entry("signingKeys", "signing key", k.Name, i)
		c.name(k.Name)
		c.once("name", k.Name, names)
		if !keyNameForm.MatchString(k.ID) || !keyNameForm.MatchString(k.Version) {
			c.problem("id and version must consist of letters, digits and underscores: phones look a key up by them")
		}
		c.once("the pair of id and version", k.ID+"-"+k.Version, lookups)
		if err := keys.CheckURL(k.Key); err != nil {
			c.problem("key: %v", err)
		}
		from, thru := c.window("", k.From, k.Thru)
		all = append(all, store.SigningKeyConfig{
			Name: k.Name, KeyURL: k.Key, KeyID: k.ID, KeyVersion: k.Version, From: from, Leads: c.leads(from, k.Leads, thru), Thru: thru,
		})
	}
	return all
}

func (c *checker) exports() (all []store.ExportConfig) {
	names, places := map[string]bool{}, map[string]bool{}
	for i, x := range c.file.Exports {
		c.entry("exports", "export", x.Name, i)
		c.name(x.Name)
		c.once("name", x.Name, names)
		c.place(x.Bucket, x.Root)
		c.once("the pair of bucket and root", x.Bucket+" "+x.Root, places)
		c.region("region", x.Region)
		c.period(time.Duration(x.Period))
		c.maxRecords(x.MaxRecords)
		from, thru := c.window("", x.From, x.Thru)
		export := store.ExportConfig{
			Name: x.Name, Bucket: x.Bucket, Root: x.Root, Region: x.Region,
			InputRegions: c.regions("inputRegions", x.InputRegions), ExcludeRegions: c.regions("excludeRegions", x.ExcludeRegions),
			Travelers: c.travelers(x.Travelers), Provenance: c.provenance(x.Provenance), Period: time.Duration(x.Period), From: from, Thru: thru,
			Backfill: x.Backfill, SigningKeys: c.set("signingKeys", x.SigningKeys), MaxRecords: x.MaxRecords,
		}
		c.filter(export)
		c.signers(export.SigningKeys)
		all = append(all, export)
	}
	return all
}

// place insists on one spelling: the same folder under two would be two exports
// that write over each other.
func (c *checker) place(bucket, root string) {
	if err := blob.CheckURL(bucket); err != nil {
		c.problem("bucket: %v", err)
	} else if u, err := url.Parse(bucket); err != nil || u.Scheme == "file" && (filepath.Clean(u.Path) != u.Path || u.String() != bucket) {
		c.problem("bucket must be written without a slash at its end, doubled slashes or dots: file:///var/lib/en/bucket")
	}
	if !rootForm.MatchString(root) {
		c.problem("root must be a relative path of letters, digits and . _ ~ - such as us or europe/de")
	}
}

// longestPeriod leaves a key time to be published before it is forgotten.
const longestPeriod = 7 * 24 * time.Hour

func (c *checker) period(period time.Duration) {
	if period <= 0 || period%time.Second != 0 || period > longestPeriod {
		c.problem("period must be a whole number of seconds above 0, such as 4h, and at most %s", longestPeriod)
	}
}

func (c *checker) maxRecords(n int) {
	if n < 0 || n > exportfile.MaxKeys {
		c.problem("maxRecords must be 0 (the server's default) or more, up to %d", exportfile.MaxKeys)
	}
}

func (c *checker) travelers(text string) store.Travelers {
	switch t := store.Travelers(text); t {
	case store.TravelersInclude, store.TravelersOwnRegion, store.TravelersExclude:
		return t
	case "":
		return store.TravelersOwnRegion
	}
	c.problem("travelers must be include, own-region or exclude")
	return ""
}

func (c *checker) provenance(text string) store.Provenance {
	switch p := store.Provenance(text); p {
	case store.ProvenanceAny, store.ProvenanceLocal:
		return p
	case "":
		return store.ProvenanceAny
	}
	c.problem("provenance must be any or local")
	return ""
}

// filter refuses an export to which no key can ever belong.
func (c *checker) filter(x store.ExportConfig) {
	if len(x.InputRegions) == 0 && x.Travelers != store.TravelersInclude {
		c.problem("inputRegions must name a region: without one no key belongs to this export")
	}
	for _, region := range x.InputRegions {
		if slices.Contains(x.ExcludeRegions, region) {
			c.problem("%s is both in inputRegions and in excludeRegions: remove one", region)
		}
	}
}

func (c *checker) signers(names []string) {
	if len(names) > exportfile.MaxSigners {
		c.problem("signingKeys names %d keys, phones read at most %d: remove the oldest", len(names), exportfile.MaxSigners)
	}
}

func (c *checker) needed(field, value string) {
	if strings.TrimSpace(value) != value || value == "" {
		c.problem("%s must be set, without white space around it", field)
	}
}

func (c *checker) name(name string) {
	if !nameForm.MatchString(name) {
		c.problem("name must consist of letters, digits and . _ - and start with a letter or digit")
	}
}

func (c *checker) once(field, value string, seen map[string]bool) {
	if value != "" && seen[value] {
		c.problem("%s %s is used a second time: give each its own", field, value)
	}
	seen[value] = true
}

func (c *checker) region(field, region string) {
	if !regionForm.MatchString(region) {
		c.problem("%s: %q must be two or more upper-case letters, such as US or US-CA", field, region)
	}
}

func (c *checker) regions(field string, list []string) []string {
	for _, region := range list {
		c.region(field, region)
	}
	return c.set(field, list)
}

// set sorts a list in which order means nothing.
func (c *checker) set(field string, list []string) []string {
	sorted := slices.Sorted(slices.Values(list))
	for i, v := range sorted {
		if v == "" {
			c.problem("%s holds an empty name: remove it", field)
		}
		if i > 0 && v == sorted[i-1] {
			c.problem("%s names %s twice: remove one", field, v)
		}
	}
	return sorted
}

func (c *checker) window(of string, from, thru *time.Time) (time.Time, time.Time) {
	if from != nil && thru != nil && !timeOf(from).Before(timeOf(thru)) {
		c.problem("%sfrom must be before thru", of)
	}
	return timeOf(from), timeOf(thru)
}

// leads is when a signing key begins to lead.
func (c *checker) leads(from time.Time, leads *time.Time, thru time.Time) time.Time {
	at := timeOf(leads)
	if leads != nil && (at.Before(from) || !thru.IsZero() && !at.Before(thru)) {
		c.problem("leads must not be before from, and must be before thru")
	}
	return at
}

// references refuses what names something that will not be there, or is
// somebody else's.
func references(final store.Configuration) error {
	found := neighbourReferences(final)
	authorities, signers := map[string]bool{}, map[string]bool{}
	for _, a := range final.Authorities {
		authorities[a.Issuer] = true
	}
	for _, k := range final.SigningKeys {
		signers[k.Name] = true
	}
	for _, a := range final.Apps {
		for _, issuer := range a.Authorities {
			if !authorities[issuer] {
				found = append(found, fmt.Sprintf("app %s: there is no health authority %s: add it, or correct the name", a.AppID, issuer))
			}
		}
	}
	for _, x := range final.Exports {
		for _, name := range x.SigningKeys {
			if !signers[name] {
				found = append(found, fmt.Sprintf("export %s: there is no signing key %s: add it, or correct the name", x.Name, name))
			}
		}
	}
	if len(found) > 0 {
		return errs.From(found, errs.KindInvalid, "configuration", "the configuration cannot be applied")
	}
	return nil
}
