package operator_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"enkeyserver/internal/store"
)

func TestAuthoritiesStatus(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if got := d.run("", "authorities", "status"); got.Status != 0 || got.Out != "there is no health authority\n" {
		t.Errorf("without any: %+v", got)
	}
	if _, err := d.db.Exec(t.Context(), `
		INSERT INTO health_authority (issuer, audience, name, jwks_uri)
		VALUES ('org.example.a', 'x', 'A', 'https://a.example/set'), ('org.example.b', 'x', 'B', '')`); err != nil {
		t.Fatal(err)
	}
	if _, err := d.db.Exec(t.Context(), `
		INSERT INTO health_authority_key (authority_id, version, public_key, source)
		SELECT authority_id, version, 'PEM', source
		FROM   health_authority, (VALUES ('v1', ''), ('v1', 'https://a.example/old')) k (version, source)
		WHERE  issuer = 'org.example.a'`); err != nil {
		t.Fatal(err)
	}
	sets, err := d.db.KeySets(t.Context())
	if err != nil || len(sets) != 1 {
		t.Fatal(sets, err)
	}
	for _, found := range []store.Discovery{
		{At: d.now, Keys: []store.DiscoveredKey{{Version: "v2", PublicKey: "PEM"}}},
		{At: d.now.Add(time.Hour), Failure: "the server says 503, not 200"},
	} {
		if _, saved, err := d.db.SaveDiscovery(t.Context(), sets[0], found); err != nil || !saved {
			t.Fatal(saved, err)
		}
		sets[0].ReadAt = d.now
	}

	want := `org.example.a
  key "v1", of the configuration
  key "v2", discovered
  key set https://a.example/set
  last read 2020-11-05T12:00:00Z
  last failure 2020-11-05T13:00:00Z: the server says 503, not 200
org.example.b
  no key: every certificate of it is refused
`
	got := d.run("", "authorities", "status")
	if diff := cmp.Diff(want, got.Out); diff != "" || got.Status != 0 {
		t.Errorf("status %d (-want +got):\n%s", got.Status, diff)
	}
	var answer struct {
		Authorities []struct {
			Issuer         string
			DiscoveredKeys []string
			ReadAt         string
		}
	}
	got = d.run("", "authorities", "status", "-o", "json")
	if err := json.Unmarshal([]byte(got.Out), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Authorities) != 2 || strings.Join(answer.Authorities[0].DiscoveredKeys, " ") != "v2" || answer.Authorities[1].ReadAt != "" {
		t.Errorf("for programs: %s", got.Out)
	}
	if got := d.run("", "authorities", "status", "org.example.a"); got.Status != 2 {
		t.Errorf("with an argument that means nothing: %+v", got)
	}
}
