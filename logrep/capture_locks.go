package logrep

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// blocker holds a lock that the walsender waits for: a prepared transaction, or a session.
type blocker struct {
	gid mtm.GID
	pid uint32
}

// Unblock looks, over conn, for who keeps PostgreSQL from decoding, and ends what two looks in a row have found. A walsender opens
// the row type of each composite value that it has not met before: a transaction that makes, alters or locks such a type, or its
// table, and writes a value of it, keeps its own decoding waiting, and with it all that comes later; for ever, once it is
// prepared. It is to be called about once a second, by one goroutine; its error is conn's.
func (c *Capture) Unblock(ctx context.Context, conn *pgconn.PgConn) error {
	walsender := strconv.Itoa(int(c.walsender.Load()))
	rows, err := query(ctx, conn, blockersSQL, "{"+walsender+"}")
	if err != nil {
		return err
	}
	found := map[blocker]bool{}
	for _, row := range rows {
		w := parseWait(row)
		b := blocker{pid: w.blocker}
		gid, ours := mtm.ParseGID(w.gid)
		if user, ok := mtm.ParseUserName(w.gid); ok { // the announcement that has not come is to be aborted
			gid, ours = user, true
		}
		switch {
		case w.blocker == 0 && ours && lockConflict(w.mode, w.held):
			b.gid = gid
		case w.blocker == 0, w.backend != "client backend", strings.HasPrefix(w.app, "mtm_"):
			continue
		}
		found[b] = true
		if !c.blockers[b] {
			continue
		}
		if b.pid == 0 {
			c.cfg.Log.Warn("a prepared transaction keeps PostgreSQL from decoding", keyGID, w.gid,
				keyHint, "if it is a user's, end it: ROLLBACK PREPARED, from another node, its name in mtm.prepared")
		}
		if c.sink.Stalled(b.gid, b.pid) || b.pid == 0 {
			continue
		}
		c.cfg.Log.Warn("ending a session that keeps PostgreSQL from decoding", keyPID, b.pid)
		if _, err := query(ctx, conn, "SELECT pg_terminate_backend($1::int4) WHERE $1::int4 = ANY (pg_blocking_pids($2::int4))",
			strconv.Itoa(int(b.pid)), walsender); err != nil {
			return err
		}
	}
	c.blockers = found
	return nil
}
