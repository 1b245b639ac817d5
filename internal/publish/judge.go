package publish

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"enkeyserver/internal/api/v1"
	"enkeyserver/internal/certificate"
	"enkeyserver/internal/errs"
	"enkeyserver/internal/exposure"
	"enkeyserver/internal/store"
)

// judged is what of an upload may be stored.
type judged struct {
	keys     []exposure.Exposure
	dropped  []exposure.Drop
	warnings []string
	receipt  [sha256.Size]byte
	expires  time.Time // of the receipt
	fact     store.Fact
	covered  []exposure.Covered // by the token that was sent
}

// judge tells what of an upload may be stored, as of a time. It asks nobody.
// The cheap rules come first: a signature is checked only for keys worth it.
func (s *Service) judge(t attempt) (judged, error) {
	app, req, now := t.app, t.req, t.now
	kept, dropped, err := s.rules.Keep(req.Keys, now)
	if err != nil {
		return judged{}, err
	}
	claims, err := vouched(app, req, now)
	if err != nil {
		return judged{}, err
	}
	onset, told := s.rules.OnsetOf(req.Onset, claims.Onset, now)
	keys, warnings := s.rules.Describe(kept, claims.Report, onset, app.Regions, req.Traveler)
	return judged{
		keys:     keys,
		dropped:  dropped,
		warnings: warnings,
		receipt:  receiptOf(req, keys),
		expires:  claims.Expires.Add(retryAges()[1]),
		fact:     factOf(keys, onset, told, app, claims, req.Platform, now),
	}, nil
}

// uncertified is for how long the receipt of an upload without a certificate
// is kept.
const uncertified = 24 * time.Hour

// vouched gives the word of a health authority on the upload. An app that needs
// none, in development, reports confirmed diagnoses.
func vouched(app app, req Request, now time.Time) (certificate.Claims, error) {
	if app.SkipCertificate {
		return certificate.Claims{Report: exposure.Confirmed, Expires: now.Add(uncertified)}, nil
	}
	claims, err := certificate.Verify(req.Certificate, app.authorities, req.Keys, req.HMACKey, now)
	if err != nil && app.unreadable {
		// Perhaps it was signed with the very key that we cannot read.
		return claims, errs.From(err, errs.Internal, apiv1.CodeAuthorityNotLoaded,
			"the server could not load all keys of the health authority, try again later")
	}
	return claims, err
}

// receiptOf is what is remembered of an accepted upload, to know it again: the
// signed part of its certificate (a signature can be written in two ways) and
// the keys that were stored of it.
//
// The keys are in it because a receipt earns a token that covers them: nobody
// may get one for keys that were left out the first time. The phone's own
// secret seals it, which is stored nowhere, so that even who holds the
// database and the certificates cannot tell which keys belong to a receipt.
func receiptOf(req Request, stored []exposure.Exposure) (receipt [sha256.Size]byte) {
	h := hmac.New(sha256.New, req.HMACKey)
	h.Write([]byte(signedPart(req.Certificate)))
	for _, e := range slices.SortedFunc(slices.Values(stored), byKey) {
		var words [8]byte
		binary.BigEndian.PutUint32(words[:4], uint32(e.Start))
		binary.BigEndian.PutUint32(words[4:], uint32(e.Period))
		h.Write([]byte{0})
		h.Write(e.Key[:])
		h.Write(words[:])
	}
	h.Sum(receipt[:0])
	return receipt
}

func byKey(a, b exposure.Exposure) int { return bytes.Compare(a.Key[:], b.Key[:]) }

func signedPart(jwt string) string {
	if i := strings.LastIndexByte(jwt, '.'); i >= 0 {
		return jwt[:i]
	}
	return jwt
}

// factOf is what statistics keep of an upload. An app that needs no certificate
// has no authority to count for.
func factOf(keys []exposure.Exposure, onset exposure.Interval, told bool, app app, claims certificate.Claims, platform store.Platform, now time.Time) store.Fact {
	today := exposure.DayOf(now)
	f := store.Fact{Authority: app.ids[claims.Issuer], Platform: platform, OnsetAge: -1}
	for _, e := range keys {
		f.KeyAges = append(f.KeyAges, int(today-e.Start.Day()))
	}
	if told {
		f.OnsetAge = int(today - onset.Day())
	}
	return f
}
