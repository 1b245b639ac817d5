package operator

import (
	"context"
	"flag"

	"enkeyserver/internal/keys"
)

func keyCommands() []command {
	return []command{
		{
			name: "keys create", args: "signing|wrapping PATH", short: "make a key in a new file",
			help: `
A signing key signs what phones download (ECDSA P-256); its public half is
printed, for the platforms of the phones. A wrapping key encrypts the keys of
revision tokens. A file that is there is never overwritten.

  enctl keys create signing /etc/en/export.pem > export.pub.pem
  enctl keys create wrapping /etc/en/wrapping.key`,
			build: buildKeysCreate,
		},
		{
			name: "keys public", args: "KEYURL", short: "print the public half of a signing key",
			help: `
  enctl keys public file:///etc/en/export.pem`,
			build: buildKeysPublic,
		},
	}
}

func buildKeysCreate(flags *flag.FlagSet, s *Session) action {
	out := outputFlag(flags, s, "text", "json")
	return func(_ context.Context, args []string) error {
		if err := exactly(args, "signing|wrapping", "PATH"); err != nil {
			return err
		}
		switch args[0] {
		case "signing":
			pub, err := keys.CreateSigningKey(args[1])
			if err != nil {
				return err
			}
			return showPublic(out, pub)
		case "wrapping":
			if err := keys.CreateWrappingKey(args[1]); err != nil {
				return err
			}
			return out.line(map[string]string{"path": args[1]}, "made %s: keep a copy where only you can read it", args[1])
		}
		return usageError("a key is either signing or wrapping")
	}
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
		return showPublic(out, signer.Public())
	}
}

func showPublic(out *output, pub any) error {
	text, err := keys.PublicPEM(pub)
	if err != nil {
		return err
	}
	return out.line(map[string]string{"publicKey": string(text)}, "%s", text[:len(text)-1])
}
