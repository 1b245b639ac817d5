package store

import (
	"context"
	"time"
)

// Admission is everything that decides who may upload, read in one snapshot.
type Admission struct {
	Apps        map[string]App // by id, lower case
	Authorities map[string]Authority
}

// App is an application that may upload.
type App struct {
	ID                string
	Regions           []string
	Authorities       []string // issuers whose certificates it may send
	SkipCertificate   bool
	SkipRevisionToken bool
}

// Authority signs diagnosis certificates.
type Authority struct {
	ID       int
	Issuer   string
	Audience string
	Name     string
	StatsAPI bool
	Keys     []AuthorityKey
}

// AuthorityKey is one public key of an authority.
type AuthorityKey struct {
	Version    string // the kid
	PublicKey  string // PEM
	From, Thru time.Time
}

// Admission reads who may upload. It is small: a few apps and authorities.
func (db *DB) Admission(ctx context.Context) (Admission, error) { panic("unwritten") }
