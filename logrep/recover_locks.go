package logrep

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// clearMax bounds the pause between two looks at who blocks a group.
const clearMax = time.Second

// busyGroup is what recovery's connection is at.
type busyGroup struct {
	pid   uint32    // of its backend; 0: none
	gid   mtm.GID   // the first of the group
	since time.Time // zero: idle
	bytes int64     // of its payloads
}

func (r *Recoverer) setBusy(b busyGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.pid = r.busy.pid
	r.busy = b
}

func (r *Recoverer) late() (busyGroup, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.busy, r.busy.pid != 0 && !r.busy.since.IsZero() && time.Since(r.busy.since) > probeMax
}

// clearWay ends local sessions that hold what recovery waits for: what it applies is committed, and they are not.
func (r *Recoverer) clearWay(ctx context.Context) error {
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	var last busyGroup
	pause := probeMax
	for {
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		b, late := r.late()
		if !late {
			pause = probeMax
			continue
		}
		if pause = min(2*pause, clearMax); b != last { // a large transaction takes its time, and the look is not free
			last, pause = b, probeMax
		}
		var err error
		if conn == nil {
			conn, err = r.cfg.connect(ctx, appMonitor, map[string]string{"jit": "off"})
		}
		if err == nil {
			err = r.endBlockers(ctx, conn, b)
		}
		if err != nil && conn != nil {
			closeConn(conn)
			conn = nil
		}
	}
}

// endBlockers looks who blocks the group, and ends clients. Prepared transactions are not its business: they wait for
// their outcome.
func (r *Recoverer) endBlockers(ctx context.Context, conn *pgconn.PgConn, b busyGroup) error {
	rows, err := query(ctx, conn, blockersSQL, "{"+strconv.Itoa(int(b.pid))+"}")
	if err != nil {
		return err
	}
	m := &lockMonitor{Applier: &Applier{cfg: r.cfg}, conn: conn}
	for _, row := range rows {
		w := parseWait(row)
		cancel := func() error { return m.signal(ctx, "pg_cancel_backend", w.blocker) }
		switch {
		case w.blocker == 0:
			r.cfg.Log.Info("recovery waits for a prepared transaction", keyGID, b.gid.String(), "holder", w.gid)
			if _, users := mtm.ParseUserName(w.gid); users {
				err = r.endAhead(ctx, conn, w.gid)
			}
		case w.backend == "autovacuum worker":
			err = m.signal(ctx, "pg_cancel_backend", w.blocker)
		case w.backend != "client backend" || w.app == appApply || w.app == appFinish || r.sink.Conflict(b.gid, 0, w.blocker, cancel):
			continue
		default:
			r.cfg.Log.Info("ending a session that blocks recovery", keyPID, w.blocker, keyGID, b.gid.String())
			err = m.stop(ctx, "pg_terminate_backend", w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
