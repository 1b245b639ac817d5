// Package arch_test holds the rules about who may import whom.
package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	module = "enkeyserver/"

	// root is where this test finds the module.
	root = "../.."
)

// floors, from the ground. A package may import what stands on a lower floor,
// and what stands inside its own folder. Adding a package means saying here
// where it stands.
var floors = [][]string{
	{"errs", "api", "pb", "telemetry", "secrets"},
	{"exposure", "config", "database", "blob", "keys", "web", "remote"},
	{"store", "exportfile", "certificate", "attestation", "app"},
	{"revision", "job", "listing", "source"},
	{"publish", "export", "cleanup", "rotation", "configuration", "phone", "jwks", "federation", "imports", "mirror"},
	{"operator", "system"},
}

// outside lists libraries, and packages of Go's own, that only the named
// folders may import, and why.
var outside = []struct {
	prefix string
	homes  []string
	why    string
}{
	{"github.com/jackc/", []string{"database", "store"}, "one home for SQL, so that the step to another driver stays small"},
	{"database/sql", []string{"database"}, "the pool is internal/database"},
	{"github.com/golang-migrate/", []string{"database"}, "the schema has one door, internal/database/schema"},
	{"github.com/kelseyhightower/envconfig", []string{"config"}, "settings are read in one way"},
	{"github.com/golang-jwt/", []string{"certificate"}, "one home for each wire format"},
	{"github.com/go-jose/", []string{"attestation", "exportfile", "jwks", "federation"}, "one home for each wire format"},
	{"github.com/fxamacker/cbor/", []string{"attestation"}, "one home for each wire format"},
	{"cloud.google.com/go/storage", []string{"blob"}, "one home for each cloud's buckets"},
	{"github.com/aws/aws-sdk-go-v2/service/s3", []string{"blob"}, "one home for each cloud's buckets"},
	{"github.com/Azure/azure-sdk-for-go/sdk/storage/", []string{"blob"}, "one home for each cloud's buckets"},
	{"github.com/prometheus/", []string{"telemetry"}, "the day the library goes, one package changes"},
	{"contrib.go.opencensus.io/", []string{"telemetry"}, "the day the library goes, one package changes"},
	{"cloud.google.com/go/secretmanager/", []string{"secrets"}, "one home for each cloud's secrets"},
	{"github.com/aws/aws-sdk-go-v2/service/secretsmanager", []string{"secrets"}, "one home for each cloud's secrets"},
	{"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets", []string{"secrets"}, "one home for each cloud's secrets"},
	{"cloud.google.com/go/kms/", []string{"keys"}, "one home for each cloud's keys"},
	{"github.com/aws/aws-sdk-go-v2/service/kms", []string{"keys"}, "one home for each cloud's keys"},
	{"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys", []string{"keys"}, "one home for each cloud's keys"},
	{"plugin", nil, "what runs is what was built"},
	{"unsafe", []string{"pb"}, "only generated code gets around the compiler"},
}

// pure packages are functions of values and a now; what they must not touch.
// Folders inside them are others: attestation/vendors is there to ask.
var (
	pure  = []string{"exposure", "exportfile", "certificate", "attestation"}
	touch = []string{"os", "net", "net/http", "log", "syscall"}
)

// temporary holds modules in go.mod that are not used yet.
const temporary = "deps"

// goPackage is what `go list` says of one package.
type goPackage struct {
	ImportPath   string
	Name         string
	Doc          string
	Dir          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// folder is the name under internal that decides about the floor, or "".
func folder(path string) string {
	name, ok := strings.CutPrefix(path, module+"internal/")
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, "/")
	return name
}

// floor counts from 1; 0 is nowhere.
func floor(folder string) int {
	return 1 + slices.IndexFunc(floors, func(names []string) bool { return slices.Contains(names, folder) })
}

// helper packages exist for tests: blobtest, dbtest, entest.
func helper(path string) bool { return strings.HasSuffix(path, "test") }

func packages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	list.Dir = root
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if f := folder(p.ImportPath); f != "arch" && f != temporary {
			all = append(all, p)
		}
	}
	return all
}

// A rule looks at one import and says what is wrong with it, or nothing.
type rule func(from goPackage, to string) string

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, to := range p.Imports {
			report(t, p, to, downwards, home, noHelper, purity)
		}
		for _, to := range append(p.TestImports, p.XTestImports...) {
			report(t, p, to, notUpwards, home)
		}
	}
}

func report(t *testing.T, from goPackage, to string, rules ...rule) {
	t.Helper()
	for _, r := range rules {
		if wrong := r(from, to); wrong != "" {
			t.Errorf("%s %s", strings.TrimPrefix(from.ImportPath, module), wrong)
		}
	}
}

// downwards: words, rules and plumbing, store, services, programs.
func downwards(from goPackage, to string) string {
	if strings.HasPrefix(to, module+"cmd/") || strings.HasPrefix(to, module+"scripts/") {
		return fmt.Sprintf("imports %s: a program is nobody's library", to)
	}
	a, b := folder(from.ImportPath), folder(to)
	if floor(a) == 0 || b == "" || a == b || floor(b) < floor(a) {
		return "" // programs and scripts stand above all floors
	}
	return fmt.Sprintf("(floor %d) imports %s (floor %d): move what they share down, or pass it in from cmd", floor(a), b, floor(b))
}

// notUpwards is for tests: they may use a neighbour to make what they look at.
func notUpwards(from goPackage, to string) string {
	if floor(folder(to)) > 0 && floor(folder(to)) == floor(folder(from.ImportPath)) {
		return ""
	}
	return downwards(from, to)
}

func home(from goPackage, to string) string {
	for _, o := range outside {
		matches := to == o.prefix || strings.HasPrefix(to, strings.TrimSuffix(o.prefix, "/")+"/")
		if matches && !slices.Contains(o.homes, folder(from.ImportPath)) {
			return fmt.Sprintf("imports %s, which belongs to %v: %s", to, o.homes, o.why)
		}
	}
	return ""
}

func noHelper(from goPackage, to string) string {
	if strings.HasPrefix(to, module) && helper(to) && !helper(from.ImportPath) {
		return fmt.Sprintf("imports %s, which is for tests", to)
	}
	return ""
}

func purity(from goPackage, to string) string {
	if slices.Contains(pure, strings.TrimPrefix(from.ImportPath, module+"internal/")) && slices.Contains(touch, to) {
		return fmt.Sprintf("imports %s: it holds rules, which are functions of values; the caller reads and writes", to)
	}
	return ""
}

func TestEveryPackageStandsOnAFloor(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	for _, p := range packages(t) {
		f := folder(p.ImportPath)
		if f != "" && floor(f) == 0 {
			t.Errorf("internal/%s stands on no floor: say in internal/arch where it belongs", f)
		}
		there[f] = true
	}
	for i, names := range floors {
		for _, name := range names {
			if !there[name] {
				t.Errorf("internal/%s, said to be on floor %d, does not exist", name, i+1)
			}
		}
	}
}

// docs/design.md shows the floors to whoever reads before changing anything.
func TestTheDocsShowTheFloors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| ([0-9]+)[^|]*\| ([^|]*)\|`)
	name := regexp.MustCompile("`([a-z]+)[^`]*`")
	var got [][]string
	for _, cells := range row.FindAllStringSubmatch(string(text), -1) {
		var names []string
		for _, match := range name.FindAllStringSubmatch(cells[2], -1) {
			names = append(names, match[1])
		}
		got = append(got, names)
	}
	if diff := cmp.Diff(floors, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("floors that docs/design.md shows (-want +got):\n%s", diff)
	}
}

// A folder's name is a noun that one could say to a health officer.
func TestNamesSayWhatIsInside(t *testing.T) {
	t.Parallel()
	empty := []string{"util", "utils", "common", "model", "models", "types", "base", "helpers", "misc", "shared", "lib"}
	for _, p := range packages(t) {
		if last := filepath.Base(p.ImportPath); slices.Contains(empty, last) {
			t.Errorf("%s: the name %q says nothing about what is inside", p.ImportPath, last)
		}
	}
}

// The first sentence of a package says what the place is for.
func TestPackagesIntroduceThemselves(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.ImportPath) + " "
		}
		if len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment must begin with %q", p.ImportPath, want)
		}
	}
}

// A main names what it needs: a page that can be taken in at once.
func TestMainsAreAPage(t *testing.T) {
	t.Parallel()
	const page = 60
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.ImportPath, module+"cmd/") {
			continue
		}
		if n := codeLines(t, filepath.Join(p.Dir, "main.go")); n > page {
			t.Errorf("%s/main.go has %d lines of code, more than %d: what it does belongs in a package", p.ImportPath, n, page)
		}
	}
}

// codeLines counts the lines that hold more than blanks and comments.
func codeLines(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	file := files.AddFile(name, -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, _ := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		lines[file.Line(pos)] = true
	}
}
