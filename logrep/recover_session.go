package logrep

import (
	"context"
	"errors"
	"fmt"
	"io"

	"mtm"
)

// recoverSession is the connection over which recovery commits.
type recoverSession struct {
	*applySession
	single int // groups that are yet to be done without gathering, for that has failed
	doubt  int // how many that were the last time
}

const (
	gatherPause    = 16 // groups
	gatherPauseMax = 4096
)

// open connects, when no earlier session can commit any more, and reads the position, which is durable then.
func (r *Recoverer) open(ctx context.Context) (*recoverSession, uint64, error) {
	conn, err := r.cfg.connect(ctx, appRecover, map[string]string{
		"synchronous_commit": "off", "enable_seqscan": "off", "jit": "off", "lc_messages": "C",
	})
	if err != nil {
		return nil, 0, err
	}
	s := &recoverSession{applySession: &applySession{
		cfg: &r.cfg, conn: conn, fe: conn.Frontend(), rels: map[string]*applyRel{}, quirks: map[string]quirk{}, fkStmts: map[string]*applyStmt{},
	}}
	err = endSessions(ctx, conn, "application_name = $1", appRecover)
	if err == nil {
		err = setOrigin(ctx, conn, r.cfg.RecoverOrigin)
	}
	var there bool
	if err == nil {
		if there, err = hasUserTable(ctx, conn); err == nil && there {
			err = carryOut(ctx, conn, r.cfg.Catalog) // what the last transaction that was committed ordered
		}
	}
	var at uint64
	if err == nil {
		at, err = position(ctx, conn)
	}
	if err != nil {
		s.close()
		return nil, 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy = busyGroup{pid: conn.PID()}
	return s, at, nil
}

// recoverGroup commits all of group in one transaction, with the position of the last.
func (s *recoverSession) recoverGroup(ctx context.Context, group []recoverJob, together *gather) error {
	if err := s.redo(ctx, group[0]); err != nil {
		return &brokenError{err}
	}
	if s.nstmt > maxStmts {
		if err := s.forget(); err != nil {
			return err
		}
	}
	s.stale = false
	at := group[len(group)-1].at
	s.sendOnce("BEGIN", sentStmt{})
	s.sendOnce(sayRecovered, sentStmt{})
	for _, job := range group {
		if err := s.apply(job, together); err != nil {
			return fmt.Errorf("%s: %w", job.gid, err)
		}
	}
	if err := together.flush(); err != nil {
		return err
	}
	if err := s.drain(); err != nil { // the answers are counted before anything is committed
		return err
	}
	// Not before: what a user prepared is prepared on the way, and must not carry the position.
	s.sendOnce(fmt.Sprintf("INSERT INTO mtm.recovered (at) VALUES (%d) ON CONFLICT (id) DO UPDATE SET at = excluded.at", at), sentStmt{})
	s.sendOnce("COMMIT", sentStmt{})
	s.sync()
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.answers(); err != nil {
		return err
	}
	if err := s.ready(); err != nil {
		return err
	}
	s.settled()
	if err := s.cleanse(); err != nil {
		return err
	}
	for _, job := range group {
		if job.payload.Has(mtm.PayloadDDL) {
			s.cfg.Catalog.changed()
		}
	}
	if first := group[0].gid; s.cfg.Catalog.announces(first) {
		if err := carryOut(ctx, s.conn, s.cfg.Catalog); err != nil {
			return &brokenError{err}
		}
		s.cfg.Catalog.AnnouncesNot(first)
	}
	return nil
}

// gather is for the changes of group, or nil: each is sent by itself.
func (s *recoverSession) gather(group []recoverJob) *gather {
	if s.single > 0 {
		s.single--
		return nil
	}
	if group[0].payload.Has(mtm.PayloadDDL) {
		return nil
	}
	return newGather(s.applySession)
}

// singly: gathering has failed.
func (s *recoverSession) singly() {
	s.doubt = max(gatherPause, min(2*s.doubt, gatherPauseMax))
	s.single = s.doubt
}

// apply runs one payload.
func (s *recoverSession) apply(job recoverJob, together *gather) error {
	in, err := openPayload(job.payload, s.cfg.Spills)
	if err != nil {
		return err
	}
	defer in.close()
	t := &applyTxn{
		applySession: s.applySession, job: &applyJob{gid: job.gid, payload: job.payload},
		rels: map[uint32]*applyRel{}, known: map[uint32][]byte{}, gather: together,
	}
	for {
		f, err := in.next()
		if err == io.EOF {
			err = t.endHeld()
			if err == nil {
				t.dropViews()
				t.dropRunners()
				return nil
			}
		} else if err == nil {
			err = t.frame(f)
		}
		if err != nil {
			return errors.Join(err, t.stopCopy())
		}
	}
}

// learned prepares s for another try, if something was learned from err that may make it succeed.
func (s *recoverSession) learned(err error) bool {
	var st *stmtError
	if !errors.As(err, &st) {
		return false
	}
	if _, missing := missingRow(err); missing {
		return false
	}
	if st.rel != nil && s.learnFrom(st) {
		return true
	}
	if s.stale { // a statement prepared before the table changed?
		s.stale = false
		return s.forget() == nil
	}
	return false
}

// prefixRecovered is what each local transaction of recovery says first (mtm.say). Capture knows such a transaction by it.
const (
	prefixRecovered = "mtm.recovered"
	sayRecovered    = "SELECT mtm.say('" + prefixRecovered + "', '')"
)
