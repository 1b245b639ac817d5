package serve

import (
	"errors"
	"fmt"
	"time"
)

// Settings bound what neighbours may ask of us, and say how they reach us.
type Settings struct {
	Page    int           `envconfig:"FEDERATION_PAGE" default:"500" min:"1" max:"50000" desc:"keys of an answer, for a neighbour that asks for no number"`
	MaxPage int           `envconfig:"FEDERATION_MAX_PAGE" default:"10000" min:"1" max:"50000" desc:"keys of an answer at most, whatever is asked; an answer of 3 MiB is full before"`
	Timeout time.Duration `envconfig:"FEDERATION_TIMEOUT" default:"20s" min:"100ms" max:"24s" desc:"how long an answer may take; a neighbour's own deadline may be sooner; at four fifths what was found so far is sent; a stop waits 24s"`
	Rate    int           `envconfig:"FEDERATION_RATE" default:"200" min:"1" max:"10000" desc:"requests a second of one neighbour; what comes faster waits for up to two seconds, and what would wait longer is refused"`

	Cert     string `envconfig:"FEDERATION_TLS_CERT" desc:"PEM file with the server's certificate and its chain, read again when it changes; empty: no TLS, for a platform that ends it in front"`
	Key      string `envconfig:"FEDERATION_TLS_KEY" desc:"PEM file with the certificate's key"`
	ClientCA string `envconfig:"FEDERATION_TLS_CLIENT_CA" desc:"PEM file with the authorities of neighbours' certificates, read again when it changes; empty: their ID tokens are enough"`
}

// check refuses what cannot work together.
func (s Settings) check() error {
	switch {
	case s.Page > s.MaxPage:
		return fmt.Errorf("FEDERATION_PAGE is %d: it must be at most FEDERATION_MAX_PAGE, which is %d", s.Page, s.MaxPage)
	case (s.Cert == "") != (s.Key == ""):
		return errors.New("FEDERATION_TLS_CERT and FEDERATION_TLS_KEY go together: set both, or none")
	case s.ClientCA != "" && s.Cert == "":
		return errors.New("FEDERATION_TLS_CLIENT_CA needs FEDERATION_TLS_CERT: without TLS nobody shows a certificate")
	default:
		return nil
	}
}
