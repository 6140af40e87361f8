package logrep

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Every connection reads and writes values in one fixed notation, so that nodes agree on what they compare.
// search_path is empty on both ends, so that regclass and the like are spelled with their schema.
var fixedNotation = map[string]string{
	"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "3",
	"TimeZone": "UTC", "bytea_output": "hex", "lc_monetary": "C", "xmloption": "content", "search_path": "",
	"array_nulls": "on", "quote_all_identifiers": "off",
}

// limits are those that a DBA sets for clients.
var limits = []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"}

// limitOf17 is another. Earlier versions refuse a session that names it.
const limitOf17 = "transaction_timeout"

// before17 has the servers that did: host and port.
var before17 sync.Map

// Own opens a session of mtm's own by connect, which uses conf and may be called twice. The limits that a DBA sets for clients are not for
// us: a worker waits as long as the cluster wants it to. Nor are login event triggers: what they write would be on this node only.
func Own[C any](conf *pgconn.Config, connect func() (C, error)) (C, error) {
	for _, name := range limits {
		if _, set := conf.RuntimeParams[name]; !set {
			conf.RuntimeParams[name] = "0"
		}
	}
	conf.RuntimeParams["session_replication_role"] = "replica"
	server := net.JoinHostPort(conf.Host, strconv.Itoa(int(conf.Port)))
	if _, known := before17.Load(server); known {
		return connect()
	}
	conf.RuntimeParams[limitOf17] = "0"
	c, err := connect()
	if sqlState(err) == "42704" {
		delete(conf.RuntimeParams, limitOf17)
		if c, err = connect(); err == nil {
			before17.Store(server, true)
		}
	}
	return c, err
}

// What else a DBA sets for clients, and is not for us.
var ourWay = map[string]string{
	"row_security": "off", "default_transaction_read_only": "off", "default_transaction_isolation": "read committed",
	"default_transaction_deferrable": "off", "client_min_messages": "error", "standard_conforming_strings": "on",
	"zero_damaged_pages": "off",
}

// connect opens a connection with the settings above and params over them.
func (c Config) connect(ctx context.Context, app string, params map[string]string) (*pgconn.PgConn, error) {
	conf, err := pgconn.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	for _, name := range limits {
		delete(conf.RuntimeParams, name)
	}
	for _, set := range []map[string]string{fixedNotation, ourWay, {"application_name": app}, params} {
		for k, v := range set {
			conf.RuntimeParams[k] = v
		}
	}
	if c.onWait != nil {
		conf.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			if n.Code == "00000" && strings.Contains(n.Message, waitNotice) {
				c.onWait()
			}
		}
	}
	if conf.ConnectTimeout == 0 {
		conf.ConnectTimeout = 10 * time.Second
	}
	return Own(conf, func() (*pgconn.PgConn, error) { return pgconn.ConnectConfig(ctx, conf) })
}

// waitNotice is in PostgreSQL's message about a lock wait longer than deadlock_timeout (log_lock_waits): "process 71
// still waiting for ShareLock on transaction 747 after 2.1 ms". Sent to us as well as to the log it saves all polling.
const waitNotice = " still waiting for "

// noticeWaits makes a session tell of its lock waits after d, us and not the server's log.
func noticeWaits(params map[string]string, d time.Duration) {
	params["deadlock_timeout"] = milliseconds(d)
	params["log_lock_waits"] = "on"
	params["client_min_messages"] = "log"
	params["log_min_messages"] = "fatal"
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}

// interruptible makes ctx's end fail whatever conn is reading or writing. Its result undoes that.
//
// pgconn's own way starts a goroutine per call that has a context, which would be one per message here.
func interruptible(ctx context.Context, conn *pgconn.PgConn) (undo func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.Conn().SetDeadline(time.Unix(1, 0)) })
}

// closeConn ends conn, politely if it still listens, and waits until that is done.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
	<-conn.CleanupDone()
}

// query runs one statement with text parameters and returns its rows.
func query(ctx context.Context, conn *pgconn.PgConn, sql string, args ...string) ([][][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	res := conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	return res.Rows, res.Err
}

// run runs statements without parameters.
func run(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	_, err := conn.Exec(ctx, sql).ReadAll()
	return err
}

// serverVersion is server_version_num without its minor part: 15, 16, …
func serverVersion(conn *pgconn.PgConn) int {
	text := conn.ParameterStatus("server_version")
	n := 0
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	v, _ := strconv.Atoi(text[:n])
	return v
}

// receive reads the next message that is an answer. Errors of PostgreSQL come as messages, not as err.
func receive(conn *pgconn.PgConn) (pgproto3.BackendMessage, error) {
	for {
		msg, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return nil, err
		}
		switch msg.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
			continue
		}
		return msg, nil
	}
}
