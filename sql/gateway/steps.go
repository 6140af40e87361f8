package gateway

import (
	"context"
	"slices"
	"strings"
	"time"

	"mtm"
	"mtm/sql/statement"
)

func now() uint64 { return uint64(time.Now().UnixMicro()) }

// steps sends what was gathered, message by message, with what must be done before, after or instead of each. end says
// what follows: 'S', the client's Sync; 'H', his Flush; 0, more messages.
func (s *session) steps(ctx context.Context, end byte) error {
	if !s.ext.open {
		s.ext.open, s.ext.cur = true, s.status()
		s.ext.wrapped, s.ext.failed, s.ext.ran = false, false, false
		s.resetStep(false)
	}
	s.resolve()
	metas := s.ext.metas
	var err error
	for i := range metas {
		if s.ext.failed {
			break
		}
		if s.ext.cur == 'I' && !s.ext.wrapped && needsBlock(metas[i:], end, s.ext.ended) {
			s.inPipeline(s.injectBegin)
			s.ext.wrapped = true
		}
		if end, err = s.step1(ctx, &metas[i], i == len(metas)-1, end); err != nil {
			return err
		}
	}
	s.ext.metas = metas[:0]
	s.batch = s.batch[:0]
	if end == 'S' {
		return s.endBatch(ctx)
	}
	if s.ext.failed {
		if end == 'H' {
			s.toBackend = appendFlush(s.toBackend)
		}
		return s.send()
	}
	if s.ext.cur == 'I' && !s.ext.wrapped {
		// Only Parse, Describe and Close so far. What comes may need a block, and one that may write cannot begin once
		// a Parse has looked at the catalog: end PostgreSQL's transaction, which did nothing.
		s.sync(true)
		if err := s.send(); err != nil {
			return err
		}
		if err := s.waitReady(); err != nil {
			return err
		}
		s.ext.failed = s.hasFailed()
		return nil
	}
	if end == 'H' {
		s.toBackend = appendFlush(s.toBackend)
	}
	return s.send()
}

func (s *session) hasFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.step.err != nil
}

// needsBlock reports whether what comes, up to the next transaction control, must run in a block. If not all of it is
// known yet, it must. ended: a transaction has ended since the last Sync, and what it did to the guard may have been committed.
func needsBlock(metas []meta, end byte, ended bool) bool {
	ran := false // PostgreSQL has begun a transaction by then, which BEGIN could not make one that writes, or one that may turn out to write
	for i := range metas {
		m := &metas[i]
		switch {
		case m.typ == 'B' && end != 'S':
			return ran || !controls(metas[i:])
		case m.typ == 'P':
			ran = ran || m.kind() == statement.Read || m.kind() == statement.Write
		case m.typ != 'E':
		case m.kind() == statement.Begin, m.kind() == statement.Commit, m.kind() == statement.Rollback:
			return ran
		case m.kind() == statement.PrepareTx, m.kind() == statement.FinishPrepared:
			return false
		case !m.plain():
			return m.kind() != statement.Savepoint
		case end != 'S', ended && m.kind() != statement.Local:
			return true
		default:
			ran = true
		}
	}
	return false
}

// controls reports whether the first thing bound here is transaction control.
func controls(metas []meta) bool {
	for i := range metas {
		if metas[i].typ == 'E' {
			switch metas[i].kind() {
			case statement.Begin, statement.Commit, statement.Rollback, statement.PrepareTx, statement.FinishPrepared:
				return true
			}
			return false
		}
	}
	return false
}

// step1 deals with one message. It returns end, or 0 if the client's Sync is not to be passed on.
func (s *session) step1(ctx context.Context, m *meta, last bool, end byte) (byte, error) {
	if m.typ == 'B' && s.tellBind(m) || m.n == 0 { // a large Bind follows
		return end, nil
	}
	if m.typ != 'E' {
		s.appendMeta(*m, false)
		return end, nil
	}
	tx := s.ext.cur
	if s.ext.wrapped {
		tx = 'T'
	}
	if e := s.untold(m.def.stmt); e != nil {
		if m.def.stmt != nil && m.def.stmt.EndsBlock() {
			s.inPipeline(func() { s.inject(injRollback, roleOurs) })
		}
		s.provoke(e, false)
		s.ext.failed = true
		return end, nil
	}
	if m.def.stmt != nil {
		if characteristics, ours := s.chainAfterFailure(m.def.stmt); ours && tx == 'E' {
			return end, s.chainStep(characteristics)
		}
	}
	if e := s.refusalOf(ctx, m, s.outside(m, tx)); e != nil {
		s.srv.count.refused.Add(1)
		s.provoke(e, false)
		s.ext.failed = true
		return end, nil
	}
	if m.def.stmt != nil {
		s.noteTemporary(m.def.stmt)
	}
	if (m.kind() == statement.Begin || m.kind() == statement.Rollback) && (s.ext.wrapped || s.ext.ran || s.earlier(m.def)) {
		// If what precedes it has failed it is skipped, and the block is ended at Sync if it is ours, else not at all.
		ran := s.ext.ran
		if err := s.drain(); err != nil || s.ext.failed {
			return end, err
		}
		s.ext.ran = ran
	}
	if m.sets() {
		s.setBlock(false)
	}
	if m.kind() == statement.Rollback {
		s.noteChain(m.def.stmt, tx)
	}
	switch m.kind() {
	case statement.Begin:
		if tx == 'I' && !s.ext.ran {
			s.yield(ctx)
		}
		s.setBlock(s.ext.cur == 'I' && !s.ext.wrapped && !s.ext.ran && m.def.stmt.Has(statement.AccessMode|statement.ReadOnly))
		if s.ext.cur == 'T' && !m.def.stmt.Has(statement.AccessMode) {
			return end, s.beginAgain(m)
		}
		s.appendMeta(*m, false)
		if s.ext.wrapped { // an isolation level may be refused
			ran := s.ext.ran
			if err := s.drain(); err != nil || s.ext.failed {
				return end, err
			}
			s.ext.ran = ran
		}
		if s.ext.cur == 'I' {
			s.ext.cur, s.ext.wrapped = 'T', false
		}
		return end, nil
	case statement.Commit:
		if tx == 'T' {
			return end, s.commitStep(ctx, m, tx, last && end == 'S')
		}
	case statement.PrepareTx, statement.FinishPrepared:
		if tx == 'T' || tx == 'I' && m.kind() == statement.FinishPrepared {
			return end, s.userStep(ctx, m)
		}
	case statement.Rollback:
		if !m.def.stmt.Has(statement.Chain) {
			s.ext.cur, s.ext.wrapped = 'I', false
		}
		s.ext.ended = true
	case statement.DDL:
		if tx == 'T' {
			s.inPipeline(func() { s.injectDDL(m.def.stmt, m.def.text) })
			s.appendMeta(*m, false)
			s.inPipeline(func() { s.injectDDLEnd(m.def.stmt) })
			s.ext.ran = true
			return end, nil
		}
	case statement.Local:
		if s.reindexes(m.def.stmt, tx) {
			s.ext.reindex = m.def.text
		}
	case statement.CopyFrom:
		return s.copyStep(m, end)
	case statement.Read, statement.Session:
		if m.def.setsDefault() {
			defer s.noteDefault(m.def.stmt, m.def.text)
		} else if m.def.stmt.Has(statement.ShowsReadOnly) && tx == 'T' && !s.clientReadOnly {
			s.inPipeline(func() { s.inject(injShowOff, roleOurs) })
		}
	}
	s.appendMeta(*m, false)
	s.ext.ran = true
	return end, nil
}

// tellBind fails a Bind with what untold gives. Transaction control is told at its Execute, where it would take effect.
func (s *session) tellBind(m *meta) bool {
	switch m.kind() {
	case statement.Commit, statement.Rollback, statement.PrepareTx:
		return false
	}
	if s.status() == 'E' { // PostgreSQL says so itself
		return false
	}
	e := s.untold(m.def.stmt)
	if e == nil {
		return false
	}
	s.provoke(e, false)
	s.ext.failed = true
	return true
}

// copyStep begins a COPY FROM. If data is to come from the client, his Sync is none: PostgreSQL ignores it during COPY,
// and he sends another.
func (s *session) copyStep(m *meta, end byte) (byte, error) {
	s.appendMeta(*m, false)
	s.ext.ran = true
	s.mu.Lock()
	s.block.ran = true
	s.mu.Unlock()
	s.toBackend = appendFlush(s.toBackend)
	if err := s.send(); err != nil {
		return end, err
	}
	if err := s.wait(func() bool { return s.copyIn || s.skipping || s.owed() == 0 }); err != nil {
		return end, err
	}
	if s.copying() && end == 'S' {
		return 0, nil
	}
	return end, nil
}

// drain waits until everything that was sent is answered; ext.failed says if something failed.
func (s *session) drain() error {
	s.toBackend = appendFlush(s.toBackend)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitDrained(); err != nil {
		return err
	}
	s.ext.ran = false
	s.ext.failed = s.ext.failed || s.isSkipping()
	return nil
}

func (s *session) isSkipping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipping
}

// commitStep is the Execute of a COMMIT. Whatever precedes it has been answered before the right to prepare is asked for.
func (s *session) commitStep(ctx context.Context, m *meta, tx byte, last bool) error {
	s.ext.ended = true
	if s.ext.ran || s.knownE() {
		if err := s.drain(); err != nil || s.ext.failed {
			return err
		}
	}
	chain := m.def.stmt.Has(statement.Chain)
	characteristics := ""
	s.mu.Lock()
	b, temporary := s.block, s.temporary
	s.mu.Unlock()
	if chain || !b.ddl && (b.readOnly || temporary || !b.wrote) {
		fate, text, err := s.probeStep(b, temporary, chain)
		if err != nil || s.ext.failed {
			return err
		}
		if fate == fateHolds && chain {
			s.inject(injCommit, roleOurs)
			if err := s.drain(); err != nil {
				return err
			}
			if s.ext.failed {
				s.tellOurs()
				return nil
			}
			return s.committedStep(true, text)
		}
		if fate != fatePrepare {
			s.srv.count.plainCommits.Add(1)
			s.noteChain(m.def.stmt, tx)
			s.appendMeta(*m, false)
			if !chain {
				s.ext.cur, s.ext.wrapped = 'I', false
			}
			return nil
		}
		characteristics = text
	}
	open, failure, err := s.staysOpen()
	if err != nil {
		return err
	}
	if failure != nil {
		s.failCommit(failure)
		return nil
	}
	if open {
		return s.openStep(ctx, chain, characteristics)
	}
	if e := s.mayPrepare(ctx, now()); e != nil {
		s.failCommit(e)
		return nil
	}
	return s.prepareStep(ctx, chain, characteristics, last)
}

// failCommit answers the Execute of a COMMIT that fails: that ends the block.
func (s *session) failCommit(e *mtm.Error) {
	s.inPipeline(func() { s.inject(injRollback, roleOurs) })
	s.provoke(e, false)
	s.ext.cur, s.ext.wrapped, s.ext.failed = 'I', false, true
}

// outside is the state of the transaction as the client knows it: the block that he does not see is none, for the statement that began it.
func (s *session) outside(m *meta, tx byte) byte {
	if s.ext.wrapped && !s.ext.ran && m.def.stmt != nil && m.def.stmt.Has(statement.Concurrently) {
		return s.ext.cur
	}
	return tx
}

// chainStep is the Execute of COMMIT or ROLLBACK AND CHAIN in a failed block.
func (s *session) chainStep(characteristics string) error {
	s.inPipeline(func() {
		s.inject(injRollback, roleOurs)
		s.injectText("BEGIN"+characteristics+" READ WRITE", roleOurs)
	})
	s.ext.cur = 'T'
	if err := s.drain(); err != nil || s.ext.failed {
		return err
	}
	s.chained(characteristics)
	s.emit(appendComplete(nil, "ROLLBACK"))
	return nil
}

// knownE reports whether answers are owed that may fail the block, other than to Parse and Bind.
func (s *session) knownE() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.queue[s.head:] {
		if e.op == 'E' {
			return true
		}
	}
	return false
}

// earlier reports whether answers are owed to messages before those about def, of which one may be an error.
func (s *session) earlier(def *prepared) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queue[s.head:]
	for i := len(queue) - 1; i >= 0; i-- {
		if queue[i].op == 'B' {
			return slices.ContainsFunc(queue[:i], func(e expect) bool { return e.op != 'C' && (e.op != 'P' || e.parse != def) })
		}
	}
	return len(queue) > 0
}

// probeStep asks how the block may commit, and for its characteristics.
func (s *session) probeStep(b block, temporary, chain bool) (f fate, text string, err error) {
	if b.readOnly && !b.wrote && !b.ddl {
		return fatePlain, "", nil
	}
	ask := func(which ...injected) (string, error) {
		s.resetStep(false)
		for _, w := range which {
			s.inject(w, roleAsk)
		}
		err := s.drain()
		if err == nil && s.ext.failed {
			s.tellOurs()
		}
		return s.takeStep().value, err
	}
	if !b.ddl && (temporary || !b.wrote) {
		value, err := ask(injLocks)
		if (value == wroteElse || value == wroteHolds) && err == nil && !s.ext.failed {
			value, err = ask(injImmediate, injLocks)
		}
		if f = b.fate(value); err != nil || s.ext.failed {
			return f, "", err
		}
		if f == fateHolds {
			if _, err := ask(injReadOnly); err != nil || s.ext.failed {
				return f, "", err
			}
		}
	}
	if chain && f != fatePlain {
		text, err = ask(injCharacteristics)
	}
	return f, text, err
}

// tellOurs tells the client the error of what was injected for an Execute of his.
func (s *session) tellOurs() {
	if st := s.takeStep(); !st.shown && st.raw != nil {
		s.emit(st.raw)
	}
}

// beginAgain is the Execute of a BEGIN in a block: PostgreSQL warns, and does nothing. The text that it knows says READ WRITE.
func (s *session) beginAgain(m *meta) error {
	if s.ext.ran || s.knownE() {
		if err := s.drain(); err != nil || s.ext.failed {
			return err
		}
	}
	s.resetStep(false)
	s.inject(injBeginDefault, roleOurs)
	if err := s.drain(); err != nil {
		return err
	}
	if s.ext.failed {
		s.tellOurs()
		return nil
	}
	s.emit(appendComplete(nil, strings.ToUpper(m.def.stmt.Verb)))
	return nil
}

// prepareStep prepares the block, waits for its fate, and answers the Execute. last: the client's Sync follows.
func (s *session) prepareStep(ctx context.Context, chain bool, characteristics string, last bool) error {
	s.resetStep(false)
	s.appendPrepare()
	var err error
	if s.ext.synced = last && !chain; s.ext.synced {
		s.sync(true)
		if err = s.send(); err == nil {
			err = s.waitReady()
		}
	} else {
		err = s.drain()
	}
	if err != nil {
		return err
	}
	st := s.takeStep()
	s.reportPrepared(st)
	s.ext.cur, s.ext.wrapped = 'I', false
	if !st.prepare {
		// PostgreSQL skips up to Sync, as it would have had COMMIT itself failed.
		s.ext.failed = true
		if !st.shown {
			s.emit(st.raw)
		}
		return nil
	}
	if e := s.outcome(ctx, s.takeGID()); e != nil {
		s.ext.failed = true
		if s.ext.synced {
			s.emit(appendError(nil, 'E', "ERROR", e))
		} else {
			s.provoke(e, false)
		}
		return nil
	}
	return s.committedStep(chain, characteristics)
}

// committedStep answers the Execute of a COMMIT that is done.
func (s *session) committedStep(chain bool, characteristics string) error {
	if chain {
		s.injectText("BEGIN"+characteristics+" READ WRITE", roleOurs)
		s.ext.cur = 'T'
		if err := s.drain(); err != nil {
			return err
		}
	}
	s.chained(characteristics)
	s.emit(appendComplete(nil, "COMMIT"))
	return nil
}

// endBatch deals with the client's Sync.
func (s *session) endBatch(ctx context.Context) error {
	wrapped := s.ext.wrapped
	defer func() { s.ext = extended{metas: s.ext.metas[:0]} }()
	switch {
	case s.ext.synced:
		s.release(appendReady(nil, s.status()))
		return nil
	case s.ext.reindex != "":
		return s.reindexBatch(ctx, s.ext.reindex)
	case !wrapped:
		s.sync(false)
		return s.send()
	}
	s.sync(true)
	if err := s.send(); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		return err
	}
	if s.status() != 'T' {
		if err := s.rollback(); err != nil {
			return err
		}
		s.release(appendReady(nil, 'I'))
		return nil
	}
	failure, err := s.finish(ctx, now())
	if err != nil {
		return err
	}
	if failure != nil {
		s.release(appendReady(appendError(nil, 'E', "ERROR", failure), 'I'))
		return nil
	}
	s.release(appendReady(nil, 'I'))
	return nil
}
