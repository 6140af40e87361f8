package logrep

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
)

// work is one worker: a job at a time, on one connection that it keeps.
func (a *Applier) work(ctx context.Context, w *applyWorker) error {
	var s *applySession
	defer func() {
		if s != nil {
			s.close()
		}
		a.mu.Lock()
		a.freeIDs = append(a.freeIDs, w.id)
		a.mu.Unlock()
	}()
	job := <-w.jobs
	for job != nil {
		var err error
		s, err = a.attempt(ctx, w, s, job)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.done(w, job, a.report(job, err))
		job = a.next(ctx, w)
	}
	return ctx.Err()
}

func (a *Applier) report(job *applyJob, err error) *mtm.Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errCancelled) && job.crowded.Load():
		return mtm.Conflict(fmt.Sprintf("node %d: too many transactions wait for locks of others", a.cfg.Node))
	case errors.Is(err, errCancelled) && job.behind.Load() != nil:
		return mtm.Conflict(fmt.Sprintf("node %d: the prepared transaction %q has locks that it needs", a.cfg.Node, *job.behind.Load()))
	case errors.Is(err, errCancelled):
		return mtm.Conflict(fmt.Sprintf("node %d: cancelled", a.cfg.Node))
	}
	a.cfg.Log.Debug("apply failed", keyGID, job.gid.String(), keyError, err)
	return applyError(a.cfg.Node, err)
}

const codeDeadlock = "40P01" // deadlock_detected

const (
	applyAttempts = 6
	maxDeadlocks  = 100 // with sessions of this node; each ends with nothing applied, and who was in the way goes on
)

// attempt applies job, again where that may help, until it is prepared or certainly is not and will not be. It returns
// the session to go on with, nil if it is lost.
func (a *Applier) attempt(ctx context.Context, w *applyWorker, s *applySession, job *applyJob) (*applySession, error) {
	a.mu.Lock()
	repeat := a.before[job.gid] // an earlier process may have prepared it
	a.mu.Unlock()
	deadlocks := 0
	for n := 1; ; n++ {
		if job.isCancelled() && !repeat {
			return s, errCancelled
		}
		if s == nil {
			var err error
			if s, err = a.connect(ctx, w); err != nil && !(repeat && ctx.Err() == nil) {
				return nil, err
			}
			if err != nil {
				continue // until PostgreSQL says: the answer must be true
			}
		}
		if repeat {
			there, err := isPrepared(ctx, s.conn, job.gid)
			if err != nil {
				s.close()
				s = nil
				if err := backoff(ctx, n); err != nil {
					return nil, err
				}
				continue
			}
			if there {
				return s, nil
			}
			repeat = false
			continue
		}
		stop := interruptible(ctx, s.conn)
		err := s.apply(job)
		if err != nil {
			s, err = a.cleanUp(ctx, s, job, err)
		}
		if err != nil && job.user && ctx.Err() == nil {
			var undo error
			if s, undo = a.undoUser(ctx, w, s, job); undo != nil {
				stop()
				return s, undo
			}
		}
		stop()
		if err == nil {
			if s != nil && s.cleanse() != nil {
				s.close()
				s = nil
			}
			return s, nil
		}
		again, news := a.curable(s, err)
		if job.isCancelled() || n >= applyAttempts || !again {
			return s, a.verdict(job, err)
		}
		switch {
		case news: // a payload may teach something of each of its tables
			n--
		case sqlState(err) == codeDeadlock && deadlocks < maxDeadlocks:
			deadlocks++
			n--
		}
		repeat = sqlState(err) == "42710" || sqlState(err) == mtm.CodeQueryCanceled
	}
}

// verdict is the error to tell: a cancelled job's is that, whatever it looks like.
func (a *Applier) verdict(job *applyJob, err error) error {
	if job.isCancelled() && (sqlState(err) == mtm.CodeQueryCanceled || errors.Is(err, errCancelled)) {
		return errCancelled
	}
	return err
}

// cleanUp makes sure that job's transaction is not open any more. If the connection is lost around PREPARE, it asks
// PostgreSQL what became of it: nil means that it is prepared.
func (a *Applier) cleanUp(ctx context.Context, s *applySession, job *applyJob, err error) (*applySession, error) {
	preparing := job.preparing
	job.preparing = false
	var broken *brokenError
	if !errors.As(err, &broken) && s.rollback() == nil && s.cleanse() == nil {
		return s, err
	}
	pid := s.conn.PID()
	s.close()
	if !preparing || ctx.Err() != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		there, checkErr := a.settle(ctx, pid, job.gid)
		switch {
		case checkErr == nil && there:
			return nil, nil
		case checkErr == nil:
			return nil, err
		}
		a.cfg.Log.Warn("cannot find out yet whether a transaction is prepared", keyGID, job.gid.String(), keyError, checkErr)
		if err := backoff(ctx, n); err != nil {
			return nil, err
		}
	}
}

// settle ends the backend that may still be preparing gid, and reports whether it did.
func (a *Applier) settle(ctx context.Context, pid uint32, gid mtm.GID) (bool, error) {
	conn, err := a.cfg.connect(ctx, appMonitor, nil)
	if err != nil {
		return false, err
	}
	defer closeConn(conn)
	if err := endSessions(ctx, conn, "application_name = $1 AND pid = $2::int4", appApply, strconv.Itoa(int(pid))); err != nil {
		return false, err
	}
	return isPrepared(ctx, conn, gid)
}

// curable prepares s for another try, if one may succeed where err came from. news: something was learned of a table,
// which can happen only so often.
func (a *Applier) curable(s *applySession, err error) (again, news bool) {
	var broken *brokenError
	if errors.As(err, &broken) {
		return true, false // connection lost before PREPARE, or PREPARE certainly undone
	}
	var st *stmtError
	if !errors.As(err, &st) || s == nil {
		return false, false
	}
	switch st.err.Code {
	case mtm.CodeQueryCanceled, "42710", codeDeadlock:
		return true, false // somebody else's cancel; prepared before, see attempt; a cycle within this node
	}
	if _, missing := missingRow(err); missing {
		return false, false
	}
	if _, _, missing := missingParent(err); missing {
		return false, false
	}
	if st.rel != nil && s.learnFrom(st) {
		return true, true
	}
	switch st.err.Code[:2] {
	case "42", "0A", "26", "22": // a statement prepared before the table changed?
		if s.stale {
			s.stale = false
			return s.forget() == nil, false
		}
	}
	return false, false
}

// learnFrom notes what an error says of its table, and reports whether that was news.
func (s *applySession) learnFrom(st *stmtError) bool {
	switch {
	case st.err.Code == "428C9":
		return s.learn(st.rel, quirkReinsert)
	case keyTypeTrouble[st.err.Code] && st.rel.oddKey():
		return s.learn(st.rel, quirkTextKey)
	case notFound[st.err.Code] && st.err.Where != "": // in a function
		return s.learn(st.rel, quirkPath) && s.simple(learnPath) == nil
	}
	return false
}

// notFound are the errors of a name that search_path does not lead to: of a function, table, type, text search configuration, schema.
var notFound = map[string]bool{"42883": true, "42P01": true, "42704": true, "3F000": true}

// learnPath keeps the search_path with which a session of this database begins, and usualPath takes it up to the end of the transaction.
const (
	learnPath = "SELECT pg_catalog.set_config('mtm.usual_path', COALESCE((SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, " +
		"pg_catalog.unnest(s.setconfig) c WHERE s.setrole = 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database " +
		"WHERE datname = pg_catalog.current_database())) AND c LIKE 'search_path=%' ORDER BY s.setdatabase DESC LIMIT 1), " +
		"(SELECT setting FROM pg_catalog.pg_file_settings WHERE name = 'search_path' ORDER BY seqno DESC LIMIT 1), boot_val), false) " +
		"FROM pg_catalog.pg_settings WHERE name = 'search_path'"
	usualPath = "SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('mtm.usual_path'), true)"
)

// keyTypeTrouble are the errors of "key = $1" when PostgreSQL infers a type for the parameter that cannot read what the
// key's own type wrote: record for a composite, oid for regclass; and of a key type without "=".
var keyTypeTrouble = map[string]bool{mtm.CodeNotSupported: true, "22P02": true, "42883": true, "42725": true}

// oddKey reports whether the key has a type other than the usual ones.
func (rel *applyRel) oddKey() bool {
	for _, c := range rel.Columns {
		if c.Key && !sameAsText[c.Type] {
			return true
		}
	}
	return false
}

// learn notes what a table needs, and reports whether that was news.
func (s *applySession) learn(rel *applyRel, q quirk) bool {
	if s.quirks[rel.name]&q != 0 {
		return false
	}
	s.quirks[rel.name] |= q
	return s.forget() == nil
}

// connect opens w's session. PostgreSQL may be restarting: it gets a moment.
func (a *Applier) connect(ctx context.Context, w *applyWorker) (*applySession, error) {
	a.setPID(w, 0) // that backend is gone, and its number may become somebody else's
	deadline := time.Now().Add(connectPatience)
	for n := 1; ; n++ {
		cfg := a.cfg
		cfg.onWait = func() { a.waits(w) }
		s, err := cfg.openSession(ctx, w.id, appApply)
		if err == nil {
			a.setPID(w, s.conn.PID())
			return s, nil
		}
		var connect *pgconn.ConnectError
		if time.Now().After(deadline) || ctx.Err() != nil {
			if errors.As(err, &connect) {
				return nil, fmt.Errorf("PostgreSQL does not answer: %w", err)
			}
			return nil, err
		}
		if err := backoff(ctx, n); err != nil {
			return nil, err
		}
	}
}

func (a *Applier) setPID(w *applyWorker, pid uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.pid = pid
}

// connectPatience is how long a worker tries to connect before the transaction is refused.
const connectPatience = time.Second
