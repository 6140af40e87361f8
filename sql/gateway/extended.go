package gateway

import (
	"context"
	"encoding/binary"

	"mtm"
	"mtm/sql/statement"
)

// extended is the batch of extended messages that is being gathered: those since the last Sync.
type extended struct {
	open    bool   // some were sent to PostgreSQL already
	wrapped bool   // … in a block that the client does not see
	failed  bool   // one of those failed: the rest, up to Sync, is to be skipped
	ran     bool   // something was executed since the last answer was waited for
	ended   bool   // a block has ended since the last Sync
	reindex string // a REINDEX CONCURRENTLY that the other nodes run when it is done
	synced  bool   // the client's Sync is answered for already, but for telling him
	cur     byte   // state of the transaction behind what was sent
	metas   []meta // gathered in session.batch, not sent
}

// meta is one message of a batch.
type meta struct {
	typ    byte
	off, n int       // its bytes in session.batch
	name   string    // P, C: of the statement; B, E: of the portal
	source string    // B: of the statement
	def    *prepared // P: what it defines; B, E: what it runs
	was    *prepared // B: what its portal ran before
	portal bool      // C: closes a portal
	silent bool      // the answer is not for the client
	simple bool      // D: of a Query that runs as a prepared statement; the client is not told NoData
}

// maxMetas bounds how many messages are looked at together.
const maxMetas = 1000

// extendedMessage gathers a message, and deals with what was gathered at Sync, at Flush and when it gets much.
func (s *session) extendedMessage(ctx context.Context, typ byte, size int) error {
	if !s.ext.open && len(s.ext.metas) == 0 {
		if err := s.settle(ctx); err != nil {
			return err
		}
		s.newUnit()
		s.batch = s.batch[:0]
	}
	switch {
	case typ == 'S':
		if err := s.cr.discard(size); err != nil {
			return err
		}
		return s.syncBatch(ctx)
	case s.ext.failed:
		return s.cr.discard(size)
	case typ == 'H':
		if err := s.cr.discard(size); err != nil {
			return err
		}
		return s.flushBatch(ctx)
	}
	if len(s.ext.metas) > 0 && (len(s.batch)+size > batchLimit || len(s.ext.metas) >= maxMetas) {
		if err := s.steps(ctx, 0); err != nil || s.ext.failed {
			if err == nil {
				err = s.cr.discard(size)
			}
			return err
		}
	}
	if typ == 'B' && size > batchLimit {
		return s.largeBind(ctx, size)
	}
	m := meta{typ: typ, off: len(s.batch), n: size}
	var err error
	if s.batch, err = s.cr.appendTo(s.batch, size); err != nil {
		return err
	}
	if !s.describeMessage(&m, s.batch[m.off+5:]) {
		return protocolError("invalid message format")
	}
	s.ext.metas = append(s.ext.metas, m)
	return nil
}

// describeMessage reads what must be known of a message; false: it is malformed.
func (s *session) describeMessage(m *meta, body []byte) bool {
	switch m.typ {
	case 'P':
		name, rest, ok := cut(body)
		text, rest, ok2 := cut(rest)
		if !ok || !ok2 || len(rest) < 2 {
			return false
		}
		m.name = string(name)
		s.describeParse(m, string(text), rest)
	case 'B':
		portal, rest, ok := cut(body)
		source, _, ok2 := cut(rest)
		if !ok || !ok2 {
			return false
		}
		m.name, m.source = string(portal), string(source)
	case 'E':
		portal, rest, ok := cut(body)
		if !ok || len(rest) < 4 {
			return false
		}
		m.name = string(portal)
	case 'C', 'D':
		if len(body) < 2 {
			return false
		}
		name, _, ok := cut(body[1:])
		if !ok {
			return false
		}
		m.name, m.portal = string(name), body[0] == 'P'
	}
	return true
}

// describeParse classifies the text of a Parse, and gives a BEGIN the access mode that the guard would take from it.
func (s *session) describeParse(m *meta, text string, params []byte) {
	m.def = &prepared{}
	stmts, ok := s.split(text)
	if !ok {
		if bare, control := statement.Control(text); control {
			if stmts, ok = s.split(bare); bare != "" && ok {
				text = bare
				s.replaceParse(m, text, params)
				params = s.batch[m.off+m.n-len(params) : m.off+m.n]
			} else {
				m.def.stmt = &statement.Statement{Kind: statement.Refused, Why: unreadable, Hint: unreadableHint}
				return
			}
		}
	}
	if !ok || len(stmts) != 1 { // PostgreSQL refuses several; an empty one does nothing
		if ok && len(stmts) == 0 {
			m.def.stmt = &statement.Statement{Kind: statement.Session}
		}
		return
	}
	st := stmts[0]
	m.def.stmt = st
	if st.Kind == statement.DDL || st.Has(statement.Everywhere) {
		m.def.text = ddlText(st, text)
	} else if m.def.setsDefault() {
		m.def.text = st.Text(text)
	}
	switch {
	case st.Kind == statement.Begin && !st.Has(statement.AccessMode) && !s.clientReadOnly:
		s.replaceParse(m, writable(st, text), params)
	case len(st.Hide) > 0:
		m.def.hide = newHidden(text, st.Hide)
		s.replaceParse(m, statement.Apply(text, st.Hide), params)
	}
}

// replaceParse gives the Parse that was gathered last another text.
func (s *session) replaceParse(m *meta, text string, params []byte) {
	rest := string(params)
	b, at := begin(s.batch[:m.off], 'P')
	b = cstring(cstring(b, m.name), text)
	s.batch = end(append(b, rest...), at)
	m.n = len(s.batch) - m.off
}

// resolve finds out what each Execute runs, by the messages before it and what was prepared earlier.
func (s *session) resolve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parsed map[string]*prepared
	for i := range s.ext.metas {
		m := &s.ext.metas[i]
		switch m.typ {
		case 'P':
			if parsed == nil {
				parsed = make(map[string]*prepared, 1)
			}
			parsed[m.name] = m.def
		case 'B':
			def := parsed[m.source]
			if def == nil {
				def = s.pendingParse(m.source)
			}
			if def == nil {
				def = s.stmts[m.source]
			}
			if def == nil {
				def = &prepared{}
			}
			if m.def == nil {
				m.was = s.portals[m.name]
			}
			s.portals[m.name], m.def = def, def
		case 'E':
			m.def = s.portals[m.name]
			if m.def == nil {
				m.def = &prepared{}
			}
		}
	}
}

// pendingParse finds a Parse that was sent and not answered yet; mu is held.
func (s *session) pendingParse(name string) (def *prepared) {
	for _, e := range s.queue[s.head:] {
		if e.op == 'P' && e.role == roleClient && e.name == name {
			def = e.parse
		}
	}
	return def
}

// appendBatch appends messages as they are. again: they were sent before, so that named statements may exist.
func (s *session) appendBatch(metas []meta, again bool) {
	for _, m := range metas {
		s.appendMeta(m, again)
	}
}

func (s *session) appendMeta(m meta, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if again && m.typ == 'P' && m.name != "" {
		s.toBackend = appendClose(s.toBackend, 'S', m.name)
		s.push(expect{op: 'C', role: roleOurs})
	}
	s.toBackend = append(s.toBackend, s.batch[m.off:m.off+m.n]...)
	e := expect{op: m.typ, name: m.name}
	if m.silent {
		e.role, e.his = roleOurs, true
	}
	switch m.typ {
	case 'P':
		e.parse = m.def
	case 'B':
		e.parse = m.was
	case 'C':
		e.read = !m.portal
	case 'D':
		e.quiet = m.simple
	case 'E':
		e.read = m.kind() == statement.Read
	}
	s.push(e)
}

// kind is that of what an Execute runs.
func (m *meta) kind() statement.Kind {
	if m.def == nil || m.def.stmt == nil {
		return statement.Unknown
	}
	return m.def.stmt.Kind
}

// setsDefault reports whether it may change the client's default_transaction_read_only.
func (p *prepared) setsDefault() bool {
	return p.stmt != nil && p.stmt.SetsMode() && p.stmt.Has(statement.ShowsReadOnly)
}

// sets reports whether an Execute may change the block's access mode.
func (m *meta) sets() bool { return m.kind() == statement.Session || m.kind() == statement.Unknown }

// plain reports whether an Execute may run under the guard, outside of a block.
func (m *meta) plain() bool {
	switch m.kind() {
	case statement.Read, statement.Session:
		return !m.def.stmt.Wrote() && !m.def.stmt.Unguards()
	case statement.Local:
		return !m.def.stmt.Has(statement.Unguarded)
	}
	return false
}

// special reports whether an Execute needs more than to be passed on, even in a block.
func (m *meta) special() bool {
	switch m.kind() {
	case statement.Begin, statement.Commit, statement.Rollback, statement.Savepoint, statement.DDL, statement.CopyFrom,
		statement.Refused, statement.PrepareTx, statement.FinishPrepared:
		return true
	case statement.Local:
		return m.def.stmt.Has(statement.Unguarded)
	case statement.Read, statement.Session:
		return m.def.stmt.Has(statement.ShowsReadOnly)
	}
	return false
}

// syncBatch deals with what was gathered, now that its Sync is here.
func (s *session) syncBatch(ctx context.Context) error {
	s.srv.count.statements.Add(1)
	if s.ext.open {
		return s.steps(ctx, 'S')
	}
	metas := s.ext.metas
	s.resolve()
	tx := s.status()
	var ran []*statement.Statement
	bound := 0
	plain, special, unguarded := true, false, false
	for i := range metas {
		m := &metas[i]
		if m.typ == 'B' {
			bound++
		}
		if m.typ != 'E' {
			continue
		}
		if m.sets() {
			s.setBlock(false)
		}
		ran = append(ran, m.def.stmt)
		plain = plain && m.plain()
		special = special || m.special()
		unguarded = unguarded || m.kind() == statement.Local && m.def.stmt.Has(statement.Unguarded)
		if m.def.stmt != nil {
			s.noteTemporary(m.def.stmt)
		}
		if e := s.refusalOf(ctx, m, tx); e != nil {
			special = true
		}
	}
	switch {
	case tx == 'T' && s.hasUntold():
		return s.steps(ctx, 'S')
	case tx == 'E' && !special || len(ran) == 0:
	case unguarded && tx == 'I' && !s.clientReadOnly && len(ran) == 1 && bound == 1:
		return s.unguardedBatch(ctx, metas)
	case special:
		return s.steps(ctx, 'S')
	case tx == 'I':
		u := &unit{stmts: ran, metas: metas, ext: true}
		if plain {
			return s.guardBatch(ctx, u)
		}
		u.fast = !s.clientReadOnly && len(ran) == 1 && ran[0] != nil && ran[0].Has(statement.PlainDML) && ran[0].Kind == statement.Write
		s.ext.metas = nil
		err := s.runWrapped(ctx, u)
		s.ext.metas = metas[:0]
		return err
	}
	s.resetStep(false)
	s.appendBatch(metas, false)
	s.ext.metas = metas[:0]
	s.sync(false)
	return s.send()
}

// guardBatch is guard, for a batch.
func (s *session) guardBatch(ctx context.Context, u *unit) error {
	s.hold(false)
	s.mu.Lock()
	s.step = step{}
	s.catch, s.guarded = true, u
	s.mu.Unlock()
	s.appendBatch(u.metas, false)
	s.ext.metas = nil // the unit keeps them
	s.sync(false)
	return s.send()
}

// refusalOf is refusal, for an Execute.
func (s *session) refusalOf(ctx context.Context, m *meta, tx byte) *mtm.Error {
	if tx == 'E' {
		return nil
	}
	st := m.def.stmt
	if st == nil {
		return s.admit(ctx, true)
	}
	return s.refusal(ctx, st, tx)
}

// flushBatch deals with what was gathered, for a client that waits for answers before it sends its Sync.
func (s *session) flushBatch(ctx context.Context) error {
	if err := s.steps(ctx, 'H'); err != nil || s.ext.failed {
		return err
	}
	return nil
}

// largeBind passes on a Bind with large parameters, in pieces.
func (s *session) largeBind(ctx context.Context, size int) error {
	if err := s.cr.fill(readBuffer); err != nil {
		return err
	}
	head := s.cr.buf[s.cr.r : s.cr.r+readBuffer]
	m := meta{typ: 'B'}
	if !s.describeMessage(&m, head[5:]) {
		return protocolError("invalid message format")
	}
	s.ext.metas = append(s.ext.metas, m)
	if err := s.steps(ctx, 0); err != nil {
		return err
	}
	if s.ext.failed {
		return s.cr.discard(size)
	}
	s.mu.Lock()
	s.push(expect{op: 'B'})
	s.mu.Unlock()
	return s.relay(size)
}

// leaveBatch ends what was gathered, or sent, since the last Sync, before a Query or a FunctionCall that comes without one (asyncpg
// prepares a statement so). false: something failed, and the message of size bytes was skipped, as all are up to Sync.
func (s *session) leaveBatch(ctx context.Context, size int) (bool, error) {
	if len(s.ext.metas) > 0 {
		if err := s.steps(ctx, 'H'); err != nil {
			return false, err
		}
	}
	if s.ext.open && !s.ext.failed {
		switch {
		case s.ext.wrapped: // PostgreSQL would commit both together
			return false, protocolError("Query or FunctionCall after what was bound or executed without a Sync")
		case s.copying():
			return false, protocolError("unexpected Query or FunctionCall during COPY from stdin")
		}
		s.sync(true)
		if err := s.send(); err != nil {
			return false, err
		}
		if err := s.waitReady(); err != nil {
			return false, err
		}
		s.ext.failed = s.hasFailed()
	}
	if s.ext.failed {
		return false, s.cr.discard(size)
	}
	s.ext = extended{metas: s.ext.metas[:0]}
	return true, nil
}

// functionCall is the fast-path interface: large objects use it. It may write, so it runs in a block.
func (s *session) functionCall(ctx context.Context, size int) error {
	if ok, err := s.leaveBatch(ctx, size); err != nil || !ok {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.newUnit()
	if size > maxFunctionCall {
		return protocolError("function call message is too long")
	}
	var err error
	if s.batch, err = s.cr.appendTo(s.batch[:0], size); err != nil {
		return err
	}
	tx := s.status()
	if e := s.untold(nil); e != nil {
		return s.refuse(e)
	}
	if tx != 'E' {
		if len(s.batch) >= 9 && writesLargeObject[binary.BigEndian.Uint32(s.batch[5:])] {
			return s.refuse(&mtm.Error{Code: mtm.CodeNotSupported, Msg: statement.LargeObjects, Hint: "Use a column of type bytea."})
		}
		if e := s.admit(ctx, true); e != nil {
			return s.refuse(e)
		}
	}
	wrap := tx == 'I'
	if wrap {
		s.hold(true)
		s.injectBegin()
	}
	s.resetStep(wrap)
	s.toBackend = append(s.toBackend, s.batch...)
	s.mu.Lock()
	s.block.ran = true
	s.push(expect{op: 'F', quiet: wrap})
	s.mu.Unlock()
	if err := s.send(); err != nil || !wrap {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	_, err = s.conclude(ctx, &unit{stmts: []*statement.Statement{nil}}, s.takeStep(), false, now(), s.srv.conf.RetryAutocommit+1)
	return err
}

// writesLargeObject has the functions of libpq's interface that write, by their fixed OIDs: lowrite, lo_creat, lo_create, lo_unlink,
// lo_truncate, lo_truncate64, lo_from_bytea, lo_put.
var writesLargeObject = map[uint32]bool{
	955: true, 957: true, 715: true, 964: true, 1004: true, 3172: true, 3457: true, 3460: true,
}

// maxFunctionCall bounds a FunctionCall, in bytes: it is gathered whole.
const maxFunctionCall = 16 << 20
