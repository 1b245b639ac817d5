package operator_test

import (
	"strings"
	"testing"

	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/keys/keystest"
)

// The manager is found through the environment, so this is not parallel.
func TestKeysInAManager(t *testing.T) {
	vault, err := keystest.StartVault()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vault.Close)
	for name, value := range vault.Env() {
		t.Setenv(name, value)
	}
	d := &desk{t: t, now: entest.Noon()}
	const place, first, second = "hashivault://export", "hashivault://export?version=1", "hashivault://export?version=2"

	made := d.run("", "keys", "create", "signing", place)
	if made.Status != 0 || !strings.Contains(made.Err, "made "+first+": write this URL under signingKeys\n") || !strings.Contains(made.Err, "a version (v1)") {
		t.Errorf("making a key says, with status %d, %q", made.Status, made.Err)
	}
	if _, err := keys.ParsePublicPEM([]byte(made.Out)); err != nil {
		t.Errorf("what was printed is no public key: %v", err)
	}
	again := decode[map[string]string](t, d.must("", "keys", "create", "--kind", "signing", place, "-o", "json"))
	if again["url"] != second || again["version"] != "v2" || again["publicKey"] == made.Out {
		t.Errorf("making a version says %v", again)
	}
	if public := d.run("", "keys", "public", first); public.Out != made.Out || !strings.Contains(public.Err, "a version (v1)") {
		t.Errorf("the first version is now %+v, was %+v", public, made)
	}
	if public := d.must("", "keys", "public", second); public != again["publicKey"] {
		t.Errorf("the second version is %q, was %q", public, again["publicKey"])
	}
	d.fails(1, "must name its version", "", "keys", "public", place)
	d.fails(1, "must not name a version", "", "keys", "create", "signing", first)

	d.says("made hashivault://revision: write this URL into REVISION_TOKEN_KEY\n", "", "keys", "create", "wrapping", "hashivault://revision")
	d.fails(1, "never overwritten", "", "keys", "create", "wrapping", "hashivault://revision")
	d.fails(1, "choose another name", "", "keys", "create", "signing", "hashivault://revision")
	d.fails(2, "either signing or wrapping", "", "keys", "create", "skeleton", "hashivault://k")
	d.fails(2, "2 arguments are needed", "", "keys", "create", "--kind", "signing")
	d.fails(1, "no option", "", "keys", "create", "signing", "hashivault://k?protection=hsm")
}
