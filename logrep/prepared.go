package logrep

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// Application names of our sessions in PostgreSQL.
const (
	appApply   = "mtm_apply"
	appFinish  = "mtm_finish"
	appMonitor = "mtm_monitor"
	appRecover = "mtm_recover"
)

// PreparedXact is a prepared transaction of mtm that PostgreSQL holds.
type PreparedXact struct {
	GID mtm.GID
}

// Prepared lists what PostgreSQL holds prepared under gids of mtm, of all origins, oldest first. It first ends apply and
// finish sessions that an earlier process left behind, and waits for them: one of them could still be preparing
// something. It ends, too, what users prepared and an earlier process has not ended, or never announced. So call it after
// RecoveredPosition, and before Applier and Finisher run, with their Catalog. Sessions of a gateway are not its business.
func Prepared(ctx context.Context, cfg Config) ([]PreparedXact, error) {
	cfg = cfg.withDefaults()
	return prepared(ctx, cfg, func(conn *pgconn.PgConn) error { return startUser(ctx, conn, cfg.Catalog) }, appApply, appFinish)
}

// prepared lists them after ending the sessions of apps, and first.
func prepared(ctx context.Context, cfg Config, first func(*pgconn.PgConn) error, apps ...string) ([]PreparedXact, error) {
	conn, err := cfg.connect(ctx, appMonitor, nil)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	if err := endSessions(ctx, conn, "application_name = ANY ($1::text[])", "{"+strings.Join(apps, ",")+"}"); err != nil {
		return nil, err
	}
	if err := first(conn); err != nil {
		return nil, err
	}
	return listPrepared(ctx, conn)
}

func listPrepared(ctx context.Context, conn *pgconn.PgConn) ([]PreparedXact, error) {
	rows, err := query(ctx, conn, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared")
	if err != nil {
		return nil, fmt.Errorf("list prepared transactions: %w", err)
	}
	var found []PreparedXact
	for _, row := range rows {
		if gid, ours := mtm.ParseGID(string(row[0])); ours {
			found = append(found, PreparedXact{GID: gid})
		}
	}
	return found, nil
}

// endSessions terminates the sessions of this database that cond (with args from $1) selects, and waits until
// they are gone.
func endSessions(ctx context.Context, conn *pgconn.PgConn, cond string, args ...string) error {
	for n := 1; ; n++ {
		rows, err := query(ctx, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
			"WHERE datname = current_database() AND pid <> pg_backend_pid() AND "+cond, args...)
		if err != nil {
			return fmt.Errorf("end old sessions: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := backoff(ctx, min(n, 3)); err != nil {
			return err
		}
	}
}

// isPrepared reports whether PostgreSQL holds gid.
func isPrepared(ctx context.Context, conn *pgconn.PgConn, gid mtm.GID) (bool, error) {
	rows, err := query(ctx, conn,
		"SELECT 1 FROM pg_prepared_xacts WHERE gid = $1 AND database = current_database()", gid.String())
	return len(rows) == 1, err
}
