package logrep

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// This file is about transactions that a session holds open instead of a PREPARE.

// ExpectOpen says that a session has said mtm.OpenPrefix in gid. WAL is flushed, so that it is decoded at once.
func (c *Capture) ExpectOpen(gid mtm.GID) {
	select {
	case c.push <- struct{}{}:
	default: // the next flush covers it
	}
	c.Expect(gid)
}

// flush flushes WAL whenever that is asked for, by a small commit of its own: what follows the last commit of others would
// lie there for wal_writer_delay.
func (c *Capture) flush(ctx context.Context) error {
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.push:
		}
		if conn == nil {
			var err error
			if conn, err = c.cfg.connect(ctx, "mtm_capture_flush", map[string]string{"synchronous_commit": "local"}); err != nil {
				c.cfg.Log.Warn("cannot flush WAL now; PostgreSQL does it by itself in a while", keyError, err)
				continue
			}
		}
		if err := run(ctx, conn, flushWAL); err != nil {
			closeConn(conn)
			conn = nil
		}
	}
}

// Committed finds out whether PostgreSQL has committed a transaction that a session held open. It ends that session if it
// is still there, and waits until nothing of the transaction can happen any more.
func Committed(ctx context.Context, cfg Config, xid uint64) (bool, error) {
	cfg = cfg.withDefaults()
	conn, err := cfg.connect(ctx, appMonitor, nil)
	if err != nil {
		return false, err
	}
	defer closeConn(conn)
	id := strconv.FormatUint(xid, 10)
	for n := 1; ; n++ {
		rows, err := query(ctx, conn, "SELECT pg_xact_status($1::text::xid8)", id)
		if err != nil || len(rows) != 1 {
			return false, fmt.Errorf("fate of transaction %s: %w", id, err)
		}
		switch status := string(rows[0][0]); status {
		case "committed":
			return true, nil
		case "aborted":
			return false, nil
		case "in progress":
		default:
			return false, fmt.Errorf("PostgreSQL has forgotten the fate of transaction %s", id)
		}
		if _, err := query(ctx, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = $1::text::xid8::xid", id); err != nil {
			return false, err
		}
		if err := sleep(ctx, min(time.Duration(n)*time.Millisecond, 50*time.Millisecond)); err != nil {
			return false, err
		}
	}
}

// Finished tells the catalog that a session has ended gid, which it held open.
func (c *Catalog) Finished(gid mtm.GID) { c.finished(gid) }
