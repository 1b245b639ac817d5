package configuration

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"enkeyserver/internal/exportfile"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
)

func (c *checker) pulls() (all []store.PullConfig) {
	if c.file.Federation == nil {
		return nil
	}
	names := map[string]bool{}
	for i, p := range c.file.Federation.Pull {
		c.entry("federation.pull", "federation pull", p.Name, i)
		c.name(p.Name)
		c.once("name", p.Name, names)
		c.server(p.Server)
		pull := store.PullConfig{
			Name: p.Name, Server: p.Server, CA: c.ca(p.TLS), CertFile: p.TLS.CertFile, KeyFile: p.TLS.KeyFile, Audience: p.Audience,
			OnlyTravelers: p.OnlyTravelers, OnlyLocalProvenance: p.OnlyLocalProvenance,
		}
		pull.IncludeRegions, pull.ExcludeRegions = c.exchanged(p.IncludeRegions, p.ExcludeRegions)
		c.token(p.Token, &pull)
		if (p.TLS.CertFile == "") != (p.TLS.KeyFile == "") {
			c.problem("tls: certFile and keyFile belong together: give both or none")
		}
		all = append(all, pull)
	}
	return all
}

func (c *checker) server(address string) {
	host, port, err := net.SplitHostPort(address)
	if n, portErr := strconv.Atoi(port); err != nil || host == "" || portErr != nil || n < 1 || n > 65535 {
		c.problem("server must be a host with a port, such as federation.example.org:443")
	}
}

// ca gives the certificates of authorities, in PEM.
func (c *checker) ca(t TLS) string {
	text := []byte(t.CA)
	if t.CAFile != "" {
		if t.CA != "" {
			c.problem("tls: give either ca or caFile")
		}
		path := t.CAFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.dir, path)
		}
		var err error
		if text, err = os.ReadFile(path); err != nil {
			c.problem("tls: caFile: %v", err)
			return ""
		}
	}
	certificates, err := certificatesIn(text)
	if err != nil {
		c.problem("tls: ca: %v", err)
	}
	return certificates
}

// certificatesIn gives the certificates of a PEM text and nothing else of it.
func certificatesIn(text []byte) (string, error) {
	var b strings.Builder
	for rest := text; len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("it must hold certificates in PEM and nothing else")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("it holds a certificate that cannot be read: %w", err)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	return b.String(), nil
}

// exchanged insists on regions by name: without them a neighbour could put its
// keys into regions of ours, or be given those that were meant for another.
func (c *checker) exchanged(include, exclude []string) (_, _ []string) {
	if len(include) == 0 {
		c.problem("includeRegions must name the regions whose keys are exchanged")
	}
	return c.regions("includeRegions", include), c.regions("excludeRegions", exclude)
}

func (c *checker) token(t Token, p *store.PullConfig) {
	given := 0
	if t.File != "" {
		given++
		p.TokenKind, p.TokenFile = store.TokenFromFile, t.File
		if !filepath.IsAbs(t.File) {
			c.problem("token: file must be an absolute path, on the machine of federation-in")
		}
	}
	if t.Google {
		given++
		p.TokenKind = store.TokenFromGoogle
		c.needed("audience", p.Audience)
	}
	if cc := t.ClientCredentials; cc != nil {
		given++
		p.TokenKind, p.TokenURL, p.ClientID, p.ClientSecret = store.TokenFromClient, cc.TokenURL, cc.ClientID, cc.ClientSecret
		c.address("token: tokenURL", cc.TokenURL)
		c.needed("token: clientID", cc.ClientID)
		if !strings.HasPrefix(cc.ClientSecret, "secret://") {
			c.problem("token: clientSecret must be a secret:// reference: the secret itself must not stand in the configuration")
		}
	}
	if given != 1 {
		c.problem("token must be one of file, google and clientCredentials")
	}
}

func (c *checker) allows() (all []store.AllowConfig) {
	if c.file.Federation == nil {
		return nil
	}
	names, callers := map[string]bool{}, map[string]bool{}
	for i, a := range c.file.Federation.Allow {
		c.entry("federation.allow", "federation allow", a.Name, i)
		c.name(a.Name)
		c.once("name", a.Name, names)
		c.address("issuer", a.Issuer)
		c.needed("subject", a.Subject)
		c.needed("audience", a.Audience)
		c.once("issuer, subject and audience", a.Issuer+" "+a.Subject+" "+a.Audience, callers)
		allow := store.AllowConfig{Name: a.Name, Issuer: a.Issuer, Subject: a.Subject, Audience: a.Audience}
		allow.IncludeRegions, allow.ExcludeRegions = c.exchanged(a.IncludeRegions, a.ExcludeRegions)
		all = append(all, allow)
	}
	return all
}

func (c *checker) imports() (all []store.ImportConfig) {
	names := map[string]bool{}
	for n, i := range c.file.Imports {
		c.entry("imports", "import", i.Name, n)
		c.name(i.Name)
		c.once("name", i.Name, names)
		c.address("index", i.Index)
		c.address("root", i.Root)
		c.region("region", i.Region)
		if len(i.Keys) == 0 {
			c.problem("keys must name the keys with which the files are signed: anybody could else warn people")
		}
		all = append(all, store.ImportConfig{
			Name: i.Name, IndexURL: i.Index, RootURL: i.Root, Region: i.Region, Traveler: i.Traveler,
			ReportWhenMissing: c.reportWhenMissing(i.ReportWhenMissing), OnsetWhenMissing: c.onsetWhenMissing(i.OnsetWhenMissing),
			Keys: c.trusted(i.Keys),
		})
	}
	return all
}

func (c *checker) reportWhenMissing(text string) exposure.Report {
	if text == "" {
		return exposure.Confirmed
	}
	r, ok := exposure.ParseReport(text)
	if !ok || r == exposure.Revoked {
		c.problem("reportWhenMissing must be confirmed, likely or user-report")
	}
	return r
}

func (c *checker) onsetWhenMissing(days *int) *int16 {
	if days == nil {
		return nil
	}
	if *days < -14 || *days > 14 {
		c.problem("onsetWhenMissing must be -14..14 days")
	}
	onset := int16(*days)
	return &onset
}

// trusted are the keys with which somebody else signs files.
func (c *checker) trusted(list []PublicKey) (all []store.TrustedKey) {
	names := map[string]bool{}
	for _, k := range list {
		c.needed("the id of a key", k.ID)
		c.once("the pair of key id and version", k.ID+"-"+k.Version, names)
		from, thru := c.window("key "+k.ID+": ", k.From, k.Thru)
		all = append(all, store.TrustedKey{ID: k.ID, Version: k.Version, PublicKey: c.pem(k), From: from, Thru: thru})
	}
	return all
}

func (c *checker) mirrors() (all []store.MirrorConfig) {
	names, places := map[string]bool{}, map[string]bool{}
	for i, m := range c.file.Mirrors {
		c.entry("mirrors", "mirror", m.Name, i)
		c.name(m.Name)
		c.once("name", m.Name, names)
		c.address("index", m.Index)
		c.address("root", m.Root)
		c.place(m.Bucket, m.To)
		c.once("the pair of bucket and to", m.Bucket+" "+m.To, places)
		if _, err := exportfile.ParseRewrite(m.Rewrite); err != nil {
			c.problem("rewrite: %v", err)
		}
		all = append(all, store.MirrorConfig{
			Name: m.Name, IndexURL: m.Index, RootURL: m.Root, Bucket: m.Bucket, Root: m.To, Rewrite: m.Rewrite, Keys: c.trusted(m.Keys),
		})
	}
	return all
}

// address insists on what may be asked. Plain http is for development, where
// the service that asks decides.
func (c *checker) address(field, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		c.problem("%s must be an https:// address", field)
	}
}

// neighbourReferences refuses a mirror that would write over an export.
func neighbourReferences(final store.Configuration) (found problems) {
	owner := map[string]string{}
	for _, x := range final.Exports {
		owner[x.Bucket+" "+x.Root] = x.Name
	}
	for _, m := range final.Mirrors {
		if name, ok := owner[m.Bucket+" "+m.Root]; ok {
			found = append(found, fmt.Sprintf("mirror %s: bucket %s and to %s belong to the export %s: choose another place", m.Name, m.Bucket, m.Root, name))
		}
	}
	return found
}

func pullNameOf(p store.PullConfig) string     { return p.Name }
func allowNameOf(a store.AllowConfig) string   { return a.Name }
func importNameOf(i store.ImportConfig) string { return i.Name }
func mirrorNameOf(m store.MirrorConfig) string { return m.Name }

// neighbours plans the exchange of keys. Who is removed stays known by the keys
// that are there, and may come back.
func (p *planner) neighbours() {
	put, remove := &p.reconfiguration.Put, &p.reconfiguration.Remove
	compare(p, "federation pull", p.current.Pulls, p.wanted.Pulls, pullNameOf, pullFields, &put.Pulls)
	remove.Pulls = removals(p, "federation pull", p.current.Pulls, p.wanted.Pulls, pullNameOf, pullFields)
	compare(p, "federation allow", p.current.Allows, p.wanted.Allows, allowNameOf, allowFields, &put.Allows)
	remove.Allows = removals(p, "federation allow", p.current.Allows, p.wanted.Allows, allowNameOf, allowFields)
	compare(p, "import", p.current.Imports, p.wanted.Imports, importNameOf, importFields, &put.Imports)
	remove.Imports = removals(p, "import", p.current.Imports, p.wanted.Imports, importNameOf, importFields)
	kept := p.keptMirrors()
	compare(p, "mirror", kept, p.wanted.Mirrors, mirrorNameOf, mirrorFields, &put.Mirrors)
	remove.Mirrors = removals(p, "mirror", kept, p.wanted.Mirrors, mirrorNameOf, mirrorFields)
}

func (p *planner) keptMirrors() (kept []store.MirrorConfig) {
	for _, m := range p.current.Mirrors {
		if !m.Ended {
			kept = append(kept, m)
		}
	}
	return kept
}

// sameMirrorPlaces keeps the place of a mirror its own, as samePlaces does for
// exports and for the same reason.
func (p *planner) sameMirrorPlaces() (found problems) {
	taken := map[string]string{}
	for _, m := range p.current.Mirrors {
		taken[m.Bucket+" "+m.Root] = m.Name
	}
	current := index(p.current.Mirrors, mirrorNameOf)
	for _, m := range p.wanted.Mirrors {
		old, ok := current[m.Name]
		if ok && (old.Bucket != m.Bucket || old.Root != m.Root) {
			found = append(found, fmt.Sprintf("mirror %s: its bucket and its place there never change, they are %s and %s: add a mirror of another name for the new place", m.Name, old.Bucket, old.Root))
		}
		if owner, ok := taken[m.Bucket+" "+m.Root]; ok && owner != m.Name {
			found = append(found, fmt.Sprintf("mirror %s: bucket %s and to %s belong to the mirror %s for ever: choose another place", m.Name, m.Bucket, m.Root, owner))
		}
	}
	return found
}

func pullFields(p store.PullConfig) []Field {
	fields := []Field{
		{Name: "server", New: p.Server},
		{Name: "tls.ca", New: digest(p.CA)},
		{Name: "tls.certFile", New: p.CertFile},
		{Name: "tls.keyFile", New: p.KeyFile},
		{Name: "audience", New: p.Audience},
		{Name: "includeRegions", New: strings.Join(p.IncludeRegions, " ")},
		{Name: "excludeRegions", New: strings.Join(p.ExcludeRegions, " ")},
		{Name: "onlyTravelers", New: yes(p.OnlyTravelers)},
		{Name: "onlyLocalProvenance", New: yes(p.OnlyLocalProvenance)},
		{Name: "token", New: string(p.TokenKind)},
		{Name: "token.file", New: p.TokenFile},
		{Name: "token.tokenURL", New: p.TokenURL},
		{Name: "token.clientID", New: p.ClientID},
		{Name: "token.clientSecret", New: p.ClientSecret},
	}
	return given(fields)
}

func allowFields(a store.AllowConfig) []Field {
	return given([]Field{
		{Name: "issuer", New: a.Issuer},
		{Name: "subject", New: a.Subject},
		{Name: "audience", New: a.Audience},
		{Name: "includeRegions", New: strings.Join(a.IncludeRegions, " ")},
		{Name: "excludeRegions", New: strings.Join(a.ExcludeRegions, " ")},
	})
}

func importFields(i store.ImportConfig) []Field {
	fields := []Field{
		{Name: "index", New: i.IndexURL},
		{Name: "root", New: i.RootURL},
		{Name: "region", New: i.Region},
		{Name: "traveler", New: yes(i.Traveler)},
		{Name: "reportWhenMissing", New: i.ReportWhenMissing.String()},
	}
	if i.OnsetWhenMissing != nil {
		fields = append(fields, Field{Name: "onsetWhenMissing", New: fmt.Sprint(*i.OnsetWhenMissing)})
	}
	return append(given(fields), trustedFields(i.Keys)...)
}

func mirrorFields(m store.MirrorConfig) []Field {
	fields := []Field{
		{Name: "index", New: m.IndexURL},
		{Name: "root", New: m.RootURL},
		{Name: "bucket", New: m.Bucket},
		{Name: "to", New: m.Root},
		{Name: "rewrite", New: m.Rewrite},
	}
	return append(given(fields), trustedFields(m.Keys)...)
}

func trustedFields(keys []store.TrustedKey) (fields []Field) {
	for _, k := range keys {
		fields = append(fields, Field{Name: strings.TrimSpace("key " + k.ID + " " + k.Version), New: digest(k.PublicKey) + window(k.From, k.Thru)})
	}
	return fields
}

// digest stands for a text that is too long to compare by eye.
func digest(text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf("SHA-256 %x", sha256.Sum256([]byte(text)))
}

// given leaves out what is not set.
func given(fields []Field) (set []Field) {
	for _, f := range fields {
		if f.New != "" {
			set = append(set, f)
		}
	}
	return set
}

func federationOf(c store.Configuration) *Federation {
	if len(c.Pulls)+len(c.Allows) == 0 {
		return nil
	}
	f := &Federation{}
	for _, p := range c.Pulls {
		f.Pull = append(f.Pull, pullOf(p))
	}
	for _, a := range c.Allows {
		f.Allow = append(f.Allow, Allow(a))
	}
	return f
}

func pullOf(p store.PullConfig) Pull {
	pull := Pull{
		Name: p.Name, Server: p.Server, TLS: TLS{CA: p.CA, CertFile: p.CertFile, KeyFile: p.KeyFile}, Audience: p.Audience,
		IncludeRegions: p.IncludeRegions, ExcludeRegions: p.ExcludeRegions,
		OnlyTravelers: p.OnlyTravelers, OnlyLocalProvenance: p.OnlyLocalProvenance,
	}
	switch p.TokenKind {
	case store.TokenFromFile:
		pull.Token.File = p.TokenFile
	case store.TokenFromGoogle:
		pull.Token.Google = true
	case store.TokenFromClient:
		pull.Token.ClientCredentials = &ClientCredentials{TokenURL: p.TokenURL, ClientID: p.ClientID, ClientSecret: p.ClientSecret}
	}
	return pull
}

func importOf(i store.ImportConfig) Import {
	file := Import{
		Name: i.Name, Index: i.IndexURL, Root: i.RootURL, Region: i.Region, Traveler: i.Traveler, Keys: trustedOf(i.Keys),
		ReportWhenMissing: i.ReportWhenMissing.String(),
	}
	if i.OnsetWhenMissing != nil {
		days := int(*i.OnsetWhenMissing)
		file.OnsetWhenMissing = &days
	}
	return file
}

func mirrorOf(m store.MirrorConfig) Mirror {
	return Mirror{
		Name: m.Name, Index: m.IndexURL, Root: m.RootURL, Bucket: m.Bucket, To: m.Root, Rewrite: m.Rewrite, Keys: trustedOf(m.Keys),
	}
}

func trustedOf(list []store.TrustedKey) []PublicKey {
	keys := []PublicKey{}
	for _, k := range list {
		keys = append(keys, PublicKey{ID: k.ID, Version: k.Version, PublicKey: k.PublicKey, From: optional(k.From), Thru: optional(k.Thru)})
	}
	return keys
}
