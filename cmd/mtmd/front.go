package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm/sql/gateway"
)

// newGateway makes the server that clients connect to. It stands before the PostgreSQL of setting postgres.
func (d *daemon) newGateway() (*gateway.Server, error) {
	pg, err := pgconn.ParseConfig(d.cfg.Postgres)
	if err != nil {
		return nil, fmt.Errorf("setting postgres: %w", err)
	}
	cfg := gateway.Config{
		Listen: []string{d.cfg.Listen}, Backend: backendAddress(pg), Database: pg.Database, Commits: d.gate,
		TrustRemote: d.cfg.TrustRemote, RetryAutocommit: d.cfg.RetryAuto, Asked: d.ring, Token: d.tokens.give, Channels: d.relay, Numbers: d.blocks, Log: d.log,
		Everywhere: d.reindexOthers, Ending: d.end,
	}
	if pg.TLSConfig != nil && len(pg.Fallbacks) == 0 { // sslmode=require and above; "prefer" needs none beside the server
		cfg.BackendTLS = pg.TLSConfig
	}
	if d.cfg.ClientTLSCert != "" {
		d.clientCert = &certFile{cert: d.cfg.ClientTLSCert, key: d.cfg.ClientTLSKey}
		if err := d.clientCert.load(); err != nil {
			return nil, fmt.Errorf("setting client_tls_cert: %w", err)
		}
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: d.clientCert.get}
	}
	return gateway.New(cfg)
}

func backendAddress(pg *pgconn.Config) string {
	port := strconv.Itoa(int(pg.Port))
	if filepath.IsAbs(pg.Host) {
		return filepath.Join(pg.Host, ".s.PGSQL."+port)
	}
	return net.JoinHostPort(pg.Host, port)
}

// certFile is a certificate that SIGHUP reads again.
type certFile struct {
	cert, key string
	mu        sync.Mutex
	pair      *tls.Certificate
}

func (c *certFile) load() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pair = &pair
	return nil
}

func (c *certFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair, nil
}
