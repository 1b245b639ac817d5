// Package publish takes the keys of a phone in, and tells health authorities
// how many they were.
package publish

import (
	"context"
	"sync"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/revision"
	"enkeyserver/internal/store"
)

// answerWithin bounds what an upload waits for the database. A phone gives up
// after ten seconds and must have heard "try again" long before, also if Google
// or Apple were asked between two waits; see askWithin.
const answerWithin = 1500 * time.Millisecond

// Deps are what the service works with.
type Deps struct {
	Store   *store.DB
	Tokens  *revision.Keyring
	Devices *attestation.Verifier
	Now     func() time.Time

	// DevelopmentOnly refuses in production what must not be there; see
	// app.App. It is asked by one goroutine at a time.
	DevelopmentOnly func(name string, set bool) error

	Maintenance bool // uploads are refused for now
}

// Service decides what happens to an upload. Between uploads it remembers only
// who may upload, and how long the last ones took.
type Service struct {
	settings    Settings
	rules       exposure.Rules
	store       *store.DB
	tokens      *revision.Keyring
	devices     *attestation.Verifier
	door        *door
	recent      *reservoir
	waiter      *waiter
	buffers     *sync.Pool // of *bytes.Buffer
	now         func() time.Time
	maintenance bool
}

// NewService checks the settings. It does not wait for the database: a service
// must come up, and answer "try again", while the database is down.
func NewService(s Settings, d Deps) (_ *Service, err error) {
	defer errs.Wrap(&err, "publish.NewService")
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := d.DevelopmentOnly("DEBUG_RELEASE_SAME_DAY_KEYS", s.ReleaseSameDay); err != nil {
		return nil, err
	}
	return &Service{
		settings:    s,
		rules:       s.rules(),
		store:       d.Store,
		tokens:      d.Tokens,
		devices:     d.Devices,
		door:        &door{store: d.Store, devices: d.Devices, developmentOnly: d.DevelopmentOnly, now: d.Now},
		recent:      &reservoir{},
		waiter:      &waiter{},
		buffers:     &sync.Pool{},
		now:         d.Now,
		maintenance: d.Maintenance,
	}, nil
}

// KeepFresh keeps what the service knows of apps and authorities fresh until
// ctx ends.
func (s *Service) KeepFresh(ctx context.Context) { s.door.keepFresh(ctx) }

// Ready tells whether an upload could be taken now.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.store.Ping(ctx); err != nil {
		return err
	}
	if _, err := s.door.current(ctx); err != nil {
		return err
	}
	return s.tokens.Ready(ctx)
}

// Request is an upload.
type Request struct {
	App         string // the healthAuthorityID
	Keys        []exposure.Submitted
	Certificate string
	HMACKey     []byte
	Onset       exposure.Interval // 0: not said
	Traveler    bool
	Token       string
	Platform    store.Platform // for statistics

	// What the device proves itself by.
	DeclaredPlatform string // as the phone names it
	DeviceProof      string
}

// Outcome is what became of an upload that was taken.
type Outcome struct {
	Token    string // covers these keys and all that the request's token covered
	Inserted int    // new keys; none in a repeated upload, a revision, a negative report
	Dropped  []exposure.Drop
	Warnings []string
}

// Publish keeps those keys of an upload that a health authority vouches for,
// and returns a token with which the same phone may revise them.
//
// Sending the same upload again, at the same moment or after a lost answer,
// stores nothing and succeeds again, also when the certificate has expired
// since or a key has just become too old. Nothing counts as used before the
// keys are durable. A refusal (errs.KindInvalid, KindDenied) is final; whatever
// is the server's own fault is errs.Internal, and the phone may try again.
func (s *Service) Publish(ctx context.Context, req Request) (_ Outcome, err error) {
	defer errs.Wrap(&err, "Publish(%d keys)", len(req.Keys))

	// An upload that has begun is finished even if the phone hangs up: it will
	// ask again, and a connection to the database that is cut in the middle
	// costs more than the rest of the work.
	ctx = context.WithoutCancel(ctx)
	soon, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()

	app, err := s.door.app(soon, req.App)
	if err != nil {
		return Outcome{}, err
	}
	t := attempt{app: app, req: req, now: s.now()}
	up, err := s.judge(t)
	if err != nil {
		return s.again(soon, t, up, err)
	}
	covered, revises, err := s.openToken(soon, req.Token)
	if err != nil {
		return Outcome{}, err
	}
	up.covered, up.fact.Revision = covered, revises
	if s.asks(t) {
		return s.addAsking(ctx, soon, t, up)
	}
	if up.fact.Attestation, err = s.attest(soon, t); err != nil {
		return s.unproved(soon, t, up, err)
	}
	return s.add(soon, t, up)
}

// attempt is a try to upload.
type attempt struct {
	app app
	req Request
	now time.Time
}

// before is the try as it would have been a while ago.
func (t attempt) before(age time.Duration) attempt {
	t.now = t.now.Add(-age)
	return t
}

// add stores what was judged, and answers.
func (s *Service) add(ctx context.Context, t attempt, up judged) (Outcome, error) {
	added, err := s.store.AddUpload(ctx, t.now, store.Upload{
		Receipt:        up.receipt,
		ReceiptExpires: up.expires,
		Keys:           up.keys,
		May:            permission(t.app, up.covered),
		Fact:           up.fact,
	}, s.rules.Release)
	if errs.KindOf(err) == errs.KindInvalid {
		return s.again(ctx, t, up, err)
	}
	if err != nil {
		return Outcome{}, tryAgain(err)
	}
	return s.acknowledge(ctx, up, added.Inserted)
}

// retryAges are how long ago the first try of an upload may have been judged
// when its repetition is refused. Apps try three times within a minute.
func retryAges() [2]time.Duration { return [2]time.Duration{20 * time.Second, 2 * time.Minute} }

// again looks at a refused upload once more: what has been accepted a moment
// ago must not be refused because a clock has moved on since, for the phone
// would believe that nothing was published. If the upload would have been
// accepted then, and was, it is a repetition; else the refusal stands.
func (s *Service) again(ctx context.Context, t attempt, refused judged, refusal error) (Outcome, error) {
	for _, age := range retryAges() {
		up, err := s.judge(t.before(age))
		if err != nil || up.receipt == refused.receipt {
			continue
		}
		out, known, err := s.repeated(ctx, t, up)
		if known || err != nil {
			return out, err
		}
	}
	return Outcome{}, refusal
}

// repeated answers an upload that is stored already, if it is.
func (s *Service) repeated(ctx context.Context, t attempt, up judged) (out Outcome, known bool, err error) {
	known, err = s.store.HasReceipt(ctx, up.receipt)
	if err != nil {
		return Outcome{}, false, tryAgain(err)
	}
	if !known {
		return Outcome{}, false, nil
	}
	if up.covered, _, err = s.openToken(ctx, t.req.Token); err != nil {
		return Outcome{}, false, err
	}
	out, err = s.acknowledge(ctx, up, 0)
	return out, true, err
}

// openToken reads the keys that a token covers. Noise covers none.
func (s *Service) openToken(ctx context.Context, token string) (covered []exposure.Covered, ok bool, err error) {
	covered, ok, err = s.tokens.Open(ctx, token)
	if err != nil {
		return nil, false, tryAgain(err)
	}
	return covered, ok && len(covered) > 0, nil
}

func permission(app app, covered []exposure.Covered) exposure.Permission {
	if app.SkipRevisionToken {
		return exposure.WithoutToken()
	}
	return exposure.ByToken(covered)
}

// acknowledge makes the answer to an upload that is stored. Should it fail, the
// phone's next try finds the receipt and comes here again.
func (s *Service) acknowledge(ctx context.Context, up judged, inserted int) (Outcome, error) {
	// A key that is too old to be sent again cannot be revised either. One that
	// ended just MaxAge ago can be sent.
	forget := exposure.IntervalOf(s.now().Add(-s.rules.MaxAge)) - 1
	token, err := s.tokens.Seal(ctx, revision.Extend(up.covered, up.keys, forget))
	if err != nil {
		return Outcome{}, tryAgain(err)
	}
	return Outcome{Token: token, Inserted: inserted, Dropped: up.dropped, Warnings: up.warnings}, nil
}

// tryAgain makes an error the server's own, whatever it was called below: a
// phone must not take a fault of ours for a refusal.
func tryAgain(err error) error {
	return errs.From(err, errs.Internal, apiv1.CodeInternal, "the server could not do this now, try again later")
}
