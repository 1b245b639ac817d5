package publish_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/certificate/certtest"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/exposure/entest"
	"enkeyserver/internal/publish"
)

func newStatsDesk(t *testing.T, edits ...func(*publish.Settings, *publish.Deps)) *desk {
	t.Helper()
	return newDesk(t, append(edits, func(s *publish.Settings, _ *publish.Deps) {
		if s.StatsAudience == "" {
			s.StatsAudience = statsAudience
		}
	})...)
}

// askStats asks as the authority does; edits change its token.
func (d *desk) askStats(edits ...func(*certificate.SignRequest)) (apiv1.StatsResponse, int) {
	d.t.Helper()
	token := d.authority.Certificate(d.t, nil, nil, d.now(), append([]func(*certificate.SignRequest){func(r *certificate.SignRequest) {
		r.Audience, r.MAC, r.Report = statsAudience, nil, exposure.Unknown
	}}, edits...)...)
	return d.askStatsWith("Bearer " + token)
}

func (d *desk) askStatsWith(authorization string) (apiv1.StatsResponse, int) {
	d.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/stats", strings.NewReader(`{"padding":"xxxx"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", authorization)
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	var a apiv1.StatsResponse
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		d.t.Fatal(err)
	}
	checkEnvelope(d.t.(*testing.T), answer{Header: w.Header(), PublishResponse: apiv1.PublishResponse{Padding: a.Padding}})
	return a, w.Code
}

// Who may ask.
func TestStatsAreForTheirAuthority(t *testing.T) {
	t.Parallel()
	d := newStatsDesk(t)
	stranger := certtest.New(t, issuer, audience)
	for _, tc := range []struct {
		why    string
		edit   func(*certificate.SignRequest)
		status int
	}{
		{"the authority itself", func(*certificate.SignRequest) {}, 200},
		{"somebody else", func(r *certificate.SignRequest) { r.Issuer = "org.example.other" }, 401},
		{"with what is meant for uploads", func(r *certificate.SignRequest) { r.Audience = audience }, 401},
		{"too late", func(r *certificate.SignRequest) { r.Expires = entest.Noon().Add(-time.Minute) }, 401},
	} {
		t.Run(tc.why, func(t *testing.T) {
			if a, status := d.askStats(tc.edit); status != tc.status || (status == 401) != (a.Code == apiv1.CodeUnauthorized) {
				t.Errorf("got status %d, code %q; want %d", status, a.Code, tc.status)
			}
		})
	}
	forged := stranger.Certificate(t, nil, nil, d.now(), func(r *certificate.SignRequest) { r.Audience = statsAudience })
	for _, header := range []string{"", "Bearer ", "Basic x", "Bearer " + forged} {
		if _, status := d.askStatsWith(header); status != 401 {
			t.Errorf("%.10q: got status %d, want 401", header, status)
		}
	}
	d.exec(`UPDATE health_authority SET stats_api = false`)
	d.refresh()
	if _, status := d.askStats(); status != 401 {
		t.Errorf("an authority without the statistics API: got status %d, want 401", status)
	}
}

// Nothing is told where nobody said under which name.
func TestStatsNeedAnAudience(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, aud := range []string{"", statsAudience} {
		if _, status := d.askStats(func(r *certificate.SignRequest) { r.Audience = aud }); status != 401 {
			t.Errorf("audience %q: got status %d, want 401", aud, status)
		}
	}
}

// A story of a few uploads: they show when they are enough, or old enough, and
// never in their own hour.
func TestStats(t *testing.T) {
	t.Parallel()
	d := newStatsDesk(t, func(s *publish.Settings, _ *publish.Deps) { s.StatsMinimum = 3 })
	first := d.upload(entest.Upload(1, 3, d.now()), report(exposure.Likely))
	first.Platform = "android"
	token := d.accept(first).RevisionToken
	d.accept(first) // a retry counts no second time
	second := d.upload(entest.Upload(10, 2, d.now()))
	second.Platform, second.SymptomOnset = "ios", 0
	d.accept(second)
	if a := d.send(d.upload(nil)); a.Status != 400 { // what is refused does not count
		t.Fatalf("got status %d", a.Status)
	}
	days := func() []apiv1.StatsDay {
		a, status := d.askStats()
		if status != http.StatusOK || a.Days == nil {
			t.Fatalf("got status %d, code %q", status, a.Code)
		}
		return a.Days
	}
	if got := days(); len(got) != 0 {
		t.Errorf("%d days in the hour of the uploads, want none", len(got))
	}
	d.pass(time.Hour)
	if got := days(); len(got) != 0 {
		t.Errorf("%d days with two uploads, of which three are asked, want none", len(got))
	}
	d.accept(d.upload(entest.Upload(1, 3, d.now()), report(exposure.Confirmed)).withToken(token))
	d.pass(time.Hour)

	day := apiv1.StatsDay{
		Day:             time.Date(2020, 11, 5, 0, 0, 0, 0, time.UTC),
		PublishRequests: apiv1.StatsRequests{Unknown: 1, Android: 1, IOS: 1},
		KeysPublished:   8,
		Revisions:       1,
		KeyAges:         make([]int64, 17),
		OnsetToUpload:   make([]int64, 31),
		MissingOnset:    1,
	}
	day.KeyAges[1], day.KeyAges[2], day.KeyAges[3] = 3, 3, 2
	day.OnsetToUpload[3] = 2
	if diff := gocmp.Diff([]apiv1.StatsDay{day}, days()); diff != "" {
		t.Errorf("days (-want +got):\n%s", diff)
	}
	d.seal() // adds up; the answer stays
	if diff := gocmp.Diff([]apiv1.StatsDay{day}, days()); diff != "" {
		t.Errorf("days after sealing (-want +got):\n%s", diff)
	}
}

// A day with few uploads shows once it is old.
func TestStatsEmbargo(t *testing.T) {
	t.Parallel()
	d := newStatsDesk(t)
	d.accept(d.upload(entest.Upload(1, 3, d.now())))
	for _, tc := range []struct {
		why  string
		at   time.Time
		want int
	}{
		{"the day has ended", entest.Noon().Add(13 * time.Hour), 0},
		{"almost two days ago", entest.Noon().Add(60*time.Hour - time.Second), 0},
		{"two days ago", entest.Noon().Add(60 * time.Hour), 1},
	} {
		d.clock.Store(tc.at.UnixNano())
		if a, status := d.askStats(); status != 200 || len(a.Days) != tc.want {
			t.Errorf("%s: got status %d, %d days; want %d", tc.why, status, len(a.Days), tc.want)
		}
	}
}

// A fault of the database is "try again".
func TestStatsWithoutDatabase(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nowhere, func(s *publish.Settings, _ *publish.Deps) { s.StatsAudience = statsAudience })
	if a, status := d.askStats(); status != 500 || a.Code != apiv1.CodeAuthorityNotLoaded {
		t.Errorf("never loaded: got status %d, code %q", status, a.Code)
	}
	known := newStatsDesk(t)
	known.store.Close()
	if a, status := known.askStats(); status != 500 || a.Code != apiv1.CodeInternal {
		t.Errorf("gone: got status %d, code %q", status, a.Code)
	}
}
