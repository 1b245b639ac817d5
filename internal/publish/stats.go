package publish

import (
	"context"
	"net/http"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/store"
	"enkeyserver/internal/web"
)

// StatsHandler answers POST /v1/stats.
func (s *Service) StatsHandler() http.Handler {
	return s.statsResponder().Wrap(web.Maintenance(s.maintenance, web.Methods(s.stats, http.MethodPost)))
}

func (s *Service) stats(w http.ResponseWriter, r *http.Request) error {
	var body apiv1.Stats
	if err := web.ReadJSON(w, r, apiv1.MaxBody, &body); err != nil {
		return err
	}
	days, err := s.Stats(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	send(w, http.StatusOK, s.composeStats(apiv1.StatsResponse{Days: days}))
	return nil
}

// Stats tells a health authority how many used its certificates, day by day.
// authorization is the header that proves which authority asks. Days with so
// few uploads that somebody might be recognised are held back for a while.
func (s *Service) Stats(ctx context.Context, authorization string) (_ []apiv1.StatsDay, err error) {
	defer errs.Wrap(&err, "Stats")
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()

	known, err := s.door.current(ctx)
	if err != nil {
		return nil, err
	}
	now := s.now()
	issuer, err := certificate.VerifyStats(authorization, known.parsed, s.settings.StatsAudience, now)
	if err != nil {
		return nil, err
	}
	authority := known.authorities[issuer]
	if !authority.StatsAPI {
		return nil, errs.Denied(apiv1.CodeUnauthorized, "statistics are not enabled for this health authority")
	}
	all, err := s.store.UploadDays(ctx, authority.ID, now)
	if err != nil {
		return nil, tryAgain(err)
	}
	return s.settings.shown(all, now), nil
}

// shown leaves out the days that must not be told yet.
func (s Settings) shown(all []store.UploadDay, now time.Time) []apiv1.StatsDay {
	days := []apiv1.StatsDay{}
	for _, d := range all {
		day := statsDay(d)
		if day.PublishRequests.Total() < s.StatsMinimum && now.Before(day.Day.AddDate(0, 0, 1).Add(s.StatsEmbargo)) {
			continue
		}
		days = append(days, day)
	}
	return days
}

func statsDay(d store.UploadDay) apiv1.StatsDay {
	return apiv1.StatsDay{
		Day:             d.Day.UTC(),
		PublishRequests: apiv1.StatsRequests{Unknown: d.Unknown, Android: d.Android, IOS: d.IOS},
		KeysPublished:   d.Keys,
		Revisions:       d.Revisions,
		KeyAges:         d.KeyAges,
		OnsetToUpload:   d.OnsetAges,
		MissingOnset:    d.MissingOnset,
	}
}

func (s *Service) statsResponder() web.Responder {
	return web.Responder{Error: func(w http.ResponseWriter, _ *http.Request, err error) {
		send(w, errs.KindOf(err).Status(), s.composeStats(apiv1.StatsResponse{Error: errs.MessageOf(err), Code: errs.CodeOf(err)}))
	}}
}
