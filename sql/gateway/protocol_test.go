package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func certificate(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestPasswordsAndTLS(t *testing.T) {
	h := start(t, func(c *Config) { c.TLS = certificate(t) })
	for _, sslmode := range []string{"disable", "require", "require&sslnegotiation=direct"} {
		for _, user := range []string{"scrammer", "md5er", "plainer"} {
			url := fmt.Sprintf("postgres://%s:%%s@%s/postgres?sslmode=%s", user, h.addr, sslmode)
			conn, err := pgx.Connect(bg, fmt.Sprintf(url, "secret"))
			require.NoError(t, err, "%s %s", user, sslmode)
			var who string
			require.NoError(t, conn.QueryRow(bg, "select current_user").Scan(&who))
			require.Equal(t, user, who)
			require.Equal(t, "off", conn.PgConn().ParameterStatus("default_transaction_read_only"))
			require.NoError(t, conn.Close(bg))
			_, err = pgx.Connect(bg, fmt.Sprintf(url, "wrong"))
			require.Equal(t, "28P01", code(err))
		}
	}
	_, err := pgx.Connect(bg, fmt.Sprintf("postgres://nobody@%s/postgres?sslmode=disable", h.addr))
	require.Equal(t, "28000", code(err))
	_, err = pgx.Connect(bg, fmt.Sprintf("postgres://postgres@%s/nowhere?sslmode=disable", h.addr))
	require.Equal(t, "3D000", code(err))
}

func TestNobodyGetsInWithLessProofThanAsked(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	host := ""
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			host = ip.IP.String()
		}
	}
	if host == "" {
		t.Skip("this machine has no other address than loopback")
	}
	for _, trust := range []bool{false, true} {
		h := start(t, func(c *Config) { c.Listen, c.TrustRemote = []string{host + ":0"}, trust })
		conn, err := pgx.Connect(bg, h.url("postgres"))
		if trust {
			require.NoError(t, err)
			conn.Close(bg)
		} else {
			require.Equal(t, "28000", code(err))
		}
		conn, err = pgx.Connect(bg, h.url("scrammer:secret"))
		require.NoError(t, err)
		conn.Close(bg)
	}
}

func TestOtherDatabasesPassThrough(t *testing.T) {
	h := start(t)
	conn, err := pgx.Connect(bg, fmt.Sprintf("postgres://postgres@%s/template1?sslmode=disable", h.addr))
	require.NoError(t, err)
	defer conn.Close(bg)
	_, err = conn.Exec(bg, "create table x (a int)")
	require.NoError(t, err)
	_, err = conn.Exec(bg, "drop table x")
	require.NoError(t, err)
	require.Zero(t, h.Stats().Prepared)
}

func TestReplicationConnections(t *testing.T) {
	h := start(t)
	_, err := pgx.Connect(bg, h.url("postgres")+"&replication=database")
	require.Equal(t, "0A000", code(err))
	conf, err := pgx.ParseConfig(h.url("postgres") + "&replication=true")
	require.NoError(t, err)
	conf.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(bg, conf)
	require.NoError(t, err)
	defer conn.Close(bg)
	res, err := conn.PgConn().Exec(bg, "IDENTIFY_SYSTEM").ReadAll()
	require.NoError(t, err)
	require.Len(t, res[0].Rows, 1)
}

// raw is a client that says what it likes.
type raw struct {
	net.Conn
	*pgproto3.Frontend
	t testing.TB
}

func dialRaw(t testing.TB, addr string) *raw {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &raw{conn, pgproto3.NewFrontend(conn, conn), t}
}

func (r *raw) login() *raw {
	r.send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters: map[string]string{"user": "postgres", "database": "postgres"}})
	r.until("ReadyForQuery")
	return r
}

func (r *raw) send(ms ...pgproto3.FrontendMessage) {
	for _, m := range ms {
		r.Frontend.Send(m)
	}
	require.NoError(r.t, r.Frontend.Flush())
}

// until lists the messages that come, the last one of type last.
func (r *raw) until(last string) (names []string) {
	for {
		m, err := r.Frontend.Receive()
		require.NoError(r.t, err, "after %v", names)
		name := fmt.Sprintf("%T", m)[len("*pgproto3."):]
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			names = append(names, name+" "+m.Code)
		case *pgproto3.CommandComplete:
			names = append(names, name+" "+string(m.CommandTag))
		case *pgproto3.ReadyForQuery:
			names = append(names, name+" "+string(m.TxStatus))
		case *pgproto3.ParameterStatus, *pgproto3.NoticeResponse, *pgproto3.BackendKeyData, *pgproto3.AuthenticationOk:
			continue
		default:
			names = append(names, name)
		}
		if name == last || names[len(names)-1] == last {
			return names
		}
	}
}

func TestGarbageIsToldSoAndHarmsNobody(t *testing.T) {
	h := start(t)
	startup := func(length uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, length), rest...)
	}
	login := func(after ...byte) []byte {
		b := append([]byte{0, 3, 0, 0}, "user\x00postgres\x00database\x00postgres\x00\x00"...)
		return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(b)+4)), b...), after...)
	}
	for name, bytes := range map[string][]byte{
		"http":                 []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"gigabyte of startup":  startup(1<<30, 0, 3, 0, 0),
		"no length":            startup(0),
		"short":                startup(7, 1, 2, 3),
		"old protocol":         startup(8, 0, 2, 0, 0),
		"two databases":        startup(35, append([]byte{0, 3, 0, 0}, "u\x00x\x00database\x00a\x00database\x00b\x00\x00"...)...),
		"no end":               startup(12, 0, 3, 0, 0, 'u', 's', 'e', 'r'),
		"cancel of nothing":    startup(16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 1),
		"unknown message":      login('?', 0, 0, 0, 4),
		"negative length":      login('Q', 255, 255, 255, 255),
		"length zero":          login('Q', 0, 0, 0, 0),
		"query without end":    login('Q', 0, 0, 0, 8, 'a', 'b', 'c', 'd'),
		"bind without content": login('B', 0, 0, 0, 4),
		"parse without end":    login('P', 0, 0, 0, 5, 'x'),
		"execute too short":    login('E', 0, 0, 0, 5, 0),
		"describe nothing":     login('D', 0, 0, 0, 4),
		"password again":       login('p', 0, 0, 0, 5, 0),
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, h.addr)
			_, err := r.Write(bytes)
			require.NoError(t, err)
			answer, err := io.ReadAll(r.Conn)
			require.NoError(t, err)
			if name != "cancel of nothing" {
				require.Contains(t, string(answer), "C08P01")
			}
		})
	}
	// Lengths of a gigabyte: nothing is allocated for them, and the client may go away any time.
	for _, typ := range "QPBEd" {
		r := dialRaw(t, h.addr).login()
		_, err := r.Write(append([]byte{byte(typ), 0x3f, 0xff, 0xff, 0xff}, make([]byte, 100)...))
		require.NoError(t, err)
		r.Conn.Close()
	}
	require.Eventually(t, func() bool { return h.Stats().Sessions == 0 }, 5*time.Second, time.Millisecond)
}

func parse(name, text string) *pgproto3.Parse { return &pgproto3.Parse{Name: name, Query: text} }

var (
	bind    = &pgproto3.Bind{}
	execute = &pgproto3.Execute{}
	sync_   = &pgproto3.Sync{}
	flush   = &pgproto3.Flush{}
)

func TestFlushDoesNotDeadlock(t *testing.T) {
	h := start(t)
	fresh(t, h)
	r := dialRaw(t, h.addr).login()
	r.send(parse("", "insert into t values (1, 'x') returning id"), &pgproto3.Describe{ObjectType: 'S'}, flush)
	require.Equal(t, []string{"ParseComplete", "ParameterDescription", "RowDescription"}, r.until("RowDescription"))
	r.send(bind, flush)
	require.Equal(t, []string{"BindComplete"}, r.until("BindComplete"))
	r.send(execute, flush)
	require.Equal(t, []string{"DataRow", "CommandComplete INSERT 0 1"}, r.until("CommandComplete"))
	r.send(sync_)
	require.Equal(t, []string{"ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, 1, h.direct(t, "select count(*) from t"))
	require.EqualValues(t, 1, h.Stats().Prepared)
	// Again: the unnamed statement is still there.
	r.send(bind, execute, flush)
	require.Equal(t, []string{"BindComplete", "ErrorResponse 23505"}, r.until("ErrorResponse"))
	r.send(bind, execute, flush, sync_)
	require.Equal(t, []string{"ReadyForQuery I"}, r.until("ReadyForQuery"))
	r.send(parse("", "nonsense"), flush)
	require.Equal(t, []string{"ErrorResponse 42601"}, r.until("ErrorResponse"))
	r.send(bind, execute, sync_)
	require.Equal(t, []string{"ReadyForQuery I"}, r.until("ReadyForQuery"))
	r.send(parse("", "begin"), bind, execute, flush)
	r.until("CommandComplete")
	r.send(parse("", "update t set v = 'y'"), bind, execute, flush)
	r.until("CommandComplete")
	r.send(parse("c", "commit"), &pgproto3.Bind{PreparedStatement: "c"}, execute, flush)
	require.Equal(t, []string{"ParseComplete", "BindComplete", "CommandComplete COMMIT"}, r.until("CommandComplete"))
	r.send(parse("", "select 1"), bind, execute, sync_)
	require.Equal(t, []string{"ParseComplete", "BindComplete", "DataRow", "CommandComplete SELECT 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
}

// TestQueryWithoutSync: a Query may follow extended messages that no Sync has ended; asyncpg prepares so.
func TestQueryWithoutSync(t *testing.T) {
	h := start(t)
	query := func(text string) pgproto3.FrontendMessage { return &pgproto3.Query{String: text} }
	messages := func(ms ...pgproto3.FrontendMessage) []pgproto3.FrontendMessage { return ms }
	for name, ms := range map[string][]pgproto3.FrontendMessage{
		"a statement was prepared": messages(parse("a", "select 1"), &pgproto3.Describe{ObjectType: 'S', Name: "a"}, flush,
			query("insert into t values (1, 'x')"), &pgproto3.Bind{PreparedStatement: "a"}, execute, sync_),
		"not even a Flush":    messages(parse("", "select 1"), query("insert into t values (1, 'x')"), query("select v from t")),
		"a statement was bad": messages(parse("", "nonsense"), flush, query("insert into t values (1, 'x')"), sync_, query("select v from t")),
		"in a block": messages(query("begin"), parse("", "insert into t values (1, 'x')"), bind, execute, flush,
			query("update t set v = 'y' returning v"), query("commit")),
		"in a block that this begins": messages(parse("", "begin"), bind, execute, flush, query("insert into t values (1, 'x')"), query("commit")),
		"in a block that fails": messages(query("begin"), parse("", "select 1/0"), bind, execute, flush, query("select 1"), sync_,
			query("select 2"), query("rollback"), query("select v from t")),
		"a COPY": messages(parse("", "select 1"), flush, query("copy t from stdin"), &pgproto3.CopyData{Data: []byte("1\tx\n")},
			&pgproto3.CopyDone{}, query("select v from t")),
		"COPY's data before its Sync": messages(parse("", "copy t from stdin"), bind, execute, &pgproto3.CopyData{Data: []byte("1\tx\n")},
			&pgproto3.CopyDone{}, sync_, parse("", "copy t from stdin"), bind, execute, &pgproto3.CopyFail{Message: "no"}, sync_, query("select v from t")),
		"COPY's data before its Sync, in a block": messages(query("begin"), parse("", "copy t from stdin"), bind, execute, sync_,
			&pgproto3.CopyData{Data: []byte("1\tx\n")}, &pgproto3.CopyDone{}, sync_, parse("", "copy nowhere from stdin"), bind, execute,
			&pgproto3.CopyData{Data: []byte("1\tx\n")}, &pgproto3.CopyDone{}, sync_, query("rollback"), query("select v from t")),
		"a failure before BEGIN": messages(parse("", "insert into t values (1, 'x')"), bind, execute, parse("", "insert into t values (1, 'y')"), bind,
			execute, parse("", "begin"), bind, execute, sync_, query("insert into t values (2, 'x')")),
		"a failure before ROLLBACK": messages(parse("", "insert into t values (1, 'x')"), bind, execute, &pgproto3.Bind{PreparedStatement: "none"},
			parse("", "rollback"), bind, execute, sync_, query("insert into t values (2, 'x')")),
		"ROLLBACK of what was not in a block": messages(parse("", "insert into t values (1, 'x')"), bind, execute, parse("", "rollback"), bind,
			execute, parse("", "insert into t values (2, 'x')"), bind, execute, sync_, query("select v from t")),
		"BEGIN after what was not in a block": messages(parse("", "insert into t values (1, 'x')"), bind, execute, parse("", "begin"), bind,
			execute, parse("", "insert into t values (1, 'x')"), bind, execute, sync_, query("rollback")),
		"BEGIN that fails after what was not in a block": messages(parse("", "insert into t values (1, 'x')"), bind, execute,
			parse("", "begin isolation level serializable"), bind, execute, sync_, query("insert into t values (2, 'x')")),
		"a failure before ROLLBACK, in a block": messages(query("begin"), parse("", "insert into t values (1, 'x'), (1, 'y')"), bind, execute,
			parse("", "rollback"), bind, execute, parse("", "insert into t values (2, 'x')"), bind, execute, sync_, query("insert into t values (3, 'x')"),
			query("rollback")),
		"a portal of COPY again": messages(parse("", "copy t from stdin"), bind, execute, flush, &pgproto3.CopyFail{Message: "no"}, execute, sync_, query("select 1")),
		"another COPY, which fails": messages(parse("", "copy t from stdin"), bind, execute, flush, &pgproto3.CopyData{Data: []byte("1\tx\n")}, &pgproto3.CopyDone{},
			parse("", "copy t from stdin where v = 1"), bind, execute, sync_, query("select 1")),
		"a failed Describe before ROLLBACK, in a failed block": messages(query("begin"), query("select 1/0"), &pgproto3.Describe{ObjectType: 'S', Name: "none"},
			parse("", "rollback"), bind, execute, parse("", "insert into t values (1, 'x')"), bind, execute, sync_, query("insert into t values (2, 'x')"),
			query("rollback")),
		"BEGIN after reads": messages(parse("", "select 1"), bind, execute, parse("", "begin"), bind, execute, parse("", "insert into t values (1, 'x')"), bind,
			execute, parse("", "commit"), bind, execute, sync_, query("select v from t")),
		"BEGIN after a Parse":                  messages(parse("s", "select 1"), parse("", "begin"), bind, execute, sync_, query("insert into t values (1, 'x')"), query("commit")),
		"COMMIT after what looked like a read": messages(parse("", "select writes()"), bind, execute, parse("", "commit"), bind, execute, sync_, query("select 1")),
		"a function":                           messages(parse("", "select 1"), flush, &pgproto3.FunctionCall{Function: 1299}, query("select 3")),
	} {
		t.Run(name, func(t *testing.T) {
			var all [2][]string
			for i, addr := range []string{fmt.Sprintf("127.0.0.1:%d", pg.port), h.addr} {
				fresh(t, h)
				r := dialRaw(t, addr).login()
				r.send(ms...)
				r.send(query("select 'end'"))
				r.send(&pgproto3.Terminate{})
				for {
					m, err := r.Frontend.Receive()
					if err != nil {
						break
					}
					name := fmt.Sprintf("%T", m)[len("*pgproto3."):]
					switch m := m.(type) {
					case *pgproto3.ErrorResponse:
						name += " " + m.Code
					case *pgproto3.ReadyForQuery:
						name += " " + string(m.TxStatus)
					case *pgproto3.DataRow:
						name += fmt.Sprintf(" %q", m.Values)
					case *pgproto3.NoticeResponse: // "there is already a transaction in progress": in a block that he does not see
						continue
					}
					all[i] = append(all[i], name)
				}
				require.NotEmpty(t, all[i])
				all[i] = append(all[i], fmt.Sprint(h.direct(t, "select count(*) from t")))
			}
			require.Equal(t, all[0], all[1])
		})
	}
	for _, ms := range [][]pgproto3.FrontendMessage{
		messages(parse("", "insert into t values (1, 'x')"), bind, execute, flush, query("select 1")),
		messages(parse("", "copy t from stdin"), bind, execute, flush, query("select 1")),
	} {
		fresh(t, h)
		r := dialRaw(t, h.addr).login()
		r.send(ms...)
		names := r.until("ErrorResponse 08P01")
		require.NotContains(t, names, "ReadyForQuery I")
		require.Eventually(t, func() bool { return h.Stats().Sessions == 0 }, 5*time.Second, time.Millisecond)
		require.Zero(t, h.direct(t, "select count(*) from t"))
	}
}

func TestPipelineOfSeveralTransactions(t *testing.T) {
	h := start(t)
	fresh(t, h)
	r := dialRaw(t, h.addr).login()
	r.send(
		parse("", "begin"), bind, execute, parse("", "insert into t values (1, 'x')"), bind, execute, parse("", "commit"), bind, execute,
		parse("", "insert into t values (2, 'x')"), bind, execute, sync_,
		parse("", "insert into t values (1, 'x')"), bind, execute, parse("", "select 1"), bind, execute, sync_,
		parse("", "select 1"), bind, execute, sync_,
		&pgproto3.Query{String: "insert into t values (3, 'x')"}, &pgproto3.Query{String: "begin"}, &pgproto3.Query{String: "delete from t"},
		&pgproto3.Query{String: "rollback"}, &pgproto3.Query{String: "select writes()"}, &pgproto3.Query{String: "select 1"},
	)
	pbe := func(tag string) []string { return []string{"ParseComplete", "BindComplete", "CommandComplete " + tag} }
	want := append(append(append(pbe("BEGIN"), pbe("INSERT 0 1")...), append(pbe("COMMIT"), pbe("INSERT 0 1")...)...), "ReadyForQuery I")
	require.Equal(t, want, r.until("ReadyForQuery"))
	require.Equal(t, []string{"ParseComplete", "BindComplete", "ErrorResponse 23505", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"ParseComplete", "BindComplete", "DataRow", "CommandComplete SELECT 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"CommandComplete INSERT 0 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"CommandComplete BEGIN", "ReadyForQuery T"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"CommandComplete DELETE 3", "ReadyForQuery T"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"CommandComplete ROLLBACK", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"RowDescription", "DataRow", "CommandComplete SELECT 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, []string{"RowDescription", "DataRow", "CommandComplete SELECT 1", "ReadyForQuery I"}, r.until("ReadyForQuery"))
	require.Equal(t, 4, h.direct(t, "select count(*) from t"))
}

func TestLongPipelineWithoutReading(t *testing.T) {
	h := start(t)
	fresh(t, h)
	r := dialRaw(t, h.addr).login()
	const n = 5000
	go func() {
		r.Frontend.Send(parse("s", "insert into t values ($1, repeat('x', 1000)) returning *"))
		for i := range n {
			r.Frontend.Send(&pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{fmt.Append(nil, i)}})
			r.Frontend.Send(execute)
		}
		r.Frontend.Send(sync_)
		_ = r.Frontend.Flush()
	}()
	require.Len(t, r.until("ReadyForQuery"), 1+3*n+1)
	require.Equal(t, n, h.direct(t, "select count(*) from t"))
	require.EqualValues(t, 1, h.Stats().Prepared)
}

func TestCopyByExtendedProtocol(t *testing.T) {
	h := start(t)
	fresh(t, h)
	r := dialRaw(t, h.addr).login()
	for i, block := range []bool{false, true} {
		if block {
			r.send(&pgproto3.Query{String: "begin"})
			r.until("ReadyForQuery")
		}
		r.send(parse("", "copy t from stdin"), bind, execute, sync_)
		require.Equal(t, []string{"ParseComplete", "BindComplete", "CopyInResponse"}, r.until("CopyInResponse"))
		r.send(&pgproto3.CopyData{Data: fmt.Appendf(nil, "%d\tx\n", i)}, &pgproto3.CopyDone{}, sync_)
		require.Equal(t, "CommandComplete COPY 1", r.until("ReadyForQuery")[0])
		r.send(parse("", "copy t from stdin"), bind, execute, sync_)
		r.until("CopyInResponse")
		r.send(&pgproto3.CopyFail{Message: "no"}, sync_)
		require.Equal(t, "ErrorResponse 57014", r.until("ReadyForQuery")[0])
		if block {
			r.send(&pgproto3.Query{String: "rollback"})
			r.until("ReadyForQuery")
		}
	}
	require.Equal(t, 1, h.direct(t, "select count(*) from t"))
	r.send(parse("", "copy nowhere from stdin"), bind, execute, sync_)
	require.Equal(t, []string{"ParseComplete", "BindComplete", "ErrorResponse 42P01", "ReadyForQuery I"}, r.until("ReadyForQuery"))
}

// TestClientGoneDuringCopy: with a hang-up or a Terminate in place of the data, nothing of the session is left.
func TestClientGoneDuringCopy(t *testing.T) {
	h := start(t)
	fresh(t, h)
	for _, begin := range []string{"", "begin; insert into t values (2, 'x')"} {
		for _, extended := range []bool{false, true} {
			for _, terminate := range []bool{false, true} {
				r := dialRaw(t, h.addr).login()
				if begin != "" {
					r.send(&pgproto3.Query{String: begin})
					r.until("ReadyForQuery")
				}
				if extended {
					r.send(parse("", "copy t from stdin"), bind, execute, sync_)
				} else {
					r.send(&pgproto3.Query{String: "copy t from stdin"})
				}
				r.until("CopyInResponse")
				r.send(&pgproto3.CopyData{Data: []byte("1\tx\n")})
				if terminate {
					r.send(&pgproto3.Terminate{})
				}
				require.NoError(t, r.Close())
				require.Eventually(t, func() bool { return h.Stats().Sessions == 0 }, 5*time.Second, time.Millisecond,
					"begin %q, extended %t, terminate %t", begin, extended, terminate)
			}
		}
	}
	require.Eventually(t, func() bool {
		return h.direct(t, "select count(*) from pg_stat_activity where query ilike 'copy t from stdin'") == 0
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, 0, h.direct(t, "select count(*) from t"))
}

func TestShutdownTellsEverybody(t *testing.T) {
	h := start(t)
	ctx, cancel := context.WithCancel(bg)
	srv, err := New(Config{Listen: []string{"127.0.0.1:0"}, Backend: h.conf.Backend, Commits: h.fake})
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- srv.Run(ctx) }()
	idle := dialRaw(t, srv.Addrs()[0].String()).login()
	block := dialRaw(t, srv.Addrs()[0].String()).login()
	block.send(&pgproto3.Query{String: "begin"})
	block.until("ReadyForQuery")
	busy := dialRaw(t, srv.Addrs()[0].String()).login()
	busy.send(&pgproto3.Query{String: "select pg_sleep(100)"})
	require.Eventually(t, func() bool {
		return h.direct(t, "select count(*) from pg_stat_activity where query = 'select pg_sleep(100)' and state = 'active'") == 1
	}, 10*time.Second, 5*time.Millisecond)
	half := dialRaw(t, srv.Addrs()[0].String())
	cancel()
	for _, r := range []*raw{idle, block, busy} {
		require.Equal(t, "ErrorResponse 57P01", r.until("ErrorResponse")[0])
	}
	_, err = io.ReadAll(half.Conn)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Eventually(t, func() bool {
		return h.direct(t, "select count(*) from pg_stat_activity where query = 'select pg_sleep(100)' and state = 'active'") == 0
	}, 10*time.Second, 5*time.Millisecond, "the statement goes on without its client")
}

func TestBackendKilled(t *testing.T) {
	h := start(t)
	r := dialRaw(t, h.addr).login()
	h.Server.mu.Lock()
	var pid int32
	for pid = range h.sessions {
	}
	h.Server.mu.Unlock()
	_, err := h.fake.pool.Exec(bg, fmt.Sprintf("select pg_terminate_backend(%d)", pid))
	require.NoError(t, err)
	require.Equal(t, []string{"ErrorResponse 57P01"}, r.until("ErrorResponse"))
	_, err = io.ReadAll(r.Conn)
	require.NoError(t, err)
}
