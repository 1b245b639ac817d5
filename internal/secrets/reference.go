package secrets

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// Prefix starts every reference.
const Prefix = "secret://"

// The managers, as references and SECRET_MANAGER call them.
const (
	nameGoogle = "gcp"
	nameAWS    = "aws"
	nameAzure  = "azure"
	nameVault  = "vault"
	nameFile   = "file"
)

// identity is what a manager must know to find a secret.
type identity struct {
	manager string
	name    string
	version string // what stands after version=; empty: the current one
}

// reference is a whole reference.
type reference struct {
	identity
	field string
	file  bool // the value is wanted in a file
}

// kind is how the secrets of one manager are named.
type kind struct {
	title    string         // for people
	names    *regexp.Regexp // whole names
	versions *regexp.Regexp // what version= may say; nil: nothing
	grammar  string         // how to write a reference
	right    string         // what to do when reading is forbidden
}

// kinds are the managers' ways. Names are strict, so that a password that was
// put behind secret:// by mistake is rarely sent anywhere, and no name can
// become another path at its manager.
var kinds = sync.OnceValue(func() map[string]kind {
	return map[string]kind{
		nameGoogle: {
			title:   "Google Secret Manager",
			names:   regexp.MustCompile(`^projects/[a-z0-9.:-]+(/locations/[a-z0-9-]+)?/secrets/[A-Za-z0-9_-]+(/versions/[A-Za-z0-9_-]+)?$`),
			grammar: "secret://gcp/projects/PROJECT/secrets/NAME, with /versions/VERSION if not the latest",
			right:   "grant its account the role roles/secretmanager.secretAccessor",
		},
		nameAWS: {
			title:    "AWS Secrets Manager",
			names:    regexp.MustCompile(`^[A-Za-z0-9/_+=.@:-]+$`),
			versions: regexp.MustCompile(`^[A-Za-z0-9/_+=.@:-]{1,256}$`),
			grammar:  "secret://aws/NAME, with ?version=STAGE-OR-ID if not the current one",
			right:    "allow its role secretsmanager:GetSecretValue, and kms:Decrypt if the secret has a key of its own",
		},
		nameAzure: {
			title:    "Azure Key Vault",
			names:    regexp.MustCompile(`^([A-Za-z0-9-]{3,24}|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)/[A-Za-z0-9-]{1,127}$`),
			versions: regexp.MustCompile(`^[0-9a-f]{32}$`),
			grammar:  "secret://azure/VAULT/NAME, with ?version=ID if not the current one",
			right:    "give its identity the role Key Vault Secrets User",
		},
		nameVault: {
			title:    "Vault",
			names:    regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*?/data(/[A-Za-z0-9 _+=.@:-]+)+$`),
			versions: regexp.MustCompile(`^[0-9]{1,9}$`),
			grammar:  "secret://vault/MOUNT/data/PATH#FIELD, with ?version=NUMBER before the # if not the latest",
			right:    "give its policy the capability read on this path, and look whether its token has expired",
		},
		nameFile: {
			title:   "the files of secrets",
			names:   regexp.MustCompile(`^/?[^/\x00]+(/[^/\x00]+)*$`),
			grammar: "secret://file/NAME for a file in SECRETS_DIR, secret://file//PATH for any other one",
			right:   "let its user read the file",
		},
	}
})

// parse reads a reference. What it refuses it does not repeat: it might be the
// secret itself.
func parse(ref, byDefault string) (reference, error) {
	rest, ok := strings.CutPrefix(ref, Prefix)
	if !ok {
		return reference{}, errors.New("a reference to a secret begins with secret://")
	}
	rest, fragment, hasField := strings.Cut(rest, "#")
	name, query, _ := strings.Cut(rest, "?")

	var p reference
	p.manager, p.name, p.field = byDefault, name, fragment
	if first, after, ok := strings.Cut(name, "/"); ok {
		if _, known := kinds()[first]; known {
			p.manager, p.name = first, after
		}
	}
	k, known := kinds()[p.manager]
	if !known {
		return reference{}, errors.New("SECRET_MANAGER must be one of gcp, aws, azure, vault, file")
	}
	if !k.names.MatchString(p.name) || dotted(p.name) || (p.manager == nameVault && !hasField) {
		return reference{}, errors.New("a secret of " + k.title + " is referred to by " + k.grammar)
	}
	if hasField && (p.field == "" || strings.ContainsAny(p.field, "?#")) {
		return reference{}, errors.New("after # a reference names one field of the secret, and nothing stands behind that")
	}
	err := p.options(query, k)
	return p, err
}

// dotted names climb out of where they should stay.
func dotted(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

func (p *reference) options(query string, k kind) error {
	values, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
	if err != nil {
		return errOptions
	}
	for option, all := range values {
		switch {
		case len(all) > 1:
			return errOptions
		case option == "target" && all[0] == "file":
			p.file = true
		case option == "version" && k.versions == nil:
			return errors.New("?version= is not for " + k.title + ": write " + k.grammar)
		case option == "version" && k.versions.MatchString(all[0]):
			p.version = all[0]
		default:
			return errOptions
		}
	}
	return nil
}

var errOptions = errors.New("after ? a reference may say version=…, target=file, or both with & between, each once")
