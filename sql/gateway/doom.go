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

// Doom ends the transaction of the session whose PostgreSQL process is pid: an applying remote transaction needs a lock
// that it holds, and the remote one is prepared where it comes from. The client gets cause, a 40001. false: there is no
// such session, or it is in no transaction. true: it will end, or be prepared, or is so by now: who waits must look again.
func (s *Server) Doom(pid int32, cause *mtm.Error) bool {
	s.mu.Lock()
	sess := s.sessions[pid]
	s.mu.Unlock()
	if sess == nil || !sess.doom(cause) {
		return false
	}
	s.count.doomed.Add(1)
	return true
}

// Owns reports whether pid is the PostgreSQL process of a session of this gateway. Nobody else may end it: one that Doom
// refused may be about to prepare, and its client would get 08007 for a transaction whose fate is known.
func (s *Server) Owns(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[pid] != nil
}

func (s *session) doom(cause *mtm.Error) bool {
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
		if ok {
			s.cause, s.doomed = cause, true
			s.wake()
		}
		s.mu.Unlock()
		return ok
	}
	if !s.gid.IsZero() && s.step.done {
		s.mu.Unlock()
		return true
	}
	s.cause = cause
	s.cancels++
	s.mu.Unlock()
	s.srv.background(s.cancelBackend)
	return true
}

// endDoomed ends the block of a client who is not running anything. He sees a block that has failed: PostgreSQL is given
// one, so that all that follows is as he knows it.
func (s *session) endDoomed(cause *mtm.Error) error {
	if s.status() == 'I' {
		return nil
	}
	s.resetStep(false)
	s.inject(injRollback, roleOurs)
	s.inject(injBegin, roleOurs)
	s.provoke(cause, true)
	s.sync(true)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	s.mu.Lock()
	s.told = cause
	s.mu.Unlock()
	return nil
}

// untold is the error that ended the block behind the client's back, if st would pass in a failed block without one:
// the client would take a COMMIT for done. It is told once.
func (s *session) untold(st *statement.Statement) *mtm.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil || s.tx != 'E' || st == nil || st.Kind != statement.Commit && st.Kind != statement.Savepoint {
		return nil
	}
	e := s.told
	s.told = nil
	return e
}

// tellDoom answers a Query with what untold gave. A COMMIT ends the block, as one that fails does.
func (s *session) tellDoom(st *statement.Statement, e *mtm.Error) error {
	if st.Kind != statement.Commit {
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
	defer func() {
		s.mu.Lock()
		s.cancels--
		s.cond.Broadcast()
		s.mu.Unlock()
	}()
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
