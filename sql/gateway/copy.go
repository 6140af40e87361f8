package gateway

import (
	"context"
)

// copyFrom passes on what the client sends for a COPY FROM STDIN that was just begun, up to its end or its failure. It
// returns at once if the COPY reads a file.
func (s *session) copyFrom(ctx context.Context) error {
	err := s.wait(func() bool { return s.copyIn || s.syncs == 0 || s.step.err != nil })
	if err != nil {
		return err
	}
	s.setWakeOnDone(true)
	defer s.setWakeOnDone(false)
	for s.copying() {
		if s.cr.buffered() < 5 {
			if err := s.send(); err != nil {
				return err
			}
		}
		typ, size, err := s.next()
		if err == errWoken {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return err
		}
		switch typ {
		case 'd', 'c', 'f':
			if err := s.relay(size); err != nil {
				return err
			}
			if typ != 'd' {
				return s.send()
			}
		case 'H', 'S':
			if err := s.cr.discard(size); err != nil { // as PostgreSQL does during COPY
				return err
			}
		default:
			// PostgreSQL says what it thinks of it: 08P01, and hangs up.
			return protocolError("unexpected message type during COPY from stdin: " + quoteByte(typ))
		}
	}
	return nil
}

func (s *session) setWakeOnDone(on bool) {
	s.mu.Lock()
	s.wakeOnDone = on
	s.mu.Unlock()
}

// copying reports whether PostgreSQL still wants data.
func (s *session) copying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copyIn && s.dead == nil
}

// relay passes a message of the client on, in pieces, many small ones in one write. It waits for PostgreSQL to take them.
func (s *session) relay(size int) error {
	for size > 0 {
		p, err := s.cr.piece(size)
		if err != nil {
			return err
		}
		size -= len(p)
		s.toBackend = append(s.toBackend, p...)
		if len(s.toBackend) >= flushAt || s.cr.buffered() == 0 {
			if err := s.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyMessage is CopyData, CopyDone or CopyFail outside of copyFrom: of a COPY in the client's own block, or of one
// that has failed meanwhile, whose rest is dropped.
func (s *session) copyMessage(typ byte, size int) error {
	if err := s.wait(func() bool { return s.copyIn || s.syncs == 0 || s.skipping }); err != nil {
		return err
	}
	if !s.copying() {
		return s.cr.discard(size)
	}
	if typ != 'd' { // what comes next is not for this COPY, even if PostgreSQL has not answered yet
		s.mu.Lock()
		s.copyIn = false
		s.mu.Unlock()
	}
	if err := s.relay(size); err != nil || s.cr.buffered() >= 5 {
		return err
	}
	return s.send()
}
