// Package migrations holds the numbered steps from an empty database to the
// schema of this release.
package migrations

import "embed"

// Files are the pairs NNNNNN_name.up.sql and NNNNNN_name.down.sql.
//
//go:embed *.sql
var Files embed.FS
