package operator

import (
	"context"
	"crypto"
	"flag"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"strings"

	"enkeyserver/internal/keys"
)

func keyCommands() []command {
	return []command{
		{
			name: "keys create", args: "signing|wrapping PATH|KEYURL", short: "make a key in a new file, or in a key manager",
			help: `
A signing key signs what phones download (ECDSA P-256); its public half is
printed, for the platforms of the phones. A wrapping key encrypts the keys of
revision tokens. A file or a key that is there is never overwritten: where a
manager has a signing key of that name, it makes a new version of it.

  enctl keys create signing /etc/en/export.pem > export.pub.pem
  enctl keys create wrapping /etc/en/wrapping.key
  enctl keys create signing gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/export?protection=hsm
  enctl keys create signing awskms:///alias/en-export?region=REGION
  enctl keys create signing azurekms://NAME.vault.azure.net/export
  enctl keys create wrapping hashivault://revision

The URL for the configuration, which names the version, is printed beside the
public key (on standard error, or as JSON). A manager is asked once to make a
key: when its answer was lost, look before trying again.`,
			build: buildKeysCreate,
		},
		{
			name: "keys public", args: "KEYURL", short: "print the public half of a signing key",
			help: `
Of a manager's key it also says, on standard error, what Apple and Google need
besides.

  enctl keys public file:///etc/en/export.pem
  enctl keys public gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/export/versions/1`,
			build: buildKeysPublic,
		},
	}
}

func buildKeysCreate(flags *flag.FlagSet, s *Session) action {
	kind := flags.String("kind", "", "signing or wrapping, instead of the first argument")
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if *kind != "" {
			args = append([]string{*kind}, args...)
		}
		if err := exactly(args, "signing|wrapping", "PATH|KEYURL"); err != nil {
			return err
		}
		managed := strings.Contains(args[1], "://")
		switch {
		case args[0] == "signing" && managed:
			return createSigning(ctx, s, out, args[1])
		case args[0] == "signing":
			pub, err := keys.CreateSigningKey(args[1])
			if err != nil {
				return err
			}
			return showPublic(out, "", pub)
		case args[0] == "wrapping" && managed:
			return createWrapping(ctx, out, args[1])
		case args[0] == "wrapping":
			if err := keys.CreateWrappingKey(args[1]); err != nil {
				return err
			}
			return out.line(map[string]string{"path": args[1]}, "made %s: keep a copy where only you can read it", args[1])
		}
		return usageError("a key is either signing or wrapping")
	}
}

func createSigning(ctx context.Context, s *Session, out *output, keyURL string) error {
	made, err := keys.CreateSigning(ctx, keyURL)
	if err != nil {
		return err
	}
	if !out.json() {
		fmt.Fprintf(s.Err, "made %s: write this URL under signingKeys\n", made.URL)
		hint(s.Err, made.URL)
	}
	return showPublic(out, made.URL, made.Public)
}

func createWrapping(ctx context.Context, out *output, keyURL string) error {
	made, err := keys.CreateWrapping(ctx, keyURL)
	if err != nil {
		return err
	}
	return out.line(map[string]string{"url": made.URL}, "made %s: write this URL into REVISION_TOKEN_KEY", made.URL)
}

func buildKeysPublic(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(ctx context.Context, args []string) error {
		if err := exactly(args, "KEYURL"); err != nil {
			return err
		}
		signer, err := keys.OpenSigner(ctx, args[0])
		if err != nil {
			return err
		}
		if !out.json() {
			hint(s.Err, args[0])
		}
		return showPublic(out, args[0], signer.Public())
	}
}

// hint says what Apple and Google register beside the public key. The manager's
// number of the version is as good a version as any; a file has none.
func hint(w io.Writer, keyURL string) {
	if version := registeredVersion(keyURL); version != "" {
		fmt.Fprintf(w, "register it with an id, as a rule the mobile country code (310), and a version (%s), and write the same two under signingKeys\n", version)
	}
}

// registeredVersion proposes the version of a key for phones: letters, digits
// and underscores.
func registeredVersion(keyURL string) string {
	u, err := url.Parse(keyURL)
	if err != nil || u.Scheme == "file" {
		return ""
	}
	number := u.Query().Get("version")
	if number == "" {
		number = path.Base(u.Path)
	}
	if !regexp.MustCompile(`^[0-9]{1,9}$`).MatchString(number) {
		return "v1" // AWS and Azure name versions at random
	}
	return "v" + number
}

// showPublic prints the public half of a key; keyURL is "" for a path.
func showPublic(out *output, keyURL string, pub crypto.PublicKey) error {
	text, err := keys.PublicPEM(pub)
	if err != nil {
		return err
	}
	answer := map[string]string{"publicKey": string(text)}
	if keyURL != "" {
		answer["url"] = keyURL
	}
	if version := registeredVersion(keyURL); version != "" && keyURL != "" {
		answer["version"] = version
	}
	return out.line(answer, "%s", text[:len(text)-1])
}
