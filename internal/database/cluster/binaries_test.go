package cluster_test

import (
	"os"
	"path/filepath"
	"testing"

	"enkeyserver/internal/database/cluster"
)

func TestBinariesNamedByHand(t *testing.T) {
	for _, tc := range []struct {
		why      string
		programs []string
		ok       bool
	}{
		{"the folder that the operator named wins", []string{"initdb", "pg_ctl", "postgres"}, true},
		{"a client-only package is no server", []string{"initdb"}, false},
	} {
		t.Run(tc.why, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range tc.programs {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("POSTGRES_BIN", dir)
			got, err := cluster.Binaries()
			if (err == nil) != tc.ok {
				t.Fatalf("err = %v, want ok = %v", err, tc.ok)
			}
			if tc.ok && got != dir {
				t.Errorf("got %s, want %s", got, dir)
			}
		})
	}
}
