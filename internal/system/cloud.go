package system

import (
	"context"
	"path/filepath"

	"enkeyserver/internal/blob"
	"enkeyserver/internal/errs"
)

// Cloud is where a system keeps its files, keys and secrets: emulators of what a
// provider has. The database stays the system's own.
type Cloud struct {
	Bucket      string            // URL, as the programs open it
	Files       blob.Bucket       // the same, as this process sees it: the CDN reads there
	SigningKeys [2]string         // URLs
	WrappingKey string            // URL
	Environment map[string]string // by which the programs find the provider, and may enter

	// Keep stores a value with the manager of secrets and gives the secret://
	// reference to it.
	Keep func(ctx context.Context, name, value string) (reference string, err error)
}

func (s *System) openBucket() blob.Bucket {
	if s.options.Cloud != nil {
		return s.options.Cloud.Files
	}
	return blob.NewFolder(s.bucketFolder())
}

func (s *System) bucketFolder() string { return filepath.Join(s.Folder, "bucket") }

func (s *System) bucketURL() string {
	if s.options.Cloud != nil {
		return s.options.Cloud.Bucket
	}
	return "file://" + s.bucketFolder()
}

func (s *System) signingKeyURL(i int) string {
	if s.options.Cloud != nil {
		return s.options.Cloud.SigningKeys[i]
	}
	return "file://" + s.keyFile(signingKeys[i].file)
}

func (s *System) wrappingKeyURL() string {
	if s.options.Cloud != nil {
		return s.options.Cloud.WrappingKey
	}
	return "file://" + s.keyFile(wrappingKey)
}

// keepSecrets leaves in the programs' environment only references to what must
// not be seen there.
func (s *System) keepSecrets(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "keepSecrets")
	if s.options.Cloud == nil || s.options.Cloud.Keep == nil {
		return nil
	}
	for variable, value := range map[string]string{
		"DATABASE_URL":       s.dsn(),
		"REVISION_TOKEN_AAD": "of this system",
	} {
		reference, err := s.options.Cloud.Keep(ctx, variable, value)
		if err != nil {
			return err
		}
		s.secrets[variable] = reference
	}
	return nil
}
