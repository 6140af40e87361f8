package logrep

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// lockMonitor finds out who stands in the way of workers that wait, as PostgreSQL told them (Config.LockNotice), or that
// take longer than the grace. It is one goroutine with one connection, and never in the way of applying.
type lockMonitor struct {
	*Applier
	conn *pgconn.PgConn
}

const (
	probeFirst   = 4 * time.Millisecond // after a look at a wait; doubled after each
	probeMax     = 50 * time.Millisecond
	probeRival   = 10 * time.Millisecond // the first, where a rival is known that is about to lose, or to end
	cancelRepeat = 20 * time.Millisecond // a cancel request that comes between two statements is lost
	retireEvery  = 5 * time.Second
)

// monitor runs until ctx ends.
func (a *Applier) monitor(ctx context.Context) error {
	m := &lockMonitor{Applier: a}
	defer m.disconnect()
	timer := time.NewTimer(0)
	defer timer.Stop()
	retired := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.look:
		case <-timer.C:
		}
		m.dropCancelled()
		probes, cancels := m.due(time.Now())
		if len(probes)+len(cancels) > 0 {
			if err := m.examine(ctx, probes, cancels); err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("lock monitor", keyError, err)
				m.disconnect()
			}
		}
		if time.Since(retired) > retireEvery {
			retired = time.Now()
			a.mu.Lock()
			a.retire()
			a.mu.Unlock()
		}
		timer.Reset(m.pause())
	}
}

func (m *lockMonitor) disconnect() {
	if m.conn != nil {
		closeConn(m.conn)
		m.conn = nil
	}
}

// pause is how long nothing is to be done: up to the next look at a job that runs.
func (m *lockMonitor) pause() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.running) == 0 {
		return retireEvery
	}
	pause := m.cfg.Grace
	now := time.Now()
	for _, job := range m.running {
		pause = min(pause, job.probe.Sub(now))
	}
	return max(pause, time.Millisecond)
}

// dropCancelled ends cancelled jobs that no worker has taken.
func (m *lockMonitor) dropCancelled() {
	m.mu.Lock()
	var dropped []*applyJob
	kept := m.queue[:0:0]
	for _, job := range m.queue {
		if job.isCancelled() && !m.before[job.gid] { // what may be prepared needs a worker, to find out
			dropped = append(dropped, job)
			delete(m.jobs, job.gid)
		} else {
			kept = append(kept, job)
		}
	}
	m.queue = kept
	m.mu.Unlock()
	for _, job := range dropped {
		m.sink.Applied(job.gid, m.report(job, errCancelled))
	}
}

// suspect is a busy worker's backend.
type suspect struct {
	pid uint32
	job *applyJob
}

// due lists who has run too long and was not looked at just now, and who must be cancelled.
func (m *lockMonitor) due(now time.Time) (probes, cancels []suspect) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, job := range m.running {
		if w.pid == 0 || now.Before(job.probe) {
			continue
		}
		if job.isCancelled() {
			job.probe = now.Add(cancelRepeat)
			cancels = append(cancels, suspect{w.pid, job})
			continue
		}
		probes = append(probes, suspect{w.pid, job})
		job.probe = now.Add(job.wait)
		job.wait = min(2*job.wait, probeMax)
	}
	return probes, cancels
}

// examine asks PostgreSQL about all of them at once.
func (m *lockMonitor) examine(ctx context.Context, probes, cancels []suspect) error {
	if m.conn == nil {
		var err error
		if m.conn, err = m.cfg.connect(ctx, appMonitor, map[string]string{"jit": "off", "plan_cache_mode": "force_generic_plan"}); err != nil {
			return err
		}
		if _, err := m.conn.Prepare(ctx, blockers, blockersSQL, nil); err != nil {
			m.disconnect()
			return err
		}
	}
	for _, c := range cancels {
		if err := m.signal(ctx, "pg_cancel_backend", c.pid); err != nil {
			return err
		}
	}
	if len(probes) == 0 {
		return nil
	}
	pids := make([]string, len(probes))
	byPID := make(map[uint32]*applyJob, len(probes))
	for i, p := range probes {
		pids[i] = strconv.Itoa(int(p.pid))
		byPID[p.pid] = p.job
	}
	res := m.conn.ExecPrepared(ctx, blockers, [][]byte{[]byte("{" + strings.Join(pids, ",") + "}")}, nil, nil).Read()
	if res.Err != nil {
		return res.Err
	}
	waits := make([]lockWait, 0, len(res.Rows))
	for _, row := range res.Rows {
		waits = append(waits, parseWait(row))
	}
	m.mark(probes, waits)
	for _, w := range waits {
		if job := byPID[w.pid]; job != nil {
			if err := m.tell(ctx, job, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark counts the workers that wait, so that the pool may grow by as many.
func (m *lockMonitor) mark(probes []suspect, waits []lockWait) {
	waiting := map[uint32]bool{}
	for _, w := range waits {
		waiting[w.pid] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range probes {
		if m.jobs[p.job.gid] != p.job || p.job.blocked == waiting[p.pid] {
			continue
		}
		p.job.blocked = waiting[p.pid]
		if p.job.blocked {
			m.blocked++
		} else {
			m.blocked--
		}
	}
	m.makeRoom()
	m.dispatch()
}

// tell reports one wait, or ends what causes it.
func (m *lockMonitor) tell(ctx context.Context, job *applyJob, w lockWait) error {
	if w.blocker == 0 {
		user, users := mtm.ParseUserName(w.gid)
		holder, ours := mtm.ParseGID(w.gid)
		if users && user != job.gid && lockConflict(w.mode, w.held) {
			return m.behindUser(ctx, job, user)
		}
		if !ours || !lockConflict(w.mode, w.held) {
			return nil
		}
		if holder == job.gid { // prepared by an earlier process: stop, and look
			return m.signal(ctx, "pg_cancel_backend", w.pid)
		}
		m.sink.Blocked(job.gid, holder)
		return nil
	}
	if holder, found := m.jobOf(w.blocker); found {
		if holder != job.gid {
			m.sink.Blocked(job.gid, holder)
		}
		return nil
	}
	switch {
	case w.backend == "autovacuum worker": // it would yield, but only after deadlock_timeout
		return m.signal(ctx, "pg_cancel_backend", w.blocker)
	case w.backend != "client backend" || w.app == appApply || w.app == appFinish:
		return nil
	case m.sink.Conflict(job.gid, job.age, w.blocker, func() error { return m.signal(ctx, "pg_cancel_backend", w.blocker) }):
		return nil
	case strings.HasPrefix(w.state, "idle in transaction"):
		m.cfg.Log.Info("ending a session that blocks a replicated transaction", keyPID, w.blocker, keyGID, job.gid.String())
		return m.stop(ctx, "pg_terminate_backend", w)
	}
	m.cfg.Log.Info("cancelling a statement that blocks a replicated transaction", keyPID, w.blocker, keyGID, job.gid.String())
	return m.stop(ctx, "pg_cancel_backend", w)
}

// stop signals a client's backend if it still is in the way: since it was looked at, its transaction may have ended, and
// what it does now is nobody's business.
func (m *lockMonitor) stop(ctx context.Context, function string, w lockWait) error {
	_, err := query(ctx, m.conn, "SELECT "+function+"($1::int4) WHERE $1::int4 = ANY (pg_blocking_pids($2::int4))",
		strconv.Itoa(int(w.blocker)), strconv.Itoa(int(w.pid)))
	return err
}

// signal calls one of PostgreSQL's functions that signal a backend.
func (m *lockMonitor) signal(ctx context.Context, function string, pid uint32) error {
	_, err := query(ctx, m.conn, "SELECT "+function+"($1::int4)", strconv.Itoa(int(pid)))
	return err
}

func (m *lockMonitor) jobOf(pid uint32) (mtm.GID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, job := range m.running {
		if w.pid == pid {
			return job.gid, true
		}
	}
	return mtm.GID{}, false
}

// lockWait is a row of blockersSQL: pid waits for blocker, or, if that is 0, in mode for what the prepared transaction
// gid holds in mode held.
type lockWait struct {
	pid, blocker        uint32
	state, backend, app string
	gid, mode, held     string
}

func parseWait(row [][]byte) lockWait {
	pid, _ := strconv.ParseUint(string(row[0]), 10, 32)
	blocker, _ := strconv.ParseUint(string(row[1]), 10, 32)
	return lockWait{
		pid: uint32(pid), blocker: uint32(blocker), state: string(row[2]), backend: string(row[3]), app: string(row[4]),
		gid: string(row[5]), mode: string(row[6]), held: string(row[7]),
	}
}

const blockers = "blockers" // the name of blockersSQL, prepared

// A prepared transaction's locks have no pid. Each of them, held for a sub-transaction too, has the virtual transaction
// of the lock on the prepared transaction's own xid.
const blockersSQL = `
WITH waiting AS MATERIALIZED (
  SELECT pid FROM pg_stat_activity WHERE pid = ANY ($1::int4[]) AND wait_event_type = 'Lock'
), blocking AS MATERIALIZED (
  SELECT DISTINCT pid, unnest(pg_blocking_pids(pid)) AS blocker FROM waiting
), locks AS MATERIALIZED (
  SELECT * FROM pg_locks WHERE EXISTS (SELECT FROM blocking WHERE blocker = 0)
)
SELECT b.pid, b.blocker, coalesce(a.state, ''), coalesce(a.backend_type, ''), -- anybody can take a name of ours
  CASE WHEN a.usename = current_user THEN a.application_name ELSE '' END, '', '', ''
FROM blocking b LEFT JOIN pg_stat_activity a ON a.pid = b.blocker
WHERE b.blocker <> 0
UNION ALL
SELECT b.pid, 0, '', '', '', p.gid, w.mode, h.mode
FROM blocking b
JOIN locks w ON w.pid = b.pid AND NOT w.granted
JOIN locks h ON h.pid IS NULL AND h.granted AND h.locktype = w.locktype
  AND (h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, h.classid, h.objid, h.objsubid)
    IS NOT DISTINCT FROM
    (w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid, w.classid, w.objid, w.objsubid)
JOIN locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction
JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE b.blocker = 0`

// lockConflicts is the table of PostgreSQL manual, 13.3: which modes a mode does not tolerate.
var lockConflicts = map[string]string{
	"AccessShareLock":          "AccessExclusiveLock",
	"RowShareLock":             "ExclusiveLock AccessExclusiveLock",
	"RowExclusiveLock":         "ShareLock ShareRowExclusiveLock ExclusiveLock AccessExclusiveLock",
	"ShareUpdateExclusiveLock": "ShareUpdateExclusiveLock ShareLock ShareRowExclusiveLock ExclusiveLock AccessExclusiveLock",
	"ShareLock":                "RowExclusiveLock ShareUpdateExclusiveLock ShareRowExclusiveLock ExclusiveLock AccessExclusiveLock",
	"ShareRowExclusiveLock":    "RowExclusiveLock ShareUpdateExclusiveLock ShareLock ShareRowExclusiveLock ExclusiveLock AccessExclusiveLock",
	"ExclusiveLock":            "RowShareLock RowExclusiveLock ShareUpdateExclusiveLock ShareLock ShareRowExclusiveLock ExclusiveLock AccessExclusiveLock",
}

// lockConflict reports whether a lock in mode a and one in mode b exclude each other. What is not in the table does.
func lockConflict(a, b string) bool {
	list, known := lockConflicts[a]
	if !known {
		return true
	}
	for _, mode := range strings.Fields(list) {
		if mode == b {
			return true
		}
	}
	return false
}
