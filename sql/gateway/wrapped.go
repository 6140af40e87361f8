package gateway

import (
	"context"
	"strings"
	"time"

	"mtm"
	"mtm/sql/statement"
)

// runWrapped runs a unit in a block of its own and commits it, and tells the client how it ended. A unit whose answer is
// still held back is tried again when it lost against another transaction.
func (s *session) runWrapped(ctx context.Context, u *unit) error {
	s.srv.count.wrapped.Add(1)
	s.yield(ctx)
	age := uint64(time.Now().UnixMicro())
	u.temporary = s.isTemporary()
	// Not the first time: one that is cancelled for taking long has used up its values of sequences.
	fast := u.fast && !u.temporary && u.stmts[0].Seen() && !u.stmts[0].Slow() && len(s.batch) <= batchLimit
	for attempt := 0; ; attempt++ {
		again, err := s.attempt(ctx, u, fast, age, attempt)
		if err != nil || !again {
			return err
		}
		s.yield(ctx)
		fast = false
	}
}

func (s *session) isTemporary() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.temporary
}

// attempt runs the unit once; again: it is to be run once more, and the client knows nothing yet.
//
// fast: PREPARE TRANSACTION goes out in the same write as the statement. Then the permit is held while the statement
// runs, which may not last: a switch waits for permits, and the statement may wait for a lock that the switch would free.
func (s *session) attempt(ctx context.Context, u *unit, fast bool, age uint64, n int) (again bool, err error) {
	if fast {
		if e := s.permit(ctx, age); e != nil {
			s.hold(true)
			s.fail(e, 'I')
			return false, nil
		}
	}
	s.hold(true)
	s.resetStep(true)
	s.mu.Lock()
	s.cause = nil
	s.block.temporary = s.block.temporary || u.open
	s.mu.Unlock()
	s.injectBegin()
	if u.show {
		s.inject(injShowOff, roleOurs)
	}
	if u.bare && u.stmts[0].Has(statement.Routine) {
		s.inject(injNoBodies, roleOurs)
	}
	if st := u.stmts[0]; st != nil && st.Kind == statement.DDL && !u.ext {
		s.injectDDL(st, ddlText(st, u.text))
	}
	s.appendUnit(u, n > 0)
	if st := u.stmts[0]; st != nil && st.Kind == statement.DDL && !u.ext {
		s.injectDDLEnd(st)
		s.sync(true)
	}
	if fast {
		s.appendPrepare()
	}
	if fast || u.ext {
		s.sync(true)
	}
	if err := s.runStep(ctx, u, fast); err != nil {
		return false, err
	}
	st := s.takeStep()
	if fast {
		s.reportPrepared(st)
	}
	return s.conclude(ctx, u, st, fast, age, n)
}

// runStep sends what was appended and waits for its end.
func (s *session) runStep(ctx context.Context, u *unit, fast bool) error {
	if fast {
		defer s.watchSlow()()
	}
	if err := s.send(); err != nil {
		return err
	}
	if st := u.stmts[0]; !u.ext && st != nil {
		for _, st := range u.stmts {
			if st.Kind == statement.CopyFrom {
				if err := s.copyFrom(ctx); err != nil {
					return err
				}
			}
		}
	}
	return s.waitReady()
}

// conclude ends what attempt began.
func (s *session) conclude(ctx context.Context, u *unit, st step, fast bool, age uint64, n int) (again bool, err error) {
	if st.err != nil {
		if err := s.rollback(); err != nil {
			return false, err
		}
		if s.tryAgain(u, st.err, n) {
			s.drop()
			return true, nil
		}
		if fast && st.done && !u.ext { // PREPARE failed; a Query's CommandComplete means that it is committed
			s.drop()
		}
		msg := st.raw
		if st.shown {
			msg = nil
		} else if st.err.Code == "25001" && len(u.stmts) == 1 {
			msg = fromFunction(msg)
		} else if st.err.Code == "2D000" {
			msg = fromProcedure(msg)
		}
		s.release(appendReady(msg, 'I'))
		return false, nil
	}
	gid := s.takeGID()
	var failure *mtm.Error
	if fast {
		failure = s.outcome(ctx, gid)
	} else if failure, err = s.finish(ctx, age); err != nil {
		return false, err
	}
	switch {
	case failure == nil:
		s.release(appendReady(nil, 'I'))
	case s.tryAgain(u, failure, n), u.mayBeTemporary(failure) && s.fallback(u, failure.Code):
		s.drop()
		return true, nil
	default:
		s.fail(failure, 'I')
	}
	return false, nil
}

// tryAgain decides whether the unit that ended with e is run again, after its n-th repetition.
func (s *session) tryAgain(u *unit, e *mtm.Error, n int) bool {
	s.mu.Lock()
	slow, canceled := s.slow, s.canceled
	s.slow, s.preparing = false, false
	gone := s.lost
	lostOurs := e.Code == "26000" && s.have == [injCount]bool{}
	s.mu.Unlock()
	if canceled || gone != nil || !s.intact() || len(s.batch) > batchLimit || u.once() {
		return false
	}
	switch {
	case slow && e == errSlow:
		s.srv.count.slow.Add(1)
		u.stmts[0].MarkSlow()
		return true
	case lostOurs:
		return n == 0
	case e == errShort && n < s.srv.conf.RetryAutocommit:
		s.srv.count.retried.Add(1)
		s.srv.conf.Numbers.Refill(context.Background())
		return true
	case mtm.SafeToRetry(e) && n < s.srv.conf.RetryAutocommit:
		s.srv.count.retried.Add(1)
		time.Sleep(time.Duration(n*n) * time.Millisecond)
		return true
	}
	return false
}

// mayBeTemporary reports whether the commit may have failed because of temporary objects: PostgreSQL said so, or another node lacks what
// a function's body names.
func (u *unit) mayBeTemporary(failure *mtm.Error) bool {
	st := u.stmts[0]
	return failure.Code == mtm.CodeNotSupported || u.temporary && st != nil && st.Has(statement.Routine) && strings.HasPrefix(failure.Code, "42")
}

// fallback decides whether a unit that PostgreSQL ran but would not prepare is run again otherwise. It was perhaps not known that it
// touches temporary objects; a function whose body names one can be created without a look at its body, which has been
// checked by now; REFRESH without CONCURRENTLY needs no temporary table.
func (s *session) fallback(u *unit, code string) bool {
	s.mu.Lock()
	gone := s.lost != nil || s.canceled
	s.mu.Unlock()
	st := u.stmts[0]
	if gone || !s.intact() || len(s.batch) > batchLimit || u.once() || st == nil {
		return false
	}
	if !u.temporary {
		u.temporary = true
		return true
	}
	if !u.bare && !u.ext && st.Kind == statement.DDL {
		u.bare = true
		if len(st.Without) > 0 {
			u.text = statement.Apply(u.text, st.Without)
			s.batch = appendQuery(s.batch[:0], u.text)
			return true
		}
		if st.Has(statement.Routine) {
			return true
		}
	}
	again := !u.open && code == mtm.CodeNotSupported
	u.open = true
	return again
}

// once reports whether it cannot be run again: the client's data is gone, or something is left of it.
func (u *unit) once() bool {
	for _, st := range u.stmts {
		if st != nil && (st.Kind == statement.CopyFrom || st.Has(statement.Lasting)) {
			return true
		}
	}
	return false
}

// rollback ends the block on PostgreSQL's side, if there still is one. The client is not told.
func (s *session) rollback() error {
	for tries := 0; s.status() != 'I'; tries++ {
		st, err := s.do(roleOurs, injRollback)
		if err != nil {
			return err
		}
		if tries == oursTries && st.err != nil {
			return st.err
		}
	}
	return nil
}

// errSlow is for the client of a statement that held a permit for too long and cannot be run again, because he has part
// of its answer: only one who does not read what he asked for meets it.
var errSlow = &mtm.Error{
	Code: mtm.CodeSerialization, Msg: "the statement was in the way of other transactions for too long",
	Detail: "The client did not read its rows.", Hint: "The transaction might succeed if retried.",
}

// unreadLimit is how many times Config.SlowStatement a client may take to read rows while their transaction holds a permit.
const unreadLimit = 50

// watchSlow cancels a statement that holds a permit for too long; attempt then runs it again without. It does so again
// and again: a cancel request that comes before PostgreSQL has begun the statement has no effect. Once the client has
// part of the answer the statement has done its work, and only his reading is waited for. stop ends it.
func (s *session) watchSlow() (stop func()) {
	after := s.srv.conf.SlowStatement
	ended := false // under mu
	times := 0
	var timer *time.Timer
	s.mu.Lock()
	defer s.mu.Unlock()
	timer = time.AfterFunc(after, func() {
		unread := s.unread()
		wait := unread && times < unreadLimit
		times++
		s.mu.Lock()
		if ended || s.step.done || s.syncs == 0 || s.dead != nil {
			s.mu.Unlock()
			return
		}
		if !wait {
			s.slow = true
			if s.cause == nil {
				s.cause = errSlow
			}
			s.cancels++
			s.mu.Unlock()
			s.cancelBackend()
			s.mu.Lock()
		}
		if unread && times > 2*unreadLimit && !ended && !s.step.done {
			s.back.Close() // PostgreSQL heeds no cancel request while it waits to send
		}
		if !ended {
			timer.Reset(after)
		}
		s.mu.Unlock()
	})
	return func() {
		s.mu.Lock()
		ended = true
		s.mu.Unlock()
		timer.Stop()
	}
}
