package logrep

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"mtm"
	"mtm/logrep/pgoutput"
)

// The ways in which an apply fails.
type (
	brokenError struct{ err error } // the connection is lost
	rowError    struct{ rel *applyRel }
	parentError struct {
		rel *applyRel
		fk  *foreignKey
	}
	stmtError struct {
		rel *applyRel   // nil: not about one table
		fk  *foreignKey // it was the check of this one
		err *pgconn.PgError
	}
)

func (e *brokenError) Error() string { return "connection to PostgreSQL lost: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }
func (e *rowError) Error() string    { return "row not found in " + e.rel.name }
func (e *parentError) Error() string {
	return "no parent for foreign key " + e.fk.Name + " of " + e.rel.name
}
func (e *stmtError) Error() string { return e.err.Error() }
func (e *stmtError) Unwrap() error { return e.err }

// missingRow reports whether err says that a change did not find its row.
func missingRow(err error) (*applyRel, bool) {
	var row *rowError
	if errors.As(err, &row) {
		return row.rel, true
	}
	var st *stmtError
	if errors.As(err, &st) && st.rel != nil && st.err.Code == "22P02" && strings.Contains(st.err.Message, wrongCount) {
		return st.rel, true
	}
	return nil, false
}

// missingParent reports whether err says that a row's foreign key refers to nothing.
func missingParent(err error) (*applyRel, *foreignKey, bool) {
	var parent *parentError
	if errors.As(err, &parent) {
		return parent.rel, parent.fk, true
	}
	var st *stmtError
	if errors.As(err, &st) && st.fk != nil && st.err.Code == "22P02" && strings.Contains(st.err.Message, noParent) {
		return st.rel, st.fk, true
	}
	return nil, nil, false
}

// applyError is err as the origin's client will see it. node is this one. Failures that another try may not meet get
// 40001; real ones keep PostgreSQL's code.
func applyError(node mtm.NodeID, err error) *mtm.Error {
	if rel, ok := missingRow(err); ok {
		e := mtm.Conflict(fmt.Sprintf("node %d, table %s: the row to change was not found", node, rel.name))
		e.Err = err
		return e
	}
	if rel, fk, ok := missingParent(err); ok {
		e := mtm.Conflict(fmt.Sprintf("node %d, table %s: the row that foreign key %s refers to is not there any more", node, rel.name, quoteIdent(fk.Name)))
		e.Err = err
		return e
	}
	var st *stmtError
	var own *mtm.Error
	switch {
	case errors.As(err, &st) && !transient(st.err.Code):
		return &mtm.Error{Code: st.err.Code, Msg: st.err.Message, Detail: where(node, st) + joinDetail(st.err.Detail), Hint: st.err.Hint, Err: err}
	case errors.As(err, &st):
		e := mtm.Conflict(where(node, st) + ": " + st.err.Message + " (SQLSTATE " + st.err.Code + ")")
		e.Err = err
		return e
	case errors.As(err, &own):
		return &mtm.Error{Code: own.Code, Msg: own.Msg, Detail: fmt.Sprintf("node %d", node) + joinDetail(own.Detail), Hint: own.Hint, Err: err}
	case errors.Is(err, ErrPayload), errors.Is(err, pgoutput.ErrMalformed):
		return &mtm.Error{Code: "XX001", Msg: err.Error(), Detail: fmt.Sprintf("node %d", node), Err: err}
	}
	e := mtm.Conflict(fmt.Sprintf("node %d: %v", node, err))
	e.Err = err
	return e
}

func joinDetail(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
}

func where(node mtm.NodeID, st *stmtError) string {
	text := fmt.Sprintf("node %d", node)
	switch {
	case st.err.TableName != "":
		return text + ", table " + quoteIdent(st.err.SchemaName, st.err.TableName)
	case st.rel != nil:
		return text + ", table " + st.rel.name
	}
	return text
}

// transient tells failures of the moment from failures of the data (PostgreSQL manual, appendix A).
func transient(code string) bool {
	switch {
	case code == "55P03", code == "55006", code == mtm.CodeQueryCanceled:
		return true
	}
	switch code[:2] {
	case "08", "40", "53", "57":
		return true
	}
	return false
}
