// Package telemetry makes the log and the metrics that operators watch.
//
// Neither may ever hold a key, a token, a certificate, an HMAC or an address,
// and no label of a metric may come from a request unchecked: each new value
// costs memory for as long as the process runs.
package telemetry

import (
	"errors"
	"io"
	"log/slog"
)

// Settings say how much is logged, and in which form.
type Settings struct {
	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" options:"debug,info,warn,error" desc:"the least important records that are written"`
	LogFormat string `envconfig:"LOG_FORMAT" default:"json" options:"json,text" desc:"one JSON object a line, or text for people"`
}

// NewLogger makes a logger that writes one line a record.
func NewLogger(w io.Writer, s Settings) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, errors.New("LOG_LEVEL must be debug, info, warn or error")
	}
	switch s.LogFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: seconds})), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
	default:
		return nil, errors.New("LOG_FORMAT must be json or text")
	}
}

// seconds writes durations for machines as the metrics do: slog would write
// nanoseconds.
func seconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}
