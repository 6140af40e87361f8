package gateway

import "mtm"

// emit gives a message to the client, later: when nothing more comes from PostgreSQL at once, or much has gathered.
func (s *session) emit(msg []byte) {
	s.outMu.Lock()
	s.appendOut(msg)
	s.outMu.Unlock()
}

// appendOut is emit with outMu held.
func (s *session) appendOut(msg []byte) {
	s.out = append(s.out, msg...)
	if s.holdAt >= 0 && len(s.out)-s.holdAt > holdLimit {
		s.holdAt, s.spilled = -1, true
	}
	if s.holdAt < 0 && len(s.out) >= flushAt {
		s.writeOut()
	}
}

// flushOut writes what is not held back.
func (s *session) flushOut() {
	s.outMu.Lock()
	if len(s.out) > 0 && s.holdAt != 0 && !s.calm {
		s.writeOut()
	}
	s.outMu.Unlock()
}

// setCalm: while a commit is under way, a few bytes before its answer are not worth waking the client for.
func (s *session) setCalm(calm bool) {
	s.outMu.Lock()
	s.calm = calm
	s.outMu.Unlock()
}

// writeOut writes up to what is held back; outMu is held. A client that is gone loses it.
func (s *session) writeOut() {
	n := len(s.out)
	if s.holdAt >= 0 {
		n = s.holdAt
	}
	if s.lost == nil && n > 0 && s.mayTell() {
		if _, err := s.client.Write(s.out[:n]); err != nil {
			s.lost = err
			s.abandon()
		}
		s.srv.count.toClient.Add(int64(n))
	}
	s.out = s.out[:copy(s.out, s.out[n:])]
	if s.holdAt >= 0 {
		s.holdAt = 0
	}
	if cap(s.out) > 4*flushAt && len(s.out) < flushAt {
		s.out = append(make([]byte, 0, flushAt), s.out...)
	}
}

// abandon ends what runs for a client that nobody can reach any more, unless it is being committed.
func (s *session) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gid.IsZero() && s.waiting.IsZero() {
		s.back.Close()
	}
}

// hold keeps the client's output back from now on, so that it can be thrown away; strict: CommandComplete is kept back
// even if so much preceded it that the rest was sent.
func (s *session) hold(strict bool) {
	s.outMu.Lock()
	s.holdAt, s.strict, s.spilled = len(s.out), strict, false
	s.outMu.Unlock()
}

// spill sends what is held back: the client has to act on it.
func (s *session) spill() {
	s.outMu.Lock()
	if s.holdAt >= 0 {
		s.holdAt, s.spilled = -1, true
	}
	s.writeOut()
	s.outMu.Unlock()
}

// unread reports whether the client was sent part of an answer that was to be held back. It does not wait for outMu: who
// has that is sending him more.
func (s *session) unread() bool {
	if !s.outMu.TryLock() {
		return true
	}
	defer s.outMu.Unlock()
	return s.spilled
}

// intact reports whether all output since hold is still here.
func (s *session) intact() bool {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	return s.holdAt >= 0 && !s.spilled
}

// drop throws away what is held back.
func (s *session) drop() {
	s.outMu.Lock()
	if s.holdAt >= 0 {
		s.out = s.out[:s.holdAt]
	}
	s.outMu.Unlock()
}

// release ends the hold, adds msg, and writes all.
func (s *session) release(msg []byte) {
	s.outMu.Lock()
	s.holdAt, s.strict = -1, false
	s.out = append(s.out, msg...)
	s.writeOut()
	s.outMu.Unlock()
}

// fail throws away what is held back, and tells the client e instead, then status.
func (s *session) fail(e *mtm.Error, status byte) {
	s.drop()
	if s.intact() {
		s.leased.Store(false) // nothing is left of what was read
	}
	s.release(appendReady(appendError(nil, 'E', "ERROR", e), status))
}
