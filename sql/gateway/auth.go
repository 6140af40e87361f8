package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"mtm"
)

// The kinds of Authentication messages that matter here.
const (
	authOK          = 0
	authSASL        = 10
	authSASLFinal   = 12
	scramPlus       = "SCRAM-SHA-256-PLUS"
	maxStartupReply = 64 << 10
)

// authenticate relays what PostgreSQL and the client have to say to each other until the session is open. Nothing is
// kept of it but the key for cancel requests.
func (s *session) authenticate(timeout time.Duration) error {
	asked := false
	s.back.SetDeadline(time.Now().Add(timeout))
	defer s.back.SetDeadline(time.Time{})
	for {
		typ, size, err := s.br.header()
		if err != nil || size > maxStartupReply {
			s.flushOut()
			return fmt.Errorf("PostgreSQL hung up during startup: %w", err)
		}
		msg, err := s.br.appendTo(nil, size)
		if err != nil {
			return err
		}
		switch typ {
		case 'R':
			if len(msg) < 9 {
				return errors.New("authentication request from PostgreSQL is malformed")
			}
			err = s.authStep(msg, &asked)
		case 'K':
			if len(msg) < 9 {
				return errors.New("cancel key from PostgreSQL is malformed")
			}
			s.pid, s.secret = int32(binary.BigEndian.Uint32(msg[5:])), bytes.Clone(msg[9:])
			s.emit(msg)
		case 'S':
			s.startParameter(msg)
		case 'Z':
			s.emit(msg)
			s.flushOut()
			return s.lost
		case 'E':
			s.emit(msg)
			s.flushOut()
			return parseError(msg[5:])
		default: // N, v
			s.emit(msg)
			if typ == 'v' {
				s.flushOut()
			}
		}
		if err != nil {
			return err
		}
	}
}

// startParameter is parameter, during startup: the guard shows as what the client asked for, or
// as a node that does not serve.
func (s *session) startParameter(msg []byte) {
	switch name, _, _ := cut(msg[5:]); {
	case !s.managed:
		s.emit(msg)
		return
	case string(name) == "default_transaction_read_only":
		s.parameter(msg)
		value := "off"
		if s.clientReadOnly || !s.wantsAdmin && s.srv.conf.Commits.Refused() != nil {
			value = "on" // drivers that look for a node to write on go elsewhere
		}
		s.emit(appendParameter(nil, string(name), value))
		return
	}
	s.parameter(msg)
}

// authStep passes one request on, and its answer back if it wants one.
func (s *session) authStep(msg []byte, asked *bool) error {
	code := binary.BigEndian.Uint32(msg[5:])
	switch code {
	case authOK:
		if !*asked && !s.srv.conf.TrustRemote && !s.isNear() {
			e := &mtm.Error{
				Code: mtm.CodeInvalidAuth, Msg: "PostgreSQL asked the gateway for no proof of who the client is",
				Detail: "pg_hba.conf lets the gateway's own connection in without a password, and the client is on another machine.",
				Hint:   "Ask for a password (scram-sha-256) in pg_hba.conf, or configure the gateway to trust remote clients.",
			}
			tell(s.client, e)
			return e
		}
		s.emit(msg)
		return nil
	case authSASL:
		msg = withoutChannelBinding(msg)
	}
	*asked = true
	s.emit(msg)
	s.flushOut()
	if code == authSASLFinal {
		return nil
	}
	typ, size, err := s.cr.header()
	if err != nil {
		return errGone
	}
	if typ != 'p' || size > maxPassword {
		e := protocolError(fmt.Sprintf("expected password response, got message type %d", typ))
		tell(s.client, e)
		return e
	}
	answer, err := s.cr.appendTo(nil, size)
	if err != nil {
		return errGone
	}
	_, err = s.back.Write(answer)
	return err
}

// withoutChannelBinding takes SCRAM-SHA-256-PLUS off the list: it would bind to the wrong certificate.
func withoutChannelBinding(msg []byte) []byte {
	out, at := begin(nil, 'R')
	out = append(out, msg[5:9]...)
	rest := msg[9:]
	for len(rest) > 0 && rest[0] != 0 {
		name, r, ok := cut(rest)
		if !ok {
			break
		}
		if string(name) != scramPlus {
			out = cstring(out, string(name))
		}
		rest = r
	}
	return end(append(out, 0), at)
}

// isNear reports whether the client is on this machine.
func (s *session) isNear() bool {
	addr, ok := s.client.RemoteAddr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}
