package gateway

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mtm"
	"mtm/sql/statement"
)

// This file is about the client's own two-phase commit. PREPARE TRANSACTION 'x' prepares the block under a name of ours, then
// commits, as any transaction is committed, one that announces it by the client's name. COMMIT PREPARED and ROLLBACK PREPARED are a
// transaction that orders it. Package logrep's user.go says what the nodes make of that.

// maxGID is PostgreSQL's GIDSIZE, in bytes.
const maxGID = 200

// refusalOfGID says why a client may not use the name of a prepared transaction.
func refusalOfGID(gid string) *mtm.Error {
	switch {
	case strings.HasPrefix(gid, mtm.GIDPrefix):
		return &mtm.Error{
			Code: mtm.CodeReservedName, Msg: fmt.Sprintf("transaction identifier %q is reserved", gid),
			Detail: fmt.Sprintf("Identifiers that begin with %q belong to multimaster.", mtm.GIDPrefix),
		}
	case len(gid) >= maxGID:
		return &mtm.Error{Code: mtm.CodeReservedName, Msg: fmt.Sprintf("transaction identifier %q is too long", gid)}
	}
	return nil
}

// quoteLiteral quotes for standard_conforming_strings = on as well as off.
func quoteLiteral(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// prepareUser prepares the open block for the client, as name, on all nodes. failure: it is rolled back everywhere.
func (s *session) prepareUser(ctx context.Context, name string) (failure *mtm.Error, err error) {
	e := refusalOfGID(name)
	if e == nil {
		e = s.mayPrepare(ctx, now())
	}
	if e != nil {
		return e, s.rollback()
	}
	s.setCalm(true)
	defer s.setCalm(false)
	user := quoteLiteral(s.gid.UserName())
	s.srv.conf.Commits.Announce(s.gid)
	s.resetStep(false)
	s.inject(injEmit, roleAsk)
	s.injectText("PREPARE TRANSACTION "+user, rolePrepare)
	st, err := s.carry()
	if err != nil {
		return nil, err
	}
	if !st.prepare {
		return s.notPrepared(st)
	}
	s.warnSerializable(st.value)
	s.resetStep(false)
	s.injectText("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", roleOurs)
	s.injectText("SELECT mtm.announce_prepared("+user+", "+quoteLiteral(name)+")", roleOurs)
	s.appendPrepare()
	if st, err = s.carry(); err != nil {
		return nil, err
	}
	if !st.prepare {
		st.err = without(st.err)
		if err := s.rollback(); err != nil {
			return nil, err
		}
		s.resetStep(false)
		s.injectText("ROLLBACK PREPARED "+user, roleOurs)
		undo, err := s.carry()
		if err != nil {
			return nil, err
		}
		if undo.err != nil { // the daemon does it
			s.mu.Lock()
			gid := s.gid
			s.gid = mtm.GID{}
			s.mu.Unlock()
			s.srv.conf.Commits.Prepared(gid, st.err, true)
			return st.err, nil
		}
		return s.notPrepared(st)
	}
	s.reportPrepared(st)
	return s.outcome(ctx, s.takeGID()), nil
}

// notPrepared ends a try that failed in this PostgreSQL.
func (s *session) notPrepared(st step) (*mtm.Error, error) {
	if st.err == nil {
		st.err = &mtm.Error{Code: "25P02", Msg: "transaction was rolled back"}
	}
	s.reportPrepared(st)
	return st.err, s.rollback()
}

// without gives an error of ours without its place in a function of ours.
func without(e *mtm.Error) *mtm.Error {
	if e == nil {
		return nil
	}
	return &mtm.Error{Code: e.Code, Msg: e.Msg, Detail: e.Detail, Hint: e.Hint}
}

// finishUser ends what a client prepared as name, on all nodes. No block may be open.
func (s *session) finishUser(ctx context.Context, name string, commit bool) (failure *mtm.Error, err error) {
	age := now()
	for n := 0; ; n++ {
		s.mu.Lock()
		s.block, s.cause = block{}, nil
		s.mu.Unlock()
		s.resetStep(false)
		s.injectText("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", roleOurs)
		s.injectText("SELECT mtm.finish_prepared("+quoteLiteral(name)+", "+strconv.FormatBool(commit)+")", roleOurs)
		st, err := s.carry()
		if err != nil {
			return nil, err
		}
		failure := without(st.err)
		if failure != nil {
			err = s.rollback()
		} else {
			failure, err = s.prepareBlock(ctx, age)
		}
		s.mu.Lock()
		canceled := s.canceled
		s.preparing = false
		s.mu.Unlock()
		if err != nil || failure == nil || canceled || !mtm.SafeToRetry(failure) || n >= s.srv.conf.RetryAutocommit {
			return failure, err
		}
		s.srv.count.retried.Add(1)
		time.Sleep(time.Duration(n*n) * time.Millisecond)
	}
}

// finishTag is the tag of the statement that ends a prepared transaction.
func finishTag(st *statement.Statement) string {
	if st.Has(statement.Commits) {
		return "COMMIT PREPARED"
	}
	return "ROLLBACK PREPARED"
}

// aboutUser deals with PREPARE TRANSACTION in a block, and with what ends a prepared one, as a simple Query.
func (s *session) aboutUser(ctx context.Context, st *statement.Statement) error {
	tag := "PREPARE TRANSACTION"
	var failure *mtm.Error
	var err error
	if st.Kind == statement.PrepareTx {
		failure, err = s.prepareUser(ctx, st.GID)
	} else {
		tag = finishTag(st)
		failure, err = s.finishUser(ctx, st.GID, st.Has(statement.Commits))
	}
	switch {
	case err != nil:
		return err
	case failure != nil:
		s.fail(failure, 'I')
	default:
		s.release(appendReady(appendComplete(nil, tag), s.status()))
	}
	return nil
}

// userStep is the Execute of such a statement.
func (s *session) userStep(ctx context.Context, m *meta) error {
	if s.ext.ran || s.knownE() {
		if err := s.drain(); err != nil || s.ext.failed {
			return err
		}
	}
	st := m.def.stmt
	tag := "PREPARE TRANSACTION"
	var failure *mtm.Error
	var err error
	if st.Kind == statement.PrepareTx {
		var open bool
		if open, failure, err = s.staysOpen(); err == nil && failure == nil && open {
			s.inPipeline(func() { s.inject(injForbid, roleOurs) })
			s.appendMeta(*m, false)
			s.ext.cur, s.ext.wrapped = 'I', false
			return s.drain()
		}
		switch {
		case err != nil:
		case failure != nil:
			s.inPipeline(func() { s.inject(injRollback, roleOurs) })
		default:
			failure, err = s.prepareUser(ctx, st.GID)
		}
	} else {
		tag = finishTag(st)
		failure, err = s.finishUser(ctx, st.GID, st.Has(statement.Commits))
	}
	if err != nil {
		return err
	}
	s.ext.cur, s.ext.wrapped = 'I', false
	if failure != nil {
		s.ext.failed = true
		s.provoke(failure, false)
		return nil
	}
	s.chained("")
	s.emit(appendComplete(nil, tag))
	return nil
}

// userPiece is PREPARE TRANSACTION among several statements. Of a block that nobody began PostgreSQL warns, and prepares it.
func (s *session) userPiece(ctx context.Context, st *statement.Statement, implicit bool) (stop bool, err error) {
	s.release(nil)
	if implicit {
		s.warnNoBlock()
	}
	open, failure, err := s.staysOpen()
	if open {
		failure, err = s.forbidden(st)
	} else if err == nil && failure == nil {
		failure, err = s.prepareUser(ctx, st.GID)
	}
	if err != nil {
		return true, err
	}
	if failure != nil {
		s.release(appendError(nil, 'E', "ERROR", failure))
		return true, s.rollback()
	}
	s.release(appendComplete(nil, "PREPARE TRANSACTION"))
	return false, nil
}

// forbidden is PostgreSQL's error for a block that it does not prepare.
func (s *session) forbidden(st *statement.Statement) (*mtm.Error, error) {
	s.resetStep(false)
	s.inject(injForbid, roleOurs)
	s.injectText("PREPARE TRANSACTION "+quoteLiteral(st.GID), roleOurs)
	res, err := s.carry()
	return res.err, err
}
