// Command configuration writes docs/configuration.md out of the settings that
// the programs read. With the argument check it says instead whether the file
// is current.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"

	"enkeyserver/internal/app"
	"enkeyserver/internal/attestation/vendors"
	"enkeyserver/internal/cleanup"
	"enkeyserver/internal/config"
	"enkeyserver/internal/export"
	"enkeyserver/internal/federation/pull"
	"enkeyserver/internal/federation/serve"
	"enkeyserver/internal/imports"
	"enkeyserver/internal/jwks"
	"enkeyserver/internal/mirror"
	"enkeyserver/internal/publish"
	"enkeyserver/internal/remote"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/rotation"
)

const file = "docs/configuration.md"

// settings are the structs that a program's own settings are made of, under the
// names by which its main.go calls them.
var settings = map[string]any{
	"publish.Settings":       publish.Settings{},
	"vendors.Settings":       vendors.Settings{},
	"export.BatcherSettings": export.BatcherSettings{},
	"export.WorkerSettings":  export.WorkerSettings{},
	"cleanup.Settings":       cleanup.Settings{},
	"pull.Settings":          pull.Settings{},
	"serve.Settings":         serve.Settings{},
	"imports.Settings":       imports.Settings{},
	"jwks.Settings":          jwks.Settings{},
	"mirror.Settings":        mirror.Settings{},
	"remote.Settings":        remote.Settings{},
	"revision.Settings":      revision.Settings{},
	"rotation.Settings":      rotation.Settings{},
}

// common is what each service has besides.
const common = "app.Settings"

const heading = `# Configuration

For operators: every variable that the programs read from their environment. This page is written by ` + "`make generate`" + ` out of
the programs themselves.

An empty variable counts as one that is not set. A wrong value stops the program at start with one line that names the
variable. Durations are written like ` + "`90s`, `5m`, `4h`" + `.

Any value may be a reference to a secret instead: ` + "`secret://[MANAGER/]NAME[?version=V][&target=file][#FIELD]`" + `. The first word says which manager has it,
or ` + "`SECRET_MANAGER`" + ` does. ` + "`#FIELD`" + ` takes one member of a JSON object; ` + "`target=file`" + ` puts the value into a private file and stands for its path.
A new value of ` + "`DATABASE_URL`, `DB_USER` or `DB_PASSWORD`" + ` is used without a restart.

| reference | manager | who we are for it |
|---|---|---|
| ` + "`secret://gcp/projects/P/secrets/S`, with `/versions/V`" + ` | Google Secret Manager; ` + "`projects/P/locations/L/…`" + ` too | the platform's account, or ` + "`GOOGLE_APPLICATION_CREDENTIALS`" + ` |
| ` + "`secret://aws/NAME`, `?version=STAGE-OR-ID`" + ` | AWS Secrets Manager; NAME may be an ARN | what the AWS SDK finds: a role, ` + "`AWS_…`" + ` variables |
| ` + "`secret://azure/VAULT/NAME`, `?version=ID`" + ` | Azure Key Vault; VAULT may be a host name | what the Azure SDK finds: a managed or workload identity, ` + "`AZURE_…`" + ` variables |
| ` + "`secret://vault/MOUNT/data/PATH#FIELD`, `?version=N`" + ` | HashiCorp Vault at ` + "`VAULT_ADDR`" + `, KV version 2 | ` + "`VAULT_TOKEN`, `VAULT_TOKEN_FILE` or `VAULT_KUBERNETES_ROLE`" + ` |
| ` + "`secret://file/NAME`, `secret://file//PATH`" + ` | a file in ` + "`SECRETS_DIR`" + `, or anywhere | the process's user |

Variables that begin with ` + "`DEBUG_`" + ` weaken a rule that protects people. They are for development, are told loudly at start, and
are refused when ` + "`ENVIRONMENT=production`" + `.
`

const columns = "\n| variable | default | meaning |\n|---|---|---|\n"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "configuration: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	want, err := document()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return os.WriteFile(file, want, 0o644)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is not what the programs read: run make generate", file)
	}
	return nil
}

func document() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(heading)
	out.WriteString("\n## Every service\n\nThe program `migrate` reads those of the database and of secrets alone.\n" + columns)
	if err := config.Reference(&out, app.Settings{}); err != nil {
		return nil, err
	}
	mains, err := filepath.Glob("cmd/*/main.go")
	if err != nil {
		return nil, err
	}
	for _, main := range mains {
		if err := program(&out, main); err != nil {
			return nil, fmt.Errorf("%s: %w", main, err)
		}
	}
	return out.Bytes(), nil
}

// program writes what one program reads besides the common settings, if it
// reads anything.
func program(out *bytes.Buffer, main string) error {
	names, err := settingsOf(main)
	if err != nil || len(names) == 0 {
		return err
	}
	fmt.Fprintf(out, "\n## %s\n%s", filepath.Base(filepath.Dir(main)), columns)
	for _, name := range names {
		of, ok := settings[name]
		if !ok {
			return fmt.Errorf("say in scripts/configuration what %s is", name)
		}
		if err := config.Reference(out, of); err != nil {
			return err
		}
	}
	return nil
}

// settingsOf names the types of the fields of "type settings struct", so that
// this page cannot forget what a program began to read.
func settingsOf(main string) ([]string, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), main, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "settings" {
			return true
		}
		of, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range of.Fields.List {
			if name := nameOf(field.Type); name != common {
				names = append(names, name)
			}
		}
		return false
	})
	return names, nil
}

func nameOf(t ast.Expr) string {
	selector, ok := t.(*ast.SelectorExpr)
	if !ok {
		return fmt.Sprintf("%v", t)
	}
	return fmt.Sprintf("%v.%s", selector.X, selector.Sel.Name)
}
