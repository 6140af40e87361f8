package gateway

import (
	"context"
	"regexp"
	"strings"

	"mtm"
	"mtm/sql/statement"
)

// injectDDL tells the other nodes, in the stream of changes, what statement comes. In a session that has temporary
// objects it does so only if the statement is not about one of them, and says what LIKE means. What the statement itself writes ends with
// injectDDLEnd.
func (s *session) injectDDL(st *statement.Statement, text string) {
	if st.Has(statement.Roles) {
		s.inject(injNoteRoles, roleOurs)
		return
	}
	s.mu.Lock()
	temporary := s.temporary
	s.mu.Unlock()
	if like := st.Like; temporary && like.Len > 0 {
		at := like.At - st.Start
		s.inject(injDDLLike, roleOurs, text[:at], st.Target, text[at+like.Len:], like.Text)
		return
	}
	if temporary && len(st.Several) > 0 {
		at := st.SeveralAt.At - st.Start
		s.inject(injDDLSeveral, roleOurs, text[:at], text[at+st.SeveralAt.Len:], arrayOf(st.Several))
		return
	}
	if temporary && st.Target != "" {
		s.inject(injDDLUnlessTemp, roleOurs, text, st.Target)
		return
	}
	if st.Runs != "" {
		s.inject(injDDLExecute, roleOurs, text, st.Runs)
		return
	}
	s.inject(injDDL, roleOurs, text)
}

func (s *session) injectDDLEnd(st *statement.Statement) {
	if st.Has(statement.Roles) {
		s.inject(injTellRoles, roleDDLEnd)
		return
	}
	s.inject(injDDLEnd, roleDDLEnd)
}

// arrayOf is an array of texts, as PostgreSQL reads it.
func arrayOf(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(t) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

// pieces runs a Query of several statements, with transaction control or DDL among them, one statement after the other.
// What is outside of explicit blocks runs in one that the client does not see, as PostgreSQL would have it.
func (s *session) pieces(ctx context.Context, stmts []*statement.Statement, text string) error {
	for _, st := range stmts {
		if e := s.announce(ctx, st); e != nil {
			return s.refuse(e)
		}
	}
	implicit := false
	age := now()
	s.mu.Lock()
	s.hide = nil // the pieces are sent as they are, but for setval
	s.mu.Unlock()
	for _, st := range stmts {
		var stop bool
		var err error
		implicit, stop, err = s.piece(ctx, st, text, implicit, age)
		if err != nil {
			return err
		}
		if stop {
			return s.endPieces(implicit)
		}
	}
	if implicit {
		failure, err := s.finish(ctx, age)
		if err != nil {
			return err
		}
		if failure != nil {
			s.fail(failure, 'I')
			return nil
		}
	}
	s.release(appendReady(nil, s.status()))
	return nil
}

// endPieces ends a Query of which a statement failed.
func (s *session) endPieces(implicit bool) error {
	if implicit {
		if err := s.rollback(); err != nil {
			return err
		}
	}
	s.release(appendReady(nil, s.status()))
	return nil
}

// piece runs one statement of several. stop: it failed.
func (s *session) piece(ctx context.Context, st *statement.Statement, text string, implicit bool, age uint64) (bool, bool, error) {
	tx := s.status()
	piece := s.hidePiece(st, text)
	s.noteTemporary(st)
	if e := outsideBlock(st, piece); e != nil && implicit && tx != 'E' {
		s.release(appendError(nil, 'E', "ERROR", e))
		return true, true, nil
	}
	if st.Kind == statement.Rollback {
		s.noteChain(st, tx)
	}
	switch {
	case st.Kind == statement.Begin && implicit:
		stop, err := s.beginPiece(piece)
		return stop, stop, err
	case st.Kind == statement.Begin && tx == 'I':
		s.setBlock(st.Has(statement.AccessMode | statement.ReadOnly))
		if !st.Has(statement.AccessMode) && !s.clientReadOnly {
			piece += " READ WRITE"
		}
	case st.Kind == statement.Commit && tx == 'T':
		if implicit {
			s.warnNoBlock()
		}
		return s.commitPiece(ctx, st, age)
	case st.Kind == statement.PrepareTx && tx == 'T':
		stop, err := s.userPiece(ctx, st, implicit)
		return false, stop, err
	case st.Kind == statement.PrepareTx:
	case st.Kind == statement.Rollback && implicit:
		s.warnNoBlock()
		implicit = false
	case st.Kind == statement.Begin: // PostgreSQL warns, but does what it says of modes
		s.setBlock(false)
	case st.Kind == statement.Commit, st.Kind == statement.Rollback, st.Kind == statement.Savepoint:
	case tx == 'I':
		s.injectBegin()
		implicit = true
	}
	if st.Kind == statement.Session {
		s.setBlock(false)
	}
	defer s.noteDefaults([]*statement.Statement{st}, text)
	s.hold(true)
	s.resetStep(false)
	if st.Has(statement.ShowsReadOnly) && st.Kind != statement.Begin && !s.clientReadOnly {
		s.inject(injShowOff, roleOurs)
	}
	if st.Kind == statement.DDL && tx != 'E' {
		s.injectDDL(st, piece)
	}
	s.toBackend = appendQuery(s.toBackend, piece)
	s.mu.Lock()
	s.push(expect{op: 'Q', quiet: true, shift: characters(text[:st.Start]), read: st.Kind == statement.Read})
	s.mu.Unlock()
	if st.Kind == statement.DDL && tx != 'E' {
		s.injectDDLEnd(st)
		s.sync(true)
	}
	err := s.send()
	if err == nil && st.Kind == statement.CopyFrom {
		err = s.copyFrom(ctx)
	}
	if err == nil {
		err = s.waitReady()
	}
	done := s.takeStep()
	if err == nil && done.err != nil && !done.shown {
		s.release(done.raw) // of a statement of ours
	}
	return implicit, done.err != nil, err
}

// blockModes finds what BEGIN or START TRANSACTION says of the block.
var blockModes = regexp.MustCompile(`(?is)^(?:begin|start)(?:` + blank + `+(?:work|transaction))?` + blank + `*(.*?)` + blank + `*$`)

const blank = `(?:\s|--[^\n]*\n|/\*.*?\*/)`

// beginPiece makes the block that the client does not see an explicit one, as PostgreSQL does with an implicit one. text is the BEGIN.
func (s *session) beginPiece(text string) (stop bool, err error) {
	if modes := blockModes.FindStringSubmatch(text); len(modes) > 0 && modes[1] != "" {
		s.hold(true)
		s.resetStep(false)
		s.injectText("SET TRANSACTION "+modes[1], roleOurs)
		s.sync(true)
		if err := s.send(); err != nil {
			return false, err
		}
		if err := s.waitReady(); err != nil {
			return false, err
		}
		if done := s.takeStep(); done.err != nil {
			if !done.shown {
				s.release(done.raw)
			}
			return true, nil
		}
	}
	s.release(appendComplete(nil, "BEGIN"))
	return false, nil
}

// outsideBlock is the error with which PostgreSQL refuses st in an implicit block, if it does.
func outsideBlock(st *statement.Statement, text string) *mtm.Error {
	words := strings.Fields(strings.ToUpper(text))
	what := ""
	switch {
	case st.Kind == statement.Savepoint && words[0] == "SAVEPOINT":
		what = "SAVEPOINT"
	case st.Kind == statement.Savepoint && words[0] == "RELEASE":
		what = "RELEASE SAVEPOINT"
	case st.Kind == statement.Savepoint:
		what = "ROLLBACK TO SAVEPOINT"
	case st.Kind == statement.Commit && st.Has(statement.Chain):
		what = "COMMIT AND CHAIN"
	case st.Kind == statement.Rollback && st.Has(statement.Chain):
		what = "ROLLBACK AND CHAIN"
	default:
		return nil
	}
	return &mtm.Error{Code: "25P01", Msg: what + " can only be used in transaction blocks"}
}

// warnNoBlock says what PostgreSQL says to an end of a block that nobody began.
func (s *session) warnNoBlock() {
	s.release(appendError(nil, 'N', "WARNING", &mtm.Error{Code: "25P01", Msg: "there is no transaction in progress"}))
}

// commitPiece is a COMMIT among several statements.
func (s *session) commitPiece(ctx context.Context, st *statement.Statement, age uint64) (implicit, stop bool, err error) {
	s.release(nil)
	characteristics := ""
	if st.Has(statement.Chain) {
		if characteristics, _, err = s.characteristics(); err != nil {
			return false, true, err
		}
	}
	failure, err := s.finish(ctx, age)
	if err != nil {
		return false, true, err
	}
	if failure != nil {
		s.release(appendError(nil, 'E', "ERROR", failure))
		return false, true, nil
	}
	if st.Has(statement.Chain) {
		if err := s.chain(characteristics); err != nil {
			return false, true, err
		}
	}
	s.release(appendComplete(nil, "COMMIT"))
	return false, false, nil
}
