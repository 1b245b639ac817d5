package publish_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/store"
)

// Whatever is sent, the service neither panics nor takes the blame, and always
// answers in the one shape. No certificate in here is valid, so that nothing
// gets as far as the database, which is not there.
func FuzzPublishJSON(f *testing.F) {
	d := openDesk(f, nowhere)
	d.service.Know(store.Admission{
		Apps: map[string]store.App{appID: {ID: appID, Regions: []string{"US"}, Authorities: []string{issuer}}},
		Authorities: map[string]store.Authority{issuer: {ID: 1, Issuer: issuer, Audience: audience, StatsAPI: true, Keys: []store.AuthorityKey{
			{Version: "v2", PublicKey: d.authority.PEM(f)},
		}}},
	})
	up := d.upload(entest.Upload(1, 3, d.now()))
	f.Add(up.body())
	f.Add(d.upload(nil).body())
	f.Add(d.upload(many(d.now(), 31)).body())
	f.Add(d.upload(sameStart(d.now(), 4)).body())
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"temporaryExposureKeys":null,"healthAuthorityID":"` + appID + `"}`))
	f.Add([]byte(`{"temporaryExposureKeys":[{"key":"","rollingStartNumber":-2147483648,"rollingPeriod":2147483647}],"healthauthorityid":"` + appID + `"}`))

	f.Fuzz(func(t *testing.T, body []byte) {
		d := *d
		d.t = t
		for _, path := range []string{"/v1/publish", "/", "/v1/stats"} {
			r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+string(body[:min(len(body), 100)]))
			a := d.do(r)
			if a.Status < 400 || a.Status >= 500 {
				t.Errorf("%s: got status %d, code %q", path, a.Status, a.Code)
			}
			checkEnvelope(t, a)
		}
	})
}
