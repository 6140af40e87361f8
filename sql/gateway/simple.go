package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"mtm"
	"mtm/sql/statement"
)

// unit is something that the client asked for and that can be done again: one Query, or a batch of extended messages up
// to its Sync. Its bytes are in session.batch.
type unit struct {
	stmts []*statement.Statement // what it executes
	text  string                 // of a Query
	metas []meta                 // of a batch
	ext   bool
	show  bool // it asks for what the guard would falsify
	fast  bool // one INSERT, UPDATE, DELETE or MERGE
	wrote bool // known to write

	temporary bool // the session was known to use temporary objects
	open      bool // PostgreSQL would not prepare it: its session holds it open
	bare      bool // the statement is run in a way that touches fewer temporary objects: see fallback
}

func (u *unit) markWrote() {
	for _, st := range u.stmts {
		if st != nil && st.Kind == statement.Read {
			st.MarkWrote()
		}
	}
}

// query deals with a simple Query.
func (s *session) query(ctx context.Context, size int) error {
	if ok, err := s.leaveBatch(ctx, size); err != nil || !ok {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.newUnit()
	s.srv.count.statements.Add(1)
	if size > statement.MaxText+6 {
		return s.longQuery(ctx, size)
	}
	var err error
	if s.batch, err = s.cr.appendTo(s.batch[:0], size); err != nil {
		return err
	}
	body, _, ok := cut(s.batch[5:])
	if !ok {
		return protocolError("invalid string in message")
	}
	text := string(body)
	s.mu.Lock()
	delete(s.stmts, "") // as PostgreSQL does
	s.mu.Unlock()
	stmts, ok := s.split(text)
	if !ok {
		if bare, control := statement.Control(text); control {
			if stmts, ok = s.split(bare); bare != "" && ok {
				text = bare
				s.batch = appendQuery(s.batch[:0], text)
			} else if s.status() != 'E' {
				return s.refuse(errUnreadable())
			}
		}
	}
	s.hideOurs(stmts, text)
	switch {
	case !ok:
		return s.unknownQuery(ctx, text)
	case len(stmts) == 0:
		return s.forward(false)
	case len(stmts) == 1:
		return s.single(ctx, stmts[0], text)
	default:
		return s.many(ctx, stmts, text)
	}
}

// split asks the lexer, unless it would read the text otherwise than PostgreSQL does.
func (s *session) split(text string) ([]*statement.Statement, bool) {
	s.mu.Lock()
	safe, plain := s.lexSafe, s.encodingOK
	s.mu.Unlock()
	if (!safe || !plain) && strings.IndexByte(text, '\\') >= 0 {
		return nil, false
	}
	return s.srv.cache.Split(text)
}

// forward passes session.batch on as it is; read: its tags are no sign of writing.
func (s *session) forward(read bool) error {
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.step = step{}
	s.push(expect{op: 'Q', read: read})
	s.mu.Unlock()
	return s.send()
}

// single deals with a Query of one statement.
func (s *session) single(ctx context.Context, st *statement.Statement, text string) error {
	tx := s.status()
	if e := s.untold(st); e != nil {
		return s.tellDoom(st, e)
	}
	if tx == 'E' {
		if characteristics, ours := s.chainAfterFailure(st); ours {
			if err := s.rollback(); err != nil {
				return err
			}
			if err := s.chain(characteristics); err != nil {
				return err
			}
			s.release(appendReady(appendComplete(nil, "ROLLBACK"), s.status()))
			return nil
		}
		return s.forward(false)
	}
	if st.Kind == statement.PrepareTx && tx == 'T' && !strings.HasPrefix(st.GID, mtm.GIDPrefix) {
		open, failure, err := s.staysOpen()
		switch {
		case err != nil:
			return err
		case failure != nil:
			if err := s.rollback(); err != nil {
				return err
			}
			s.fail(failure, 'I')
			return nil
		case open:
			return s.prepareInVain()
		}
	}
	if e := s.refusal(ctx, st, tx); e != nil {
		return s.refuse(e)
	}
	s.noteTemporary(st)
	if st.Kind == statement.FinishPrepared || st.Kind == statement.PrepareTx && tx == 'T' {
		return s.aboutUser(ctx, st)
	}
	if tx == 'I' && st.Kind == statement.PrepareTx {
		return s.forward(false)
	}
	u := &unit{stmts: []*statement.Statement{st}, text: text}
	switch st.Kind {
	case statement.Begin:
		if tx == 'I' {
			s.yield(ctx)
		}
		return s.beginBlock(st, text)
	case statement.Commit:
		if tx == 'I' {
			return s.forward(false)
		}
		return s.commitQuery(ctx, st)
	case statement.Rollback, statement.Savepoint: // outside of a block PostgreSQL warns or refuses by itself
		s.noteChain(st, tx)
		return s.forward(true)
	case statement.Session:
		s.setBlock(false)
		if st.Has(statement.ShowsReadOnly) {
			return s.aboutReadOnly(ctx, u, tx)
		}
		return s.forward(true)
	case statement.Local:
		if st.Has(statement.Unguarded) && tx == 'I' && !s.clientReadOnly {
			return s.unguarded(ctx, u)
		}
		if s.reindexes(st, tx) {
			return s.reindexQuery(ctx, text)
		}
		return s.forward(false)
	case statement.Read:
		if st.Has(statement.ShowsPrepared) {
			s.hidePrepared()
		}
		if st.Has(statement.ShowsReadOnly) {
			u.show = !s.clientReadOnly
		} else if tx == 'T' {
			return s.forward(true)
		} else if !st.Wrote() {
			return s.guard(u)
		}
	}
	if tx == 'T' {
		return s.inBlock(u)
	}
	u.fast, u.wrote = st.Has(statement.PlainDML) && st.Kind == statement.Write && !s.clientReadOnly, st.Kind == statement.Write
	return s.runWrapped(ctx, u)
}

// guard runs a read as it is. What it answers is held back until it is long or complete: if it turns out to write, it is
// run again in a block.
func (s *session) guard(u *unit) error {
	if len(s.batch) > batchLimit {
		return s.runWrapped(context.Background(), u)
	}
	s.hold(false)
	s.mu.Lock()
	s.step = step{}
	s.catch, s.guarded = true, u
	s.mu.Unlock()
	s.appendUnit(u, false)
	return s.send()
}

// appendUnit appends the client's messages; quiet: the ReadyForQuery of a Query is not for him.
func (s *session) appendUnit(u *unit, again bool) {
	if u.ext {
		s.appendBatch(u.metas, again)
		return
	}
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.push(expect{op: 'Q', quiet: s.guarded == nil, read: !u.wrote && u.stmts[0] != nil && u.stmts[0].Kind == statement.Read})
	s.mu.Unlock()
}

// repeatWrapped runs a guarded read again, now that it is known to write.
func (s *session) repeatWrapped(ctx context.Context, u *unit) error {
	s.drop()
	return s.runWrapped(ctx, u)
}

// beginBlock opens a block that may write, unless the client says otherwise.
func (s *session) beginBlock(st *statement.Statement, text string) error {
	s.mu.Lock()
	tx := s.tx
	if tx == 'I' {
		s.block = block{}
	}
	s.block.readOnly = tx == 'I' && st.Has(statement.AccessMode|statement.ReadOnly) // in a block it warns, but does what it says of modes
	s.mu.Unlock()
	if st.Has(statement.AccessMode) || s.clientReadOnly || tx != 'I' {
		return s.forward(true)
	}
	s.batch = appendQuery(s.batch[:0], writable(st, text))
	return s.forward(true)
}

// writable is the text of a BEGIN, with READ WRITE said.
func writable(st *statement.Statement, text string) string {
	return text[:st.End] + " READ WRITE" + text[st.End:]
}

// noteChain notes that PostgreSQL begins the next block, if st says AND CHAIN.
func (s *session) noteChain(st *statement.Statement, tx byte) {
	if tx == 'T' && st.Has(statement.Chain) {
		s.mu.Lock()
		s.block = block{native: true, readOnly: s.block.readOnly}
		s.mu.Unlock()
	}
}

// setBlock notes whether nothing in the block can write: it was begun READ ONLY, and no SET, which may have made it READ WRITE, came since. One that was
// made READ ONLY later may have written before, or be as it was after ROLLBACK TO SAVEPOINT.
func (s *session) setBlock(readOnly bool) {
	s.mu.Lock()
	s.block.readOnly = readOnly
	s.mu.Unlock()
}

func (s *session) noteTemporary(st *statement.Statement) {
	if st.Has(statement.Temporary) {
		s.mu.Lock()
		s.temporary, s.block.temporary = true, true
		s.mu.Unlock()
	}
}

// inBlock runs a statement in the client's own block.
func (s *session) inBlock(u *unit) error {
	st := u.stmts[0]
	ddl := st.Kind == statement.DDL
	s.inPipeline(func() {
		if u.show {
			s.inject(injShowOff, roleOurs)
		}
		if ddl {
			s.injectDDL(st, ddlText(st, u.text))
		}
	})
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.step = step{}
	if st.Kind == statement.CopyFrom || st.Kind == statement.Write {
		s.block.ran = true
	}
	s.push(expect{op: 'Q', quiet: ddl, read: st.Kind == statement.Read})
	s.mu.Unlock()
	if ddl {
		s.inPipeline(func() { s.injectDDLEnd(st) })
		s.sync(false)
	}
	return s.send()
}

// many deals with a Query of several statements. Without transaction control and DDL they go to PostgreSQL in one piece,
// which runs them as one transaction; else in pieces, one after the other.
func (s *session) many(ctx context.Context, stmts []*statement.Statement, text string) error {
	tx := s.status()
	if e := s.untold(stmts[0]); e != nil {
		return s.tellDoom(stmts[0], e)
	}
	reads := true
	for _, st := range stmts {
		if e := s.refusal(ctx, st, 'T'); e != nil && tx != 'E' {
			return s.refuse(e)
		}
		if st.Kind == statement.Session {
			s.setBlock(false)
		}
		switch st.Kind {
		case statement.Read, statement.Session:
			reads = reads && !st.Wrote() && !st.Unguards() && !st.Has(statement.Lasting)
		case statement.Write, statement.CopyFrom, statement.TempDDL, statement.Unknown, statement.Local:
			reads = false
		default:
			return s.pieces(ctx, stmts, text)
		}
		s.noteTemporary(st)
	}
	u := &unit{stmts: stmts, text: text}
	defer s.noteDefaults(stmts, text)
	switch {
	case tx != 'I':
		s.mu.Lock()
		s.block.ran = true
		s.mu.Unlock()
		return s.forward(false)
	case reads:
		return s.guard(u)
	}
	return s.runWrapped(ctx, u)
}

// unknownQuery runs a text that the lexer does not understand. It may hold several statements, a COMMIT among them, so
// it goes as one prepared statement: PostgreSQL refuses several there.
func (s *session) unknownQuery(ctx context.Context, text string) error {
	if e := s.untold(nil); e != nil {
		return s.refuse(e)
	}
	if e := s.admit(ctx, true); e != nil {
		return s.refuse(e)
	}
	s.setBlock(false)
	st := &statement.Statement{Kind: statement.Unknown, End: len(text)}
	u := &unit{stmts: []*statement.Statement{st}, text: text}
	// Replayable like a batch, but the answers to Parse and Bind are not for the client.
	s.batch = appendParse(s.batch[:0], "", text)
	at := []int{0, len(s.batch)}
	s.batch = appendBind(s.batch, "", "")
	at = append(at, len(s.batch))
	s.batch = appendDescribe(s.batch, 'P', "")
	at = append(at, len(s.batch))
	s.batch = appendExecute(s.batch, "")
	at = append(at, len(s.batch))
	for i, typ := range []byte("PBDE") {
		u.metas = append(u.metas, meta{typ: typ, off: at[i], n: at[i+1] - at[i], silent: typ != 'E' && typ != 'D', simple: true})
	}
	u.ext = true
	if s.status() == 'I' {
		return s.runWrapped(ctx, u)
	}
	s.resetStep(false)
	s.appendBatch(u.metas, false)
	s.sync(false)
	return s.send()
}

// longQuery runs a Query that is too long for the lexer: as one prepared statement, its text streamed through. It is not
// tried again.
func (s *session) longQuery(ctx context.Context, size int) error {
	e := s.untold(nil)
	if err := s.cr.fill(readBuffer); err != nil {
		return err
	}
	if _, control := statement.Control(string(s.cr.buf[s.cr.r+5 : s.cr.r+readBuffer])); e == nil && control && s.status() != 'E' {
		e = errUnreadable()
	}
	if e == nil {
		e = s.admit(ctx, true)
	}
	if e != nil {
		if err := s.cr.discard(size); err != nil {
			return err
		}
		return s.refuse(e)
	}
	s.setBlock(false)
	wrap := s.status() == 'I'
	s.resetStep(wrap)
	if wrap {
		s.hold(true)
		s.injectBegin()
	}
	if err := s.cr.discard(5); err != nil {
		return err
	}
	text := size - 5
	s.toBackend = append(s.toBackend, 'P')
	s.toBackend = binary.BigEndian.AppendUint32(s.toBackend, uint32(4+1+text+2))
	s.toBackend = append(s.toBackend, 0) // the unnamed statement
	s.mu.Lock()
	delete(s.stmts, "")
	s.block.ran = true
	s.push(expect{op: 'P', role: roleOurs, inj: injCount}, expect{op: 'B', role: roleOurs}, expect{op: 'D', quiet: true},
		expect{op: 'E'})
	s.mu.Unlock()
	if err := s.relay(text); err != nil {
		return err
	}
	s.toBackend = append(s.toBackend, 0, 0) // no parameter types
	s.toBackend = appendBind(s.toBackend, "", "")
	s.toBackend = appendDescribe(s.toBackend, 'P', "")
	s.toBackend = appendExecute(s.toBackend, "")
	s.sync(wrap)
	if err := s.send(); err != nil || !wrap {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	once := s.srv.conf.RetryAutocommit + 1
	_, err := s.conclude(ctx, &unit{stmts: []*statement.Statement{nil}}, s.takeStep(), false, now(), once)
	return err
}

// What is said of transaction control in a text that the lexer does not take.
const (
	unreadable     = "transaction control in a text that multimaster cannot read"
	unreadableHint = "Send it by itself, without comments."
)

func errUnreadable() *mtm.Error {
	return &mtm.Error{Code: mtm.CodeNotSupported, Msg: unreadable, Hint: unreadableHint}
}

func asErrorOrNil(err error) *mtm.Error {
	if err == nil {
		return nil
	}
	return asError(err)
}

// refuse answers a Query with an error, which in a block makes the block fail.
func (s *session) refuse(e *mtm.Error) error {
	s.srv.count.refused.Add(1)
	s.resetStep(false)
	s.provoke(e, false)
	s.sync(false)
	return s.send()
}

// refusal says why a statement may not run, if so. tx is the state in which it would.
func (s *session) refusal(ctx context.Context, st *statement.Statement, tx byte) *mtm.Error {
	switch st.Kind {
	case statement.Refused:
		return &mtm.Error{Code: mtm.CodeNotSupported, Msg: st.Why, Hint: st.Hint}
	case statement.PrepareTx, statement.FinishPrepared:
		if st.Kind == statement.PrepareTx && tx == 'T' { // it ends the block, also if it is refused
			return s.admit(ctx, true)
		}
		if e := refusalOfGID(st.GID); e != nil {
			return e
		}
		if st.Kind == statement.FinishPrepared && tx == 'T' {
			return &mtm.Error{Code: "25001", Msg: finishTag(st) + " cannot run inside a transaction block"}
		}
		return s.admit(ctx, true)
	case statement.Begin, statement.Commit, statement.Rollback, statement.Savepoint:
		return nil
	}
	if tx == 'T' && st.Has(statement.Concurrently) {
		what := "CREATE INDEX CONCURRENTLY"
		switch st.Verb {
		case "drop":
			what = "DROP INDEX CONCURRENTLY"
		case "alter":
			what = "ALTER TABLE ... DETACH CONCURRENTLY"
		}
		return &mtm.Error{Code: "25001", Msg: what + " cannot run inside a transaction block"}
	}
	if tx == 'T' && st.Has(statement.Exclusive) {
		return &mtm.Error{
			Code: mtm.CodeNotSupported, Msg: "a system catalog cannot be locked in a transaction block of a cluster",
			Detail: "Prepared with such a lock, the transaction would keep everybody out of the database.",
		}
	}
	if st.ReadsOrWrites() {
		if e := s.admit(ctx, st.Kind != statement.Read); e != nil {
			return e
		}
	}
	return s.announce(ctx, st)
}

func quoteByte(b byte) string { return fmt.Sprint(b) }

// hidePrepared closes the prepared statements of ours, so that the client does not see them.
func (s *session) hidePrepared() {
	s.mu.Lock()
	closed := false
	for i, have := range s.have {
		if have {
			s.toBackend = appendClose(s.toBackend, 'S', injectedName[i])
			s.push(expect{op: 'C', role: roleOurs})
			s.have[i] = false
			closed = true
		}
	}
	s.mu.Unlock()
	if closed {
		s.sync(true)
	}
}
