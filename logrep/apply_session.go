package logrep

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"mtm/logrep/pgoutput"
)

// applySession is one worker's connection, with its prepared statements. It speaks the extended protocol itself, so
// that any number of statements go out in one write.
type applySession struct {
	cfg     *Config
	conn    *pgconn.PgConn
	fe      *pgproto3.Frontend
	rels    map[string]*applyRel  // by relation message less the sender's OID
	quirks  map[string]quirk      // by quoted name
	fkStmts map[string]*applyStmt // by text
	nstmt   int

	fresh  []*applyStmt // prepared in the transaction that is running
	sent   []sentStmt   // whose answers have not been read
	syncs  int          // sent, their ReadyForQuery not read
	bytes  int          // about what is buffered since the last write
	status byte         // of the transaction, after simpleAnswer: I, T or E
	stale  bool         // a statement prepared in an earlier transaction was used in this one

	tainted bool // what is no superuser's ran in it: see cleanse
}

// sentStmt is what must be known of a statement when its answer comes.
type sentStmt struct {
	rel  *applyRel
	one  bool        // it must hit one row
	rows int64       // it must hit so many; 0: any number
	fk   *foreignKey // it is this one's check
}

const (
	batchBytes = 64 << 10 // of statements that go out in one write
	batchStmts = 256      // sent before their answers are read
	maxStmts   = 2000     // prepared on one connection; past it all are dropped
)

// openSession connects worker number n and gives it a replication origin of its own, if there is one to be had.
func (c *Config) openSession(ctx context.Context, n int, app string) (*applySession, error) {
	params := map[string]string{
		"deadlock_timeout": milliseconds(c.DeadlockTimeout),
		"enable_seqscan":   "off", "jit": "off", "lc_messages": "C",
	}
	if c.onWait != nil {
		noticeWaits(params, c.LockNotice)
	}
	conn, err := c.connect(ctx, app, params)
	if err != nil {
		return nil, err
	}
	s := &applySession{
		cfg: c, conn: conn, fe: conn.Frontend(), rels: map[string]*applyRel{}, quirks: map[string]quirk{}, fkStmts: map[string]*applyStmt{},
	}
	if err := setOrigin(ctx, conn, fmt.Sprintf("%s%d", originPrefix(app), n)); err != nil {
		if !noOriginLeft(err) {
			closeConn(conn)
			return nil, err
		}
		c.Log.Warn("no replication origin left: raise max_replication_slots (max_active_replication_origins from 18)",
			keyError, err)
	}
	return s, nil
}

func originPrefix(app string) string {
	if app == appFinish {
		return "mtm_f"
	}
	return "mtm_w"
}

// setOrigin marks what conn writes as replicated, so that nobody replicates it on. One origin is for one session at a time:
// one that a dead process's backend still holds is waited for.
func setOrigin(ctx context.Context, conn *pgconn.PgConn, name string) error {
	const create = "SELECT pg_replication_origin_create($1) WHERE pg_replication_origin_oid($1) IS NULL"
	if _, err := query(ctx, conn, create, name); err != nil && sqlState(err) != "23505" {
		return fmt.Errorf("create replication origin %s: %w", name, err)
	}
	for n := 1; ; n++ {
		_, err := query(ctx, conn, "SELECT pg_replication_origin_session_setup($1)", name)
		if err == nil {
			return nil
		}
		if sqlState(err) != "55006" || n > 8 {
			return fmt.Errorf("use replication origin %s: %w", name, err)
		}
		if err := backoff(ctx, n); err != nil {
			return err
		}
	}
}

func noOriginLeft(err error) bool {
	code := sqlState(err)
	return code == "53400" || code == "54000"
}

// sqlState is the SQLSTATE of an error that PostgreSQL sent, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func (s *applySession) close() {
	s.cfg.Ending()
	closeConn(s.conn)
}

// relation finds or makes what the session knows of the table that an 'R' message describes.
func (s *applySession) relation(body []byte) (*applyRel, uint32, error) {
	id, ok := pgoutput.RelationID(body)
	if !ok {
		return nil, 0, pgoutput.ErrMalformed
	}
	if rel := s.rels[string(body[4:])]; rel != nil {
		return rel, id, nil
	}
	m, err := new(pgoutput.Parser).Parse('R', body)
	if err != nil {
		return nil, 0, err
	}
	rel := newApplyRel(m.(pgoutput.Relation), 0)
	rel.quirk = s.quirks[rel.name]
	s.rels[string(body[4:])] = rel
	return rel, id, nil
}

// send queues a statement, preparing it if it was not.
func (s *applySession) send(st *applyStmt, params [][]byte, note sentStmt) error {
	name := ""
	if s.tainted { // a name may not be ours any more
		s.fe.SendParse(&pgproto3.Parse{Query: st.sql})
		s.bytes += len(st.sql)
	} else {
		name = s.named(st)
		s.stale = s.stale || st.old
	}
	s.fe.SendBind(&pgproto3.Bind{PreparedStatement: name, Parameters: params})
	s.fe.SendExecute(&pgproto3.Execute{})
	for _, p := range params {
		s.bytes += len(p) + 4
	}
	s.bytes += 32
	s.sent = append(s.sent, note)
	switch {
	case len(s.sent) >= batchStmts:
		return s.drain()
	case s.bytes >= batchBytes:
		return s.flush() // PostgreSQL works meanwhile; so few answers fit into any buffer
	}
	return nil
}

// named prepares st if it was not, and gives its name.
func (s *applySession) named(st *applyStmt) string {
	if !st.parsed {
		s.nstmt++
		st.name = "s" + strconv.Itoa(s.nstmt)
		s.fe.SendParse(&pgproto3.Parse{Name: st.name, Query: st.sql})
		st.parsed = true
		s.bytes += len(st.sql)
		s.fresh = append(s.fresh, st)
	}
	return st.name
}

// sendOnce queues a statement that will not come again.
func (s *applySession) sendOnce(sql string, note sentStmt) {
	s.fe.SendParse(&pgproto3.Parse{Query: sql})
	s.fe.SendBind(&pgproto3.Bind{})
	s.fe.SendExecute(&pgproto3.Execute{})
	s.sent = append(s.sent, note)
}

// drain writes what is queued and reads all answers.
func (s *applySession) drain() error {
	if len(s.sent) == 0 {
		return nil
	}
	s.fe.Send(&pgproto3.Flush{})
	if err := s.flush(); err != nil {
		return err
	}
	return s.answers()
}

func (s *applySession) flush() error {
	s.bytes = 0
	if err := s.fe.Flush(); err != nil {
		return &brokenError{err}
	}
	return nil
}

// answers reads the answers to all that was sent, up to the first error.
func (s *applySession) answers() error {
	defer func() { s.sent = s.sent[:0] }()
	for _, note := range s.sent {
		if err := s.answer(note); err != nil {
			return err
		}
	}
	return nil
}

func (s *applySession) answer(note sentStmt) error {
	for {
		msg, err := receive(s.conn)
		if err != nil {
			return &brokenError{err}
		}
		switch msg := msg.(type) {
		case *pgproto3.CommandComplete:
			if note.one {
				note.rows = 1
			}
			if note.rows > 0 && pgconn.NewCommandTag(string(msg.CommandTag)).RowsAffected() != note.rows {
				return &rowError{rel: note.rel}
			}
			return nil
		case *pgproto3.EmptyQueryResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return &stmtError{rel: note.rel, fk: note.fk, err: pgconn.ErrorResponseToPgError(msg)}
		}
	}
}

// ready reads up to ReadyForQuery.
func (s *applySession) ready() error {
	for {
		msg, err := receive(s.conn)
		if err != nil {
			return &brokenError{err}
		}
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			s.syncs--
			return nil
		}
	}
}

// sync ends a pipeline: PostgreSQL stops ignoring what comes after an error.
func (s *applySession) sync() {
	s.fe.SendSync(&pgproto3.Sync{})
	s.syncs++
}

// simple runs a simple query, nothing else being on its way, and returns the first error.
func (s *applySession) simple(sql string) error {
	s.fe.SendQuery(&pgproto3.Query{String: sql})
	if err := s.flush(); err != nil {
		return err
	}
	return s.simpleAnswer()
}

func (s *applySession) simpleAnswer() error {
	var first error
	for {
		msg, err := receive(s.conn)
		if err != nil {
			return &brokenError{err}
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			if first == nil {
				first = &stmtError{err: pgconn.ErrorResponseToPgError(msg)}
			}
		case *pgproto3.CopyInResponse: // DDL text is no place for it
			s.fe.Send(&pgproto3.CopyFail{Message: "COPY FROM STDIN is not possible here"})
			if err := s.flush(); err != nil {
				return err
			}
		case *pgproto3.ReadyForQuery:
			s.status = msg.TxStatus
			return first
		}
	}
}

// rollback ends whatever transaction is open and leaves the session ready.
//
// A statement whose Parse PostgreSQL may have skipped is prepared again, under a new name.
func (s *applySession) rollback() error {
	s.sent = s.sent[:0]
	for _, st := range s.fresh {
		st.parsed = false
	}
	s.fresh = s.fresh[:0]
	if s.syncs == 0 {
		s.sync()
	}
	for s.status = 'T'; s.status != 'I'; { // a cancel that comes late may hit the ROLLBACK
		s.fe.SendQuery(&pgproto3.Query{String: "ROLLBACK"})
		if err := s.flush(); err != nil {
			return err
		}
		for s.syncs > 0 {
			if err := s.ready(); err != nil {
				return err
			}
		}
		if err, broken := s.simpleAnswer().(*brokenError); broken {
			return err
		}
	}
	return nil
}

// settled: the transaction ended well, so what was prepared in it stays.
func (s *applySession) settled() {
	for _, st := range s.fresh {
		st.old = true
	}
	s.fresh, s.stale = s.fresh[:0], false
}

// forget drops every prepared statement: tables have changed, or there are too many. Not while answers are on their way.
func (s *applySession) forget() error {
	s.rels, s.fkStmts = map[string]*applyRel{}, map[string]*applyStmt{}
	s.fresh, s.nstmt = s.fresh[:0], 0
	return s.simple("DEALLOCATE ALL")
}

// rows runs a query inside the transaction and returns its rows of one column.
func (s *applySession) rows(sql string, params ...string) ([]string, error) {
	if err := s.drain(); err != nil {
		return nil, err
	}
	args := make([][]byte, len(params))
	for i, p := range params {
		args[i] = []byte(p)
	}
	s.fe.SendParse(&pgproto3.Parse{Query: sql})
	s.fe.SendBind(&pgproto3.Bind{Parameters: args})
	s.fe.SendExecute(&pgproto3.Execute{})
	s.fe.Send(&pgproto3.Flush{})
	if err := s.flush(); err != nil {
		return nil, err
	}
	var out []string
	for {
		msg, err := receive(s.conn)
		if err != nil {
			return nil, &brokenError{err}
		}
		switch msg := msg.(type) {
		case *pgproto3.DataRow:
			out = append(out, string(msg.Values[0]))
		case *pgproto3.CommandComplete:
			return out, nil
		case *pgproto3.ErrorResponse:
			return nil, &stmtError{err: pgconn.ErrorResponseToPgError(msg)}
		}
	}
}
