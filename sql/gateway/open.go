package gateway

import (
	"context"
	"strconv"

	"mtm"
)

// This file commits transactions that PostgreSQL cannot prepare: temporary objects, LISTEN and NOTIFY, WITH HOLD, exported
// snapshots. The session does all that the transaction does, says so in a message that makes PostgreSQL decode the
// transaction while it is open, and holds it until it is told how to end it.

// Order is what a session does with a transaction that it holds open.
type Order uint8

// The orders.
const (
	OrderConfirm Order = iota // give a sign of life
	OrderCommit
	OrderAbort
)

// openProbe finds out what would make PREPARE TRANSACTION fail, as far as PostgreSQL shows it: a temporary relation that is
// locked, or one that is gone; a cursor; a trigger that notifies. A serializable transaction is left to fail: its COMMIT may
// be refused, when it is too late for that.
const openProbe = "SELECT CASE WHEN pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'serializable' THEN 'serializable' " +
	"WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation " +
	"WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND (l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.database OPERATOR(pg_catalog.<>) 0 " +
	"AND COALESCE(c.relpersistence, 't') OPERATOR(pg_catalog.=) 't' OR l.locktype OPERATOR(pg_catalog.=) 'object' " +
	"AND l.objid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())) " +
	"OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable AND creation_time OPERATOR(pg_catalog.>=) pg_catalog.transaction_timestamp()) " +
	"OR EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_trigger t ON t.tgrelid OPERATOR(pg_catalog.=) l.relation AND NOT t.tgisinternal " +
	"JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() " +
	"AND p.prosrc OPERATOR(pg_catalog.~*) 'notify') THEN 'open' ELSE '' END"

// do runs injected statements and waits for their end.
func (s *session) do(r role, which ...injected) (step, error) {
	s.resetStep(false)
	for _, w := range which {
		s.inject(w, r)
	}
	return s.carry()
}

// carry sends what was appended and waits for its end.
func (s *session) carry() (step, error) {
	s.sync(true)
	if err := s.send(); err != nil {
		return step{}, err
	}
	if err := s.waitReady(); err != nil {
		return step{}, err
	}
	return s.takeStep(), nil
}

// staysOpen reports whether the open block is one that PostgreSQL would not prepare. failure: the block has failed meanwhile, by
// Doom for one.
func (s *session) staysOpen() (open bool, failure *mtm.Error, err error) {
	s.mu.Lock()
	touched, temporary := s.block.temporary, s.temporary
	s.mu.Unlock()
	if !touched && !temporary && !s.srv.notifies.Load() {
		return false, nil, nil
	}
	st, err := s.do(roleAsk, injOpen)
	if err != nil || st.err != nil {
		return false, st.err, err
	}
	return st.value == "open" || touched && st.value == "", nil, nil
}

// commitOpen commits the open block without a PREPARE.
func (s *session) commitOpen(ctx context.Context, age uint64) (failure *mtm.Error, err error) {
	st, err := s.do(roleOurs, injImmediate, injPatient) // what deferred triggers write comes before the end
	if err != nil || st.err != nil {
		if err != nil {
			return nil, err
		}
		return st.err, s.rollback()
	}
	if e := s.mayPrepare(ctx, age); e != nil {
		return e, s.rollback()
	}
	s.setCalm(true)
	defer s.setCalm(false)
	gid := s.gid
	s.resetStep(false)
	s.inject(injEmit, roleAsk)
	s.inject(injHold, roleAsk, gid.String())
	s.inject(injReadOnly, roleOurs) // cursors that outlive it run at COMMIT, when it is too late to write
	st, err = s.carry()
	if err != nil {
		s.reportPrepared(step{err: &mtm.Error{Code: "08006", Msg: "connection to PostgreSQL was lost", Err: err}})
		return nil, err
	}
	xid, parse := strconv.ParseUint(st.value, 10, 64)
	if st.err == nil && parse != nil {
		st.err = &mtm.Error{Code: "XX000", Msg: "PostgreSQL gave no transaction id", Err: parse}
	}
	if st.err != nil {
		s.reportPrepared(step{err: st.err})
		return st.err, s.rollback()
	}
	s.mu.Lock()
	s.gid, s.held, s.xid, s.orders = mtm.GID{}, gid, xid, nil
	s.mu.Unlock()
	s.srv.count.prepared.Add(1)
	s.srv.conf.Commits.Held(gid, xid, s.order)
	return s.outcome(ctx, gid), nil
}

// openStep is the Execute of a COMMIT of such a block.
func (s *session) openStep(ctx context.Context, chain bool, characteristics string) error {
	failure, err := s.commitOpen(ctx, now())
	if err != nil {
		return err
	}
	s.ext.cur, s.ext.wrapped = 'I', false
	if failure != nil {
		s.ext.failed = true
		s.provoke(failure, false)
		return nil
	}
	return s.committedStep(chain, characteristics)
}

// order takes an order for the transaction that is held open. It may be called by anybody.
func (s *session) order(o Order) {
	s.mu.Lock()
	s.orders = append(s.orders, o)
	s.cond.Broadcast()
	s.mu.Unlock()
}

// obey carries out orders until the transaction that is held open has ended, if there is one.
func (s *session) obey(ctx context.Context) {
	s.mu.Lock()
	gid, xid := s.held, s.xid
	s.mu.Unlock()
	if gid.IsZero() {
		return
	}
	defer func() {
		s.mu.Lock()
		s.held = mtm.GID{}
		s.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.cond.Broadcast()
		s.mu.Unlock()
	})()
	for {
		err := s.wait(func() bool { return len(s.orders) > 0 || ctx.Err() != nil })
		if err == nil && ctx.Err() != nil {
			return // the server stops; the next life asks PostgreSQL what became of it
		}
		if err != nil {
			s.srv.conf.Commits.Gone(gid, xid, false)
			return
		}
		s.mu.Lock()
		o := s.orders[0]
		s.orders = s.orders[1:]
		s.mu.Unlock()
		ok, err := s.carryOut(o)
		switch {
		case err != nil:
			s.srv.conf.Commits.Gone(gid, xid, false)
			return
		case !ok:
			s.srv.conf.Commits.Gone(gid, xid, true)
			return
		}
		s.srv.conf.Commits.Obeyed(gid, o)
		if o != OrderConfirm {
			return
		}
	}
}

// carryOut does what is ordered; false: PostgreSQL has rolled the transaction back.
func (s *session) carryOut(o Order) (ok bool, err error) {
	switch o {
	case OrderAbort:
		return true, s.rollback()
	case OrderCommit:
		st, err := s.do(roleTag, injCommit)
		if err != nil || st.err == nil && st.value == "COMMIT" {
			return true, err
		}
		if st.err != nil {
			// The other nodes have it, and so will this one; what concerns the session alone is lost.
			s.emit(appendError(nil, 'N', "WARNING", &mtm.Error{
				Code: "01000", Msg: "the transaction is committed, but its temporary objects, cursors and notifications are lost", Detail: st.err.Msg,
			}))
		}
		return false, s.rollback()
	}
	st, err := s.do(roleAsk, injPing)
	if err != nil || st.err == nil && s.status() == 'T' {
		return true, err
	}
	return false, s.rollback()
}

// Holds is the transaction that the session of that PostgreSQL process holds open instead of a PREPARE, if it does.
func (s *Server) Holds(pid int32) (mtm.GID, bool) {
	s.mu.Lock()
	sess := s.sessions[pid]
	s.mu.Unlock()
	if sess == nil {
		return mtm.GID{}, false
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return sess.held, !sess.held.IsZero()
}

// prepareInVain lets PostgreSQL itself refuse a user's PREPARE TRANSACTION of what cannot be prepared. A notification makes sure
// that it does.
func (s *session) prepareInVain() error {
	s.inject(injForbid, roleOurs)
	return s.forward(false)
}
