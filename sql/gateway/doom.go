package gateway

import (
	"crypto/subtle"
	"encoding/binary"
	"io"
	"net"
	"time"

	"mtm"
	"mtm/sql/statement"
)

// Rival is an applying remote transaction that needs a lock that a session holds. It is prepared where it comes from.
type Rival struct {
	GID    mtm.GID
	Cause  *mtm.Error   // what the client is told, a 40001
	Age    uint64       // in microseconds since 1970
	Cancel func() error // has PostgreSQL cancel the session's statement before it returns; nil: by a cancel request
}

// Doom ends the transaction of the session whose PostgreSQL process is pid, for rival. A client that has lost more than
// once lately, or waited in vain for its turn, and first tried before rival did, is let be for a moment (patience), to come to
// its commit, where age decides.
// false: there is no such session, or it is in no transaction. true: it will end, or be prepared, or is so by now: who
// waits must look again.
func (s *Server) Doom(pid int32, rival Rival) bool {
	s.mu.Lock()
	sess := s.sessions[pid]
	s.mu.Unlock()
	return sess != nil && sess.doom(rival)
}

// Owns reports whether pid is the PostgreSQL process of a session of this gateway. Nobody else may end it: one that Doom
// refused may be about to prepare, and its client would get 08007 for a transaction whose fate is known.
func (s *Server) Owns(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[pid] != nil
}

// patience bounds how long a session is let be for each time that it lost, and patienceMax in all.
const (
	patience    = 10 * time.Millisecond
	patienceMax = 60 * time.Millisecond
)

// spared reports whether the session is let be for now; mu is held.
func (s *session) spared(rival Rival) bool {
	if s.losses < 2 && !s.pressing || !s.lostLately() || s.since >= rival.Age {
		return false
	}
	now := time.Now()
	if s.sparedTo.IsZero() {
		s.sparedTo = now.Add(min(time.Duration(s.losses)*patience, patienceMax))
	}
	return now.Before(s.sparedTo)
}

func (s *session) doom(rival Rival) bool {
	cause := rival.Cause
	s.mu.Lock()
	if s.dead != nil {
		s.mu.Unlock()
		return false
	}
	if s.preparing || !s.waiting.IsZero() {
		s.mu.Unlock()
		return true
	}
	if s.owed() == 0 && s.syncs == 0 {
		// Idle, or gathering messages: the client's goroutine rolls the block back.
		ok := s.tx != 'I' // a failed block holds the locks that it took before its savepoint
		if ok && !s.doomed && !s.spared(rival) {
			s.cause, s.doomed, s.lostTo = cause, true, rival.GID
			s.srv.count.doomed.Add(1)
			if s.abort != nil {
				s.abort() // it waits for a permit, and holds its rows meanwhile: whoever wants them may be what the gate waits for
			}
			s.wake()
		}
		s.mu.Unlock()
		return ok
	}
	if s.spared(rival) {
		s.mu.Unlock()
		return true
	}
	if !s.gid.IsZero() && s.step.done {
		s.mu.Unlock()
		return true
	}
	again := s.cause != nil
	s.cause, s.lostTo = cause, rival.GID
	if s.onlyParses() && !again {
		// It is soon over, and a Parse does not fail for what other transactions do: the block ends after it, unless it
		// is asked for again.
		s.mu.Unlock()
		return true
	}
	s.cancels++
	s.mu.Unlock()
	s.srv.count.doomed.Add(1)
	if rival.Cancel == nil || rival.Cancel() != nil {
		s.srv.background(s.cancelBackend)
		return true
	}
	s.cancelSent()
	return true
}

// onlyParses reports whether nothing that is owed runs anything; mu is held.
func (s *session) onlyParses() bool {
	for _, e := range s.queue[s.head:] {
		if e.op != 'P' && e.op != 'D' && e.op != 'C' && e.op != 'S' {
			return false
		}
	}
	return true
}

// endDoomed ends the block of a client who is not running anything. PostgreSQL is given another in its place, in which
// Parse and Describe still work, as they do for who has not met the conflict yet; what would run there is told of it
// instead, one of the same characteristics, for he may say AND CHAIN. A block that had failed is given one that has failed.
func (s *session) endDoomed(cause *mtm.Error) error {
	tx := s.status()
	if tx == 'I' {
		return nil
	}
	s.resetStep(false)
	s.mu.Lock()
	was := s.block
	s.block = block{readOnly: was.readOnly && tx == 'T', native: was.native || tx == 'T', chain: was.chain}
	s.mu.Unlock()
	if s.block.native {
		s.injectText("ROLLBACK AND CHAIN", roleOurs)
	} else {
		s.inject(injRollback, roleOurs)
		s.injectBegin()
	}
	if tx == 'E' {
		s.provoke(cause, true)
	}
	s.sync(true)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	s.mu.Lock()
	s.told = cause
	s.noteLoss(cause, now())
	s.mu.Unlock()
	return nil
}

// untold is the error that ended the block behind the client's back, if st is to be answered with it. It is told once.
// ROLLBACK is what the client would say anyway. In a block that had failed before, only what would pass there is told: the
// client would take a COMMIT for done.
func (s *session) untold(st *statement.Statement) *mtm.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.told
	switch {
	case e == nil:
		return nil
	case st != nil && st.Kind == statement.Rollback:
		s.told = nil
		return nil
	case s.tx == 'E' && (st == nil || !st.EndsBlock() && st.Kind != statement.Savepoint):
		return nil
	}
	s.told = nil
	return e
}

// hasUntold reports whether untold may have something to say.
func (s *session) hasUntold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told != nil
}

// tellDoom answers a Query with what untold gave. A COMMIT ends the block, as one that fails does.
func (s *session) tellDoom(st *statement.Statement, e *mtm.Error) error {
	if !st.EndsBlock() {
		return s.refuse(e)
	}
	if err := s.rollback(); err != nil {
		return err
	}
	s.fail(e, 'I')
	return nil
}

// cancelBackend sends PostgreSQL a cancel request for this session and waits until it has acted on it, so that it
// cannot hit what is sent later. session.cancels was raised before; it is lowered here.
func (s *session) cancelBackend() {
	defer s.cancelSent()
	conn, err := s.srv.dialBackend()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(cancelTimeout))
	if _, err := conn.Write(cancelRequest(s.pid, s.secret)); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // PostgreSQL hangs up when the signal is sent
}

// cancelSent: a signal that session.cancels was raised for has reached PostgreSQL.
func (s *session) cancelSent() {
	s.mu.Lock()
	s.cancels--
	s.cond.Broadcast()
	s.mu.Unlock()
}

// cancelTimeout bounds a cancel request.
const cancelTimeout = 5 * time.Second

func cancelRequest(pid int32, secret []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(12+len(secret)))
	b = binary.BigEndian.AppendUint32(b, cancelCode)
	b = binary.BigEndian.AppendUint32(b, uint32(pid))
	return append(b, secret...)
}

// cancel is a client's cancel request. It may come for a commit that waits, which PostgreSQL knows nothing of.
func (s *Server) cancel(client net.Conn, body []byte) {
	if len(body) < 8 {
		return
	}
	pid, secret := int32(binary.BigEndian.Uint32(body)), body[4:]
	s.mu.Lock()
	sess := s.sessions[pid]
	s.mu.Unlock()
	if sess == nil || subtle.ConstantTimeCompare(sess.secret, secret) != 1 {
		return
	}
	s.count.cancelled.Add(1)
	sess.mu.Lock()
	waiting, abort := sess.waiting, sess.abort
	sess.canceled = true
	if waiting.IsZero() && abort == nil {
		sess.cancels++
		sess.mu.Unlock()
		sess.cancelBackend()
		return
	}
	sess.mu.Unlock()
	if !waiting.IsZero() {
		s.conf.Commits.Cancel(waiting)
	}
	if abort != nil {
		abort()
	}
}
