package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mtm/logrep"
)

// connectKnown connects to a PostgreSQL that is what it was; goneBackError: it is not.
func (d *daemon) connectKnown(ctx context.Context, app string) (*pgx.Conn, error) {
	conn, err := d.connect(ctx, app)
	if err != nil {
		return nil, err
	}
	if err := d.past.met(ctx, conn); err != nil {
		closeNow(conn)
		return nil, err
	}
	return conn, nil
}

// pgFacts is what the daemon must know of its PostgreSQL.
type pgFacts struct {
	maxPrepared int
	systemID    string
}

func (d *daemon) connect(ctx context.Context, app string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(d.cfg.Postgres)
	if err != nil {
		return nil, fmt.Errorf("setting postgres: %w", err)
	}
	cfg.RuntimeParams["application_name"] = app
	cfg.RuntimeParams["default_transaction_read_only"] = "off"
	cfg.ConnectTimeout = 5 * time.Second
	cfg.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error { // from here on triggers fire
		_, err := conn.Exec(ctx, "SET session_replication_role = origin").ReadAll()
		return err
	}
	conn, err := logrep.Own(&cfg.Config, func() (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, cfg) })
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" { // no superuser: what is checked when a cluster is made says so better
		delete(cfg.RuntimeParams, "session_replication_role")
		cfg.AfterConnect = nil
		return pgx.ConnectConfig(ctx, cfg)
	}
	return conn, err
}

// meetPostgres waits until PostgreSQL answers, and makes sure that it is the one that the journal belongs to.
func (d *daemon) meetPostgres(ctx context.Context, cluster *clusterState) (pgFacts, error) {
	for said := false; ; {
		facts, err := d.pgFacts(ctx)
		if err == nil {
			if facts.systemID != cluster.SystemIdentifier {
				return facts, fmt.Errorf("the PostgreSQL at setting postgres is another one (system identifier %s) than the "+
					"journal in %s belongs to (%s): they must be kept, and restored, together", facts.systemID, d.cfg.DataDir, cluster.SystemIdentifier)
			}
			if err = d.meetPast(ctx); err == nil {
				return facts, nil
			}
		}
		if permanent(err) {
			return facts, fmt.Errorf("setting postgres: %w", err)
		}
		if !said {
			d.log.Warn("waiting for PostgreSQL", keyError, err)
			said = true
		}
		select {
		case <-ctx.Done():
			return facts, ctx.Err()
		case <-time.After(startupRetry):
		}
	}
}

func (d *daemon) meetPast(ctx context.Context) error {
	conn, err := d.connectKnown(ctx, "mtm_start")
	if err == nil {
		closeNow(conn)
	}
	return err
}

// permanent reports whether waiting will not help: a wrong password, role or database.
func permanent(err error) bool {
	var pg *pgconn.PgError
	back := (*goneBackError)(nil)
	return errors.As(err, &back) || errors.As(err, &pg) && (pg.Code[:2] == "28" || pg.Code == "3D000" || pg.Code == "42501")
}

func (d *daemon) pgFacts(ctx context.Context) (pgFacts, error) {
	conn, err := d.connect(ctx, "mtm_start")
	if err != nil {
		return pgFacts{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var f pgFacts
	var prepared string
	err = conn.QueryRow(ctx, `SELECT current_setting('max_prepared_transactions'), system_identifier::text FROM pg_control_system()`).
		Scan(&prepared, &f.systemID)
	if err != nil {
		return f, err
	}
	f.maxPrepared, err = strconv.Atoi(prepared)
	return f, err
}
