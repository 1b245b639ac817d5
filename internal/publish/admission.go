package publish

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/attestation"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/keys"
	"enkeyserver/internal/store"
)

// How fresh the knowledge of who may upload is. A revoked key of an authority
// must be refused within a minute, also on an instance that its platform gives
// no processor between requests: hence the limit beside the period.
const (
	refreshEvery = 20 * time.Second
	staleAfter   = 40 * time.Second
	refreshTime  = time.Second // for one attempt
)

// app is an application that may upload, with its authorities' keys parsed.
type app struct {
	store.App
	authorities map[string]certificate.Authority // by issuer
	ids         map[string]int                   // of the authorities, by issuer
	unreadable  bool                             // one of their keys could not be parsed
	policy      *attestation.Policy              // for its devices; nil: none
	lost        bool                             // there is a policy, and it could not be parsed
}

// admission is one snapshot of who may upload. It is never changed.
type admission struct {
	apps        map[string]app // by id, lower case
	authorities map[string]store.Authority
	parsed      map[string]certificate.Authority
	readAt      time.Time
}

// door knows who may upload. While the database is down it keeps what it knew
// last.
type door struct {
	store           *store.DB
	devices         *attestation.Verifier
	developmentOnly func(name string, set bool) error
	now             func() time.Time

	last   atomic.Pointer[admission]
	flight singleflight.Group
}

// current gives the newest snapshot there is, read now if the last one is old.
// An error means that there never was one.
func (d *door) current(ctx context.Context) (*admission, error) {
	known := d.last.Load()
	if known != nil && d.now().Sub(known.readAt) < staleAfter {
		return known, nil
	}
	err := d.refresh(ctx)
	if known := d.last.Load(); known != nil {
		return known, nil
	}
	return nil, errs.From(err, errs.Internal, apiv1.CodeAuthorityNotLoaded,
		"the server could not load its health authorities now, try again later")
}

// refresh reads a new snapshot; all who ask at the same time share one read.
func (d *door) refresh(ctx context.Context) error {
	// The read is not the caller's alone, so it must not end with the caller.
	done := d.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTime)
		defer cancel()
		return nil, d.read(ctx)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *door) read(ctx context.Context) (err error) {
	defer errs.Wrap(&err, "reading who may upload")
	readAt := d.now()
	raw, err := d.store.Admission(ctx)
	if err != nil {
		return err
	}
	d.last.Store(d.prepare(raw, readAt))
	return nil
}

// keepFresh reads again and again until ctx ends.
func (d *door) keepFresh(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		if err := d.refresh(ctx); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "who may upload could not be read again: what was known last stays", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// prepare parses what was read.
func (d *door) prepare(raw store.Admission, readAt time.Time) *admission {
	a := &admission{
		apps:        map[string]app{},
		authorities: raw.Authorities,
		parsed:      map[string]certificate.Authority{},
		readAt:      readAt,
	}
	unreadable := map[string]bool{}
	for issuer, authority := range raw.Authorities {
		a.parsed[issuer], unreadable[issuer] = parse(authority)
	}
	for id, listed := range raw.Apps {
		one := app{App: listed, authorities: map[string]certificate.Authority{}, ids: map[string]int{}}
		one.SkipCertificate = d.maySkip(listed)
		one.Regions = upper(listed.Regions)
		one.policy, one.lost = d.policyOf(listed)
		for _, issuer := range listed.Authorities {
			one.authorities[issuer] = a.parsed[issuer]
			one.ids[issuer] = raw.Authorities[issuer].ID
			one.unreadable = one.unreadable || unreadable[issuer]
		}
		a.apps[strings.ToLower(id)] = one
	}
	return a
}

// maySkip tells whether the uploads of an app are believed without a
// certificate. In production none are, whatever is configured.
func (d *door) maySkip(listed store.App) bool {
	if err := d.developmentOnly("skipCertificate of "+listed.ID, listed.SkipCertificate); err != nil {
		slog.Error("uploads of this app need a certificate all the same", "app", listed.ID, "error", err)
		return false
	}
	return listed.SkipCertificate
}

// policyOf gives what the devices of an app must prove. A policy that cannot be
// read is lost, and not as good as none. In production what is for development
// only is not followed, whatever is configured.
func (d *door) policyOf(listed store.App) (_ *attestation.Policy, lost bool) {
	if listed.Attestation == "" {
		return nil, false
	}
	p, err := attestation.ParsePolicy([]byte(listed.Attestation))
	if err != nil {
		slog.Error("uploads of this app fail, for its attestation policy cannot be read: apply its configuration again",
			"app", listed.ID, "error", err)
		return nil, true
	}
	for _, weakness := range p.Weaknesses() {
		if err := d.developmentOnly(weakness+" of "+listed.ID, true); err != nil {
			slog.Error("the stricter rule holds for this app all the same", "app", listed.ID, "error", err)
			p = p.Strict()
		}
	}
	if err := d.devices.Lacks(p); err != nil {
		slog.Error("devices of this app cannot prove themselves", "app", listed.ID, "error", err)
	}
	return &p, false
}

// parse reads the keys of an authority. A key that cannot be read is our
// mistake, or the authority's, and takes only itself away.
func parse(a store.Authority) (parsed certificate.Authority, unreadable bool) {
	parsed = certificate.Authority{Issuer: a.Issuer, Audience: a.Audience}
	for _, k := range a.Keys {
		public, err := keys.ParsePublicPEM([]byte(k.PublicKey))
		if err != nil {
			slog.Error("a public key of a health authority cannot be read: correct its configuration",
				"authority", a.Issuer, "key", k.Version, "error", err)
			unreadable = true
			continue
		}
		parsed.Keys = append(parsed.Keys, certificate.Key{Version: k.Version, Public: public, From: k.From, Thru: k.Thru})
	}
	return parsed, unreadable
}

func upper(regions []string) []string {
	up := make([]string, len(regions))
	for i, r := range regions {
		up[i] = strings.ToUpper(r)
	}
	return up
}

// app gives the app that a request names.
func (d *door) app(ctx context.Context, id string) (app, error) {
	a, err := d.current(ctx)
	if err != nil {
		return app{}, err
	}
	found, ok := a.apps[strings.ToLower(id)]
	if !ok {
		return app{}, errs.Denied(apiv1.CodeUnknownApp, "this healthAuthorityID is not registered here")
	}
	if len(found.Regions) == 0 {
		return app{}, errs.New(errs.Internal, apiv1.CodeMissingRegion, "no region is configured for this healthAuthorityID: tell who runs the server")
	}
	if found.lost {
		return app{}, errs.New(errs.Internal, apiv1.CodeInternal, "the server cannot tell what devices must prove to it, try again later")
	}
	return found, nil
}
