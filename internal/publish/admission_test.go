package publish_test

import (
	"context"
	"testing"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/exposure/entest"
)

// What the operator changes counts within a minute, also on an instance that
// had no processor to refresh in the background; while the database is down,
// what was known last counts.
func TestAdmissionStaysFresh(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	fresh := 0
	next := func() upload {
		fresh += 10
		return d.upload(entest.Upload(fresh, 1, d.now()))
	}
	d.accept(next())
	d.exec(`DELETE FROM health_authority_key`) // revoked
	d.accept(next())
	d.pass(time.Minute)
	if a := d.send(next()); a.Code != apiv1.CodeInvalidCertificate {
		t.Errorf("a revoked key, a minute later: got status %d, code %q", a.Status, a.Code)
	}
	d.store.Close()
	d.pass(time.Hour)
	if a := d.send(next()); a.Code != apiv1.CodeInvalidCertificate {
		t.Errorf("and without a database: got status %d, code %q", a.Status, a.Code)
	}
}

// KeepFresh reads at once, and ends with its context.
func TestKeepFresh(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.service.KeepFresh(ctx)
}

func TestReady(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.service.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if err := openDesk(t, nowhere).service.Ready(t.Context()); err == nil {
		t.Error("ready without a database")
	}
}
