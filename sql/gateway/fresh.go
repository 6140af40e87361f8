package gateway

import (
	"context"
	"time"

	"mtm"
)

// What a client reads must be true when he is told: this node may have been cut off, or stopped, since it was read. So the
// lease is asked for before a statement, and again before each write of its answer. The answer to a commit is no read:
// what is decided is decided.

// admit lets a statement that reads or writes data run, or says why not.
func (s *session) admit(ctx context.Context, write bool) *mtm.Error {
	if s.admin {
		return nil
	}
	if e := asErrorOrNil(s.srv.conf.Commits.Admit(ctx, write)); e != nil {
		return e
	}
	s.leased.Store(true)
	return nil
}

// newUnit begins a unit: what the one before has read is written first, if any of it still lies here.
func (s *session) newUnit() {
	if !s.leased.Load() {
		return
	}
	s.outMu.Lock()
	s.writeOut()
	s.outMu.Unlock()
	s.leased.Store(false)
}

// mayTell asks once more before an answer goes out; outMu is held. If it may not go, the client is told so instead, and
// the session ends: he may have seen part of the answer.
func (s *session) mayTell() bool {
	if !s.leased.Load() {
		return true
	}
	e := asErrorOrNil(s.srv.conf.Commits.Admit(context.Background(), false))
	if e == nil {
		return true
	}
	s.mu.Lock()
	gid := s.gid
	if gid.IsZero() {
		gid = s.waiting
	}
	s.mu.Unlock()
	if !gid.IsZero() {
		e = mtm.Unknown(gid, e.Msg) // it may still be committed
	}
	s.client.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = s.client.Write(appendError(nil, 'E', "FATAL", e))
	if c, ok := s.client.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	s.lost = e
	s.abandon()
	return false
}

// askAdmin finds out whether the client is an operator, who gets in while the node is not online.
func (s *session) askAdmin() error {
	if !s.wantsAdmin {
		return nil
	}
	s.resetStep(false)
	s.inject(injAdmin, roleAsk)
	s.sync(true)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	st := s.takeStep()
	s.admin = st.err == nil && st.value == "t"
	return nil
}
