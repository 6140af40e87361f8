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

const (
	stalledLooks = 2  // in a row that find a blocker, before it is ended
	workingLooks = 60 // the same, if it works, and so may end by itself
)

// Unblock looks, over conn, for who keeps PostgreSQL from decoding, and ends what two looks in a row have found. A walsender opens
// the row type of each composite value that it has not met before: a transaction that makes, alters or locks such a type, or its
// table, and writes a value of it, keeps its own decoding waiting, and with it all that comes later; for ever, once it is
// prepared. It is to be called about once a second, by one goroutine; its error is conn's.
//
// A session that works, as VACUUM FULL of a catalog does, is given longer, and one that rewrites a table or makes an index all the time it needs.
// It does not work if it waits for its client, or for a lock whose holder does not work.
func (c *Capture) Unblock(ctx context.Context, conn *pgconn.PgConn) error {
	walsender := strconv.Itoa(int(c.walsender.Load()))
	rows, err := query(ctx, conn, blockersSQL, "{"+walsender+"}")
	if err != nil {
		return err
	}
	found := map[blocker]int{}
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
		found[b] = c.blockers[b] + 1
		if found[b] < stalledLooks {
			continue
		}
		if b.pid != 0 {
			spared, err := c.working(ctx, conn, b.pid, walsender, found[b] < workingLooks)
			if err != nil {
				return err
			}
			if spared {
				continue
			}
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

// working reports whether session pid, that the walsender waits for, may end by itself. If not young, it must be seen to rewrite a table or
// to make an index.
func (c *Capture) working(ctx context.Context, conn *pgconn.PgConn, pid uint32, walsender string, young bool) (bool, error) {
	rows, err := query(ctx, conn, workingSQL, strconv.Itoa(int(pid)), walsender, strconv.FormatBool(young))
	if err != nil {
		return false, err
	}
	return len(rows) == 1, nil
}

// workingSQL is one row if session $1, and all that it waits for, is at work: nobody among them is a prepared transaction (0), the walsender $2,
// or who waits for a client or in a transaction that is idle.
const workingSQL = `
WITH RECURSIVE chain (pid) AS (
  SELECT $1::int4 UNION SELECT unnest(pg_blocking_pids(pid)) FROM chain WHERE pid NOT IN (0, $2::int4)
)
SELECT 1 FROM chain LEFT JOIN pg_stat_activity a USING (pid)
HAVING bool_and(coalesce(pid <> $2::int4 AND a.state = 'active' AND a.wait_event_type IS DISTINCT FROM 'Client', false))
  AND ($3::bool OR EXISTS (SELECT FROM pg_stat_progress_cluster WHERE pid = $1::int4
    UNION ALL SELECT FROM pg_stat_progress_create_index WHERE pid = $1::int4))`
