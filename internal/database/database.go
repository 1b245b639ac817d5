// Package database is a pool of PostgreSQL connections, a transaction and a
// loop over rows; it knows no table.
package database

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"

	"enkeyserver/internal/errs"
)

// Settings say where the database is. Either URL or the single values count.
type Settings struct {
	URL         string `envconfig:"DATABASE_URL" desc:"PostgreSQL URL; replaces the DB_ variables"`
	Host        string `envconfig:"DB_HOST" desc:"host name, or the folder of a Unix socket"`
	Port        int    `envconfig:"DB_PORT" default:"5432" desc:"port"`
	Name        string `envconfig:"DB_NAME" desc:"database name"`
	User        string `envconfig:"DB_USER" desc:"role"`
	Password    string `envconfig:"DB_PASSWORD" desc:"password of the role"`
	SSLMode     string `envconfig:"DB_SSLMODE" default:"verify-full" desc:"verify-full or verify-ca; anything weaker only on a Unix socket or loopback"`
	SSLCert     string `envconfig:"DB_SSLCERT" desc:"file with the client certificate"`
	SSLKey      string `envconfig:"DB_SSLKEY" desc:"file with the client certificate's key"`
	SSLRootCert string `envconfig:"DB_SSLROOTCERT" desc:"file with the server's root certificates"`
	PoolMax     int32  `envconfig:"DB_POOL_MAX_CONNS" default:"10" desc:"connections of one instance at most; all instances together must stay under the server's max_connections"`

	changing []changing // see KeepSecret
}

// Tx is an open transaction.
type Tx = pgx.Tx

// DB is a pool of connections.
type DB struct {
	pool   *pgxpool.Pool
	logins *logins
}

// Queryer is what can be asked: a DB or a Tx.
type Queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// connectTimeout bounds a connection attempt, so that a request that meets a
// dead database is answered within two seconds.
const connectTimeout = 1500 * time.Millisecond

// Session is a set of PostgreSQL parameters that a pool's connections ask for.
type Session map[string]string

// session holds what every connection asks for: nobody waits long for a lock,
// nobody keeps a transaction open for nothing, times are UTC. Statements are not
// compiled: that takes up to a second, for each of the partitions, and pays off
// for none of ours.
var session = Session{
	"application_name":                    "enkeyserver",
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "60s",
	"timezone":                            "UTC",
	"jit":                                 "off",
}

// errNoAddress stands for the driver's own error, which would repeat the URL,
// password included.
var errNoAddress = errors.New("DATABASE_URL or DB_* do not make a PostgreSQL address")

// Open makes the pool. It does not wait for the database: a service must come
// up, and answer "try again", while the database is down.
func Open(ctx context.Context, s Settings, more ...Session) (_ *DB, err error) {
	defer errs.Wrap(&err, "database.Open")
	dsn, err := s.dsn()
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errNoAddress
	}
	if err := refuseWeakTLS(cfg.ConnConfig); err != nil {
		return nil, err
	}
	cfg.LazyConnect = true
	cfg.MaxConns = max(s.PoolMax, 2) // dropping a partition takes two
	cfg.MaxConnLifetime = 30 * time.Minute
	cfg.MaxConnLifetimeJitter = 5 * time.Minute
	cfg.HealthCheckPeriod = 15 * time.Second
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	// Whatever the address asks for: it would put values, keys among them, into
	// the texts of statements, which the server logs.
	cfg.ConnConfig.PreferSimpleProtocol = false
	for _, params := range append([]Session{session}, more...) {
		for name, value := range params {
			if _, set := cfg.ConnConfig.RuntimeParams[name]; !set {
				cfg.ConnConfig.RuntimeParams[name] = value
			}
		}
	}
	db := &DB{logins: &logins{settings: s}}
	if len(s.changing) > 0 {
		db.logins.follow(cfg)
	}
	if db.pool, err = pgxpool.ConnectConfig(ctx, cfg); err != nil {
		return nil, err
	}
	return db, nil
}

// ConnConfig is for what needs one connection of its own instead of a pool.
func (s Settings) ConnConfig() (_ *pgx.ConnConfig, err error) {
	defer errs.Wrap(&err, "database.ConnConfig")
	dsn, err := s.dsn()
	if err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errNoAddress
	}
	return cfg, refuseWeakTLS(cfg)
}

// Close waits for the queries that run and closes the connections.
func (db *DB) Close() { db.pool.Close() }

// Ping asks whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return db.logins.enter(ctx, db.pool.Ping) }

// Pool gives the connections themselves, for those who count them.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Acquire takes a connection out of the pool, for what must be sent in one trip.
// The caller releases it.
func (db *DB) Acquire(ctx context.Context) (conn *pgxpool.Conn, err error) {
	err = db.logins.enter(ctx, func(ctx context.Context) (err error) {
		conn, err = db.pool.Acquire(ctx)
		return err
	})
	return conn, err
}

// Query runs a statement of its own that returns rows.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	err = db.logins.enter(ctx, func(ctx context.Context) (err error) {
		rows, err = db.pool.Query(ctx, sql, args...)
		return err
	})
	return rows, err
}

// Exec runs a statement of its own that returns none.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = db.logins.enter(ctx, func(ctx context.Context) (err error) {
		tag, err = db.pool.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// InTx runs f in a read-committed transaction: committed when f returns nil,
// rolled back on an error or a panic.
func (db *DB) InTx(ctx context.Context, f func(tx Tx) error) error {
	return db.inTx(ctx, pgx.TxOptions{}, f)
}

// InSnapshot runs f in a read-only transaction whose statements all see the
// same state.
func (db *DB) InSnapshot(ctx context.Context, f func(tx Tx) error) error {
	return db.inTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
}

func (db *DB) inTx(ctx context.Context, opts pgx.TxOptions, f func(tx Tx) error) error {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return conn.BeginTxFunc(ctx, opts, func(tx pgx.Tx) error { return f(tx) })
}

func (s Settings) dsn() (string, error) {
	if s.URL != "" {
		return s.URL, nil
	}
	if s.Host == "" || s.Name == "" {
		return "", errors.New("DATABASE_URL, or DB_HOST and DB_NAME, must be set")
	}
	var b strings.Builder
	for _, kv := range [][2]string{
		{"host", s.Host},
		{"port", fmt.Sprint(s.Port)},
		{"dbname", s.Name},
		{"user", s.User},
		{"password", s.Password},
		{"sslmode", s.SSLMode},
		{"sslcert", s.SSLCert},
		{"sslkey", s.SSLKey},
		{"sslrootcert", s.SSLRootCert},
	} {
		if kv[1] != "" {
			fmt.Fprintf(&b, "%s='%s' ", kv[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(kv[1]))
		}
	}
	return strings.TrimSpace(b.String()), nil // the driver takes no space at the end
}

// refuseWeakTLS lets a connection go without verified TLS only where nobody
// can listen: on a Unix socket or the loopback interface. The driver's line
// gets no more fixes, so the wire itself must be trustworthy. An address may
// name several hosts, and "prefer" several ways to one: each must be fine.
func refuseWeakTLS(c *pgx.ConnConfig) error {
	fine := private(c.Host) || verified(c.TLSConfig)
	for _, next := range c.Fallbacks {
		fine = fine && (private(next.Host) || verified(next.TLSConfig))
	}
	if !fine {
		return errors.New("DB_SSLMODE must be verify-full or verify-ca for a database on the network")
	}
	return nil
}

// verified: verify-ca skips the name alone, and checks the chain by a function
// of its own.
func verified(t *tls.Config) bool {
	return t != nil && (!t.InsecureSkipVerify || t.VerifyPeerCertificate != nil)
}

func private(host string) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Redact gives a database URL without its password, for logs.
func Redact(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		return "(not a URL)"
	}
	if q := u.Query(); q.Has("password") {
		q.Set("password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}
