package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"mtm"
)

// The codes in the place of a protocol version (PostgreSQL manual, "Message Formats").
const (
	cancelCode = 80877102
	sslCode    = 80877103
	gssCode    = 80877104
	alpn       = "postgresql"
	adminName  = "mtm_admin" // application_name, and the role
)

// connection serves one client from its first byte to its last.
func (s *Server) connection(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	log := s.conf.Log.With(keyClient, conn.RemoteAddr().String())
	conn.SetDeadline(time.Now().Add(s.conf.StartupTimeout))
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	client, packet, err := s.greet(ctx, conn)
	stop()
	if err != nil || packet == nil {
		if err != nil {
			s.count.rejected.Add(1)
			log.Info("client did not get in", keyError, err)
		}
		return
	}
	defer client.Close()
	if err := s.session(ctx, client, packet); err != nil && !errors.Is(err, errGone) {
		log.Info("session ended", keyError, err)
	}
}

// greet answers the requests that come before a startup packet, and returns that packet without its length. A nil one:
// the client wanted no more.
func (s *Server) greet(ctx context.Context, conn net.Conn) (net.Conn, []byte, error) {
	secure := false
	for range 4 {
		first := make([]byte, 1, 4)
		if _, err := io.ReadFull(conn, first); err != nil {
			return nil, nil, silent(err)
		}
		if first[0] == 0x16 && !secure && s.tls != nil { // a TLS handshake, without asking
			direct, err := s.handshake(ctx, &prefixConn{Conn: conn, prefix: first}, true)
			if err != nil {
				return nil, nil, err
			}
			conn, secure = direct, true
			continue
		}
		packet, err := readPacket(conn, first)
		if err != nil {
			tell(conn, protocolError(err.Error()))
			return nil, nil, err
		}
		switch binary.BigEndian.Uint32(packet) {
		case cancelCode:
			s.cancel(conn, packet[4:])
			return nil, nil, nil
		case gssCode:
			if _, err := conn.Write([]byte{'N'}); err != nil {
				return nil, nil, err
			}
		case sslCode:
			if s.tls == nil || secure {
				if _, err := conn.Write([]byte{'N'}); err != nil {
					return nil, nil, err
				}
				continue
			}
			if _, err := conn.Write([]byte{'S'}); err != nil {
				return nil, nil, err
			}
			if conn, err = s.handshake(ctx, conn, false); err != nil {
				return nil, nil, err
			}
			secure = true
		default:
			return conn, packet, nil
		}
	}
	return nil, nil, errors.New("too many requests before the startup packet")
}

// silent is for a connection that says nothing at all, as health checks do: no error.
func silent(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readPacket reads a packet that has no type: its length, of which the first byte was read, and its content.
func readPacket(conn net.Conn, first []byte) ([]byte, error) {
	head := first[:4]
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w", err)
	}
	n := binary.BigEndian.Uint32(head)
	if n < 8 || n > maxStartup {
		return nil, errors.New("invalid length of startup packet")
	}
	packet := make([]byte, n-4)
	if _, err := io.ReadFull(conn, packet); err != nil {
		return nil, fmt.Errorf("incomplete startup packet: %w", err)
	}
	return packet, nil
}

func (s *Server) handshake(ctx context.Context, conn net.Conn, direct bool) (net.Conn, error) {
	secure := tls.Server(conn, s.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if direct && secure.ConnectionState().NegotiatedProtocol != alpn {
		return nil, fmt.Errorf("direct TLS without ALPN protocol %q", alpn)
	}
	return secure, nil
}

// prefixConn gives back what was read to look at it.
type prefixConn struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (c *prefixConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// tell sends a client a fatal error, as far as he still listens.
func tell(conn net.Conn, e *mtm.Error) {
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(appendError(nil, 'E', "FATAL", e))
	linger(conn)
}

// linger reads a little of what the client still sends, before the connection is closed: to close it with something
// unread would reset it, and he might never see why.
func linger(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		return
	}
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
}

// startup is what a startup packet says.
type startup struct {
	version uint32
	params  [][2]string
}

func parseStartup(packet []byte) (*startup, error) {
	st := &startup{version: binary.BigEndian.Uint32(packet)}
	if major := st.version >> 16; major != 3 {
		return nil, fmt.Errorf("unsupported frontend protocol %d.%d: server supports 3.0", major, st.version&0xffff)
	}
	rest := packet[4:]
	for len(rest) > 0 && rest[0] != 0 {
		name, r, ok := cut(rest)
		value, r2, ok2 := cut(r)
		if !ok || !ok2 {
			return nil, errors.New("invalid startup packet layout: expected terminator as last byte")
		}
		st.params = append(st.params, [2]string{string(name), string(value)})
		if name := string(name); (name == "user" || name == "database" || name == "replication") && st.has(name) > 1 {
			return nil, errors.New("invalid startup packet layout: " + name + " is there twice")
		}
		rest = r2
	}
	if !bytes.Equal(rest, []byte{0}) {
		return nil, errors.New("invalid startup packet layout: expected terminator as last byte")
	}
	return st, nil
}

// has counts the parameters of that name.
func (st *startup) has(name string) (n int) {
	for _, p := range st.params {
		if p[0] == name {
			n++
		}
	}
	return n
}

func (st *startup) get(name string) string {
	for _, p := range st.params {
		if p[0] == name {
			return p[1]
		}
	}
	return ""
}

// guarded is the packet for PostgreSQL: the client's, with the guard put up.
func (st *startup) guarded() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), st.version)
	option := false
	for _, p := range st.params {
		switch strings.ToLower(p[0]) {
		case "options":
			p[1] = strings.TrimRight(p[1], " ") + " " + guardOption
			option = true
		case "default_transaction_read_only":
			continue
		}
		b = cstring(cstring(b, p[0]), p[1])
	}
	if !option {
		b = cstring(cstring(b, "options"), guardOption)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// plain is the packet for PostgreSQL, as the client sent it.
func plainPacket(packet []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(packet)+4)), packet...)
}

// session serves a client who has said who he is.
func (s *Server) session(ctx context.Context, client net.Conn, packet []byte) error {
	st, err := parseStartup(packet)
	if err != nil {
		tell(client, protocolError(err.Error()))
		return err
	}
	replication := strings.ToLower(st.get("replication"))
	if replication == "database" {
		e := &mtm.Error{
			Code: mtm.CodeNotSupported, Msg: "logical replication connections are not served by multimaster",
			Hint: "They can run SQL. Connect to PostgreSQL itself.",
		}
		tell(client, e)
		return e
	}
	physical := replication != "" && meansOnValue(replication)
	database := st.get("database")
	if database == "" {
		database = st.get("user")
	}
	back, err := s.connectBackend(ctx)
	if err != nil {
		e := &mtm.Error{Code: mtm.CodeCannotConnect, Msg: "PostgreSQL does not answer", Detail: err.Error()}
		tell(client, e)
		return e
	}
	defer back.Close()
	sess := s.newSession(client, back)
	sess.managed = !physical && (s.conf.Database == "" || s.conf.Database == database)
	sess.clientReadOnly = startsReadOnly(st.params)
	sess.wantsAdmin = st.get("application_name") == adminName
	hello := plainPacket(packet)
	if sess.managed {
		hello = st.guarded()
	}
	if _, err := back.Write(hello); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { back.Close() })
	err = sess.authenticate(s.conf.StartupTimeout)
	stop()
	if err != nil {
		s.count.rejected.Add(1)
		return err
	}
	client.SetDeadline(time.Time{})
	return sess.run(ctx)
}

func (s *Server) newSession(client, back net.Conn) *session {
	sess := &session{
		srv: s, client: client, cr: newReader(client), back: back, br: newReader(back), holdAt: -1,
		tx: 'I', stmts: make(map[string]*prepared), portals: make(map[string]*prepared), lexSafe: true, encodingOK: true,
	}
	sess.cond.L = &sess.mu
	return sess
}

// connectBackend opens a connection to PostgreSQL, by TLS if so configured.
func (s *Server) connectBackend(ctx context.Context) (net.Conn, error) {
	conn, err := s.dialBackend()
	if err != nil || s.conf.BackendTLS == nil {
		return conn, err
	}
	conn.SetDeadline(time.Now().Add(s.conf.StartupTimeout))
	answer := []byte{0}
	if _, err = conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, sslCode)); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err == nil && answer[0] != 'S' {
		err = errors.New("it does not speak TLS, which is required")
	}
	secure := tls.Client(conn, s.conf.BackendTLS)
	if err == nil {
		err = secure.HandshakeContext(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return secure, nil
}
