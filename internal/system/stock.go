package system

import (
	"context"

	"enkeyserver/internal/database"
	"enkeyserver/internal/errs"
)

// Stock counts what the database holds about people.
type Stock struct {
	Arrivals  int64
	Exposures int64 // keys and revisions, without padding
	Padding   int64
	Receipts  int64
	Facts     int64 // of uploads not yet added up
	Counts    int64 // of statistics
	Epochs    int64
}

// Stock looks behind the scenes, for tests and the demo.
func (s *System) Stock(ctx context.Context) (stock Stock, err error) {
	defer errs.Wrap(&err, "Stock")
	stock, _, err = database.One[Stock](ctx, s.Store, `
		SELECT (SELECT count(*) FROM arrival)                       AS arrivals,
		       (SELECT count(*) FROM exposure WHERE NOT padding)    AS exposures,
		       (SELECT count(*) FROM exposure WHERE padding)        AS padding,
		       (SELECT count(*) FROM receipt)                       AS receipts,
		       (SELECT count(*) FROM upload_fact)                   AS facts,
		       (SELECT count(*) FROM upload_count)                  AS counts,
		       (SELECT count(*) FROM epoch)                         AS epochs`)
	return stock, err
}
