package database

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// login is who we are for the database.
type login struct{ user, password string }

// changing is a setting behind a reference to a secret. Its value may change
// while we run.
type changing struct {
	variable         string
	current, renewed func(context.Context) (string, error)
}

// KeepSecret implements config.Keeper: a role and its password are asked for
// again when they change. The rest of an address counts as it was at the start.
func (s *Settings) KeepSecret(variable string, current, renewed func(context.Context) (string, error)) {
	switch variable {
	case "DATABASE_URL", "DB_USER", "DB_PASSWORD":
		s.changing = append(s.changing, changing{variable, current, renewed})
	}
}

// login is who the secrets say that we are, asked in one of their two ways.
func (s Settings) login(ctx context.Context, ask func(changing) func(context.Context) (string, error)) (login, error) {
	for _, c := range s.changing {
		value, err := ask(c)(ctx)
		if err != nil {
			return login{}, err
		}
		switch c.variable {
		case "DATABASE_URL":
			s.URL = value
		case "DB_USER":
			s.User = value
		case "DB_PASSWORD":
			s.Password = value
		}
	}
	cfg, err := s.ConnConfig()
	if err != nil {
		return login{}, err
	}
	return login{cfg.User, cfg.Password}, nil
}

func current(c changing) func(context.Context) (string, error) { return c.current }
func renewed(c changing) func(context.Context) (string, error) { return c.renewed }

// logins lets a pool follow a password that changes.
//
// Whoever changes it tells the manager and the database one after the other,
// and connections are made in between: of the password that the manager has and
// the one that opened the last connection, one is right, whichever came first.
type logins struct {
	settings Settings

	mu     sync.Mutex
	worked login // that of the last connection
}

// follow makes the connections of a pool ask for the login.
func (l *logins) follow(cfg *pgxpool.Config) {
	cfg.BeforeConnect = l.fill
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.worked = login{conn.Config().User, conn.Config().Password}
		return nil
	}
}

// certain is the key under which a context holds the login to try.
type certain struct{}

// fill puts the login into what a connection is made with. When it cannot be
// had, the one of the start stays: it may well be right.
func (l *logins) fill(ctx context.Context, cfg *pgx.ConnConfig) error {
	who, ok := ctx.Value(certain{}).(login)
	if !ok {
		var err error
		if who, err = l.settings.login(ctx, current); err != nil {
			return nil //nolint:nilerr // see above
		}
	}
	cfg.User, cfg.Password = who.user, who.password
	return nil
}

// pauses come before the rounds of trying other logins. Together they are as
// long as the moment between manager and database should be, and short enough
// for a phone that waits.
var pauses = [...]time.Duration{0, 250 * time.Millisecond, 750 * time.Millisecond}

// enter runs what needs a connection, and runs it again with other logins when
// the database refused the one that was tried. What was refused has not begun.
func (l *logins) enter(ctx context.Context, connect func(context.Context) error) error {
	err := connect(ctx)
	if len(l.settings.changing) == 0 {
		return err
	}
	for _, pause := range pauses {
		if !refused(err) || !sleep(ctx, pause) {
			return err
		}
		for _, who := range l.others(ctx) {
			if err = connect(context.WithValue(ctx, certain{}, who)); !refused(err) {
				return err
			}
		}
	}
	return err
}

// others are the logins that may be right when one was refused: what the
// manager says now, and what opened the last connection. A manager that does not
// answer is not waited for longer than a database would be.
func (l *logins) others(ctx context.Context) []login {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var found []login
	now, err := l.settings.login(ctx, renewed)
	if err == nil {
		found = append(found, now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.worked != (login{}) && l.worked != now {
		found = append(found, l.worked)
	}
	return found
}

// refused tells whether the database knows no such role, or not with this
// password.
func refused(err error) bool {
	const wrongPassword, wrongRole = "28P01", "28000"
	var said *pgconn.PgError
	return errors.As(err, &said) && (said.Code == wrongPassword || said.Code == wrongRole)
}

// sleep tells whether the time was there.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
