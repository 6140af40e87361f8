package gateway

import "mtm"

// The notice by which mtm.ask() says that its session waits for the daemon: package schema's AskNotice and AskMessage.
const (
	askNotice  = "MTM01"
	askMessage = "mtm.ask"
)

// asks reports whether a notice, without its type and length, is that of mtm.ask(): it is not for the client. Who raises one of that
// form himself only has the daemon look in vain.
func (s *session) asks(notice []byte) bool {
	if !s.managed || len(notice) > 4096 || field(notice, 'C') != askNotice || field(notice, 'M') != askMessage {
		return false
	}
	if asked := s.srv.conf.Asked; asked != nil {
		asked()
	}
	return true
}

// LastGID is the last transaction that was committed on all nodes by the session of that PostgreSQL process; none: zero.
func (s *Server) LastGID(pid int32) mtm.GID {
	s.mu.Lock()
	sess := s.sessions[pid]
	s.mu.Unlock()
	if sess == nil {
		return mtm.GID{}
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return sess.lastGID
}
