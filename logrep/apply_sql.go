package logrep

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"mtm"
	"mtm/logrep/pgoutput"
)

// applyRel is a table as a payload describes it, with the statements that one connection has for it. Tables and columns
// are found by name. Parameters are text, their types inferred by PostgreSQL from the local columns.
type applyRel struct {
	pgoutput.Relation                   // but for generated columns
	sent              []pgoutput.Column // with them; nil: there are none
	name              string            // quoted
	stmts             map[string]*applyStmt
	quirk             quirk

	state *catalogState // that facts are of
	facts *tableFacts
	fks   []relFK
}

// applyStmt is a statement that may have been prepared on the connection.
type applyStmt struct {
	name, sql string
	parsed    bool
	old       bool // in an earlier transaction
}

// quirk is what a table has shown to need.
type quirk uint8

const (
	// quirkReinsert: a GENERATED ALWAYS identity column outside the key cannot be set by UPDATE; delete and insert.
	quirkReinsert quirk = 1 << iota
	// quirkTextKey: the parameter type that PostgreSQL infers for a key column is not the column's.
	quirkTextKey
	// quirkPath: a function that an index or a trigger calls names things without a schema.
	quirkPath
)

// How a column is found in WHERE. The letters are part of a statement's key in applyRel.stmts.
const (
	whereNot   = '-' // not at all
	whereEqual = '='
	whereText  = 't' // by its text form, as the origin wrote it: also for types that have no equality
	whereBoth  = 'b' // an index may help, the text form decides
	whereNull  = 'n'
)

func quoteIdent(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func newApplyRel(m pgoutput.Relation, q quirk) *applyRel {
	if m.Schema == "" {
		m.Schema = "pg_catalog"
	}
	return &applyRel{Relation: m, name: quoteIdent(m.Schema, m.Name), stmts: map[string]*applyStmt{}, quirk: q}
}

// rowChange is an UPDATE or DELETE made ready: what its statement looks like, and its parameters.
type rowChange struct {
	rel    *applyRel
	set    []byte // per column: 's' set, '-' left alone; empty for a DELETE
	where  []byte // per column: one of where…
	params [][]byte
}

// errNoIdentity is a change that cannot be traced to a row.
func errNoIdentity(rel *applyRel) error {
	return &mtm.Error{Code: "55000", Msg: fmt.Sprintf("table %s has no replica identity", rel.name)}
}

// update makes u ready. Columns of an unchanged key are not set: they may be GENERATED ALWAYS.
func (c *rowChange) update(u *pgoutput.Update) error {
	rel := c.rel
	if len(u.New) != len(rel.Columns) || u.OldKind != 0 && len(u.Old) != len(rel.Columns) {
		return fmt.Errorf("update of %s: %w", rel.name, pgoutput.ErrMalformed)
	}
	for i, v := range u.New {
		switch {
		case v.Kind == pgoutput.Unchanged,
			u.OldKind == 0 && rel.Columns[i].Key,
			u.OldKind == 'O' && v.Kind == u.Old[i].Kind && bytes.Equal(v.Data, u.Old[i].Data):
			c.set = append(c.set, '-')
		default:
			c.set = append(c.set, 's')
			c.params = append(c.params, v.Data)
		}
	}
	if u.OldKind == 0 {
		return c.identify('K', u.New)
	}
	return c.identify(u.OldKind, u.Old)
}

// identify says how the row is found: by its key ('K'), or by all that it was ('O').
func (c *rowChange) identify(kind byte, old pgoutput.Tuple) error {
	if len(old) != len(c.rel.Columns) {
		return fmt.Errorf("change of %s: %w", c.rel.name, pgoutput.ErrMalformed)
	}
	found := false
	for i, v := range old {
		how := byte(whereNot)
		switch {
		case kind == 'K' && !c.rel.Columns[i].Key:
		case v.Kind == pgoutput.Null:
			how = whereNull
		case v.Kind != pgoutput.Text:
			return fmt.Errorf("change of %s: %w", c.rel.name, pgoutput.ErrMalformed)
		case kind == 'K' && c.rel.quirk&quirkTextKey == 0:
			how = whereEqual
		case kind == 'O' && sameAsText[c.rel.Columns[i].Type]:
			how = whereBoth
		default:
			how = whereText
		}
		found = found || how != whereNot
		c.where = append(c.where, how)
		if how != whereNot && how != whereNull {
			c.params = append(c.params, v.Data)
		}
		if how == whereBoth { // as the column's type, and as text: one parameter has one type
			c.params = append(c.params, v.Data)
		}
	}
	if !found {
		return errNoIdentity(c.rel)
	}
	return nil
}

// sameAsText lists built-in types (their OIDs are the same everywhere) for which equal text means equal by "=", so
// that an index may narrow the search for a row of a table without a key.
var sameAsText = map[uint32]bool{
	16: true, 17: true, 20: true, 21: true, 23: true, 25: true, 26: true, 700: true, 701: true, 1043: true, 1042: true,
	1082: true, 1083: true, 1114: true, 1184: true, 1700: true, 2950: true,
}

// stmt finds or makes the statement for c. checked makes the statement itself fail unless it hits exactly one row.
func (c *rowChange) stmt(checked bool) *applyStmt {
	key := make([]byte, 0, 2+len(c.set)+len(c.where))
	key = append(key, kindOf(c, checked))
	key = append(append(key, c.set...), c.where...)
	if st := c.rel.stmts[string(key)]; st != nil {
		return st
	}
	with, sql := c.sql()
	switch {
	case checked && with != "":
		sql = "WITH " + with + ", " + check(sql)
	case checked:
		sql = "WITH " + check(sql)
	case with != "":
		sql = "WITH " + with + " " + sql
	}
	st := &applyStmt{sql: sql}
	c.rel.stmts[string(key)] = st
	return st
}

// check makes a statement fail unless it hits exactly one row.
func check(sql string) string {
	return "u AS (" + sql + " RETURNING 1) SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 ELSE ('" + wrongCount +
		"' || pg_catalog.count(*))::pg_catalog.int4 END FROM u"
}

// wrongCount is in the error of a checked statement that did not hit one row.
const wrongCount = "mtm: rows hit: "

func kindOf(c *rowChange, checked bool) byte {
	switch {
	case len(c.set) > 0 && checked:
		return 'u'
	case len(c.set) > 0:
		return 'U'
	case checked:
		return 'd'
	}
	return 'D'
}

// sql is the statement, and the common table expression that it needs, if any.
func (c *rowChange) sql() (with, sql string) {
	n := 0
	var set []string
	for i, s := range c.set {
		if s == 's' {
			n++
			set = append(set, quoteIdent(c.rel.Columns[i].Name)+" = "+c.rel.param(i, n))
		}
	}
	where := c.whereSQL(n)
	switch {
	case len(c.set) == 0:
		return "", "DELETE FROM ONLY " + c.rel.name + " WHERE " + where
	case len(set) == 0: // nothing to change, but the row must be there, and stay
		return "", "UPDATE ONLY " + c.rel.name + " SET " + c.touch() + " WHERE " + where
	case c.rel.quirk&quirkReinsert != 0:
		return c.reinsertSQL(where)
	}
	return "", "UPDATE ONLY " + c.rel.name + " SET " + strings.Join(set, ", ") + " WHERE " + where
}

// touch sets a column to itself.
func (c *rowChange) touch() string {
	col := quoteIdent(c.rel.Columns[0].Name)
	return col + " = " + col
}

// reinsertSQL is an UPDATE as a DELETE and an INSERT, which may set every column.
func (c *rowChange) reinsertSQL(where string) (with, sql string) {
	var cols, values, kept []string
	n := 0
	for i, s := range c.set {
		col := quoteIdent(c.rel.Columns[i].Name)
		cols = append(cols, col)
		if s == 's' {
			n++
			values = append(values, c.rel.param(i, n))
		} else {
			values = append(values, "d."+col)
		}
		kept = append(kept, col)
	}
	with = fmt.Sprintf("d AS (DELETE FROM ONLY %s WHERE %s RETURNING %s)", c.rel.name, where, strings.Join(kept, ", "))
	return with, fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM d",
		c.rel.name, strings.Join(cols, ", "), strings.Join(values, ", "))
}

// whereSQL finds the row; parameters start after n. Without a key there may be several like it: one is taken.
func (c *rowChange) whereSQL(n int) string {
	var terms []string
	byContent := false
	for i, how := range c.where {
		col := quoteIdent(c.rel.Columns[i].Name)
		if how != whereNot && how != whereNull {
			n++
		}
		param := "$" + strconv.Itoa(n)
		switch how {
		case whereEqual:
			terms = append(terms, col+" = "+param)
		case whereText:
			byContent = true
			terms = append(terms, col+" IS DISTINCT FROM NULL", textOf(col)+" = "+param+"::text")
		case whereBoth:
			byContent = true
			n++
			terms = append(terms, col+" = "+param, textOf(col)+" = $"+strconv.Itoa(n)+"::text")
		case whereNull:
			byContent = true
			terms = append(terms, col+" IS NOT DISTINCT FROM NULL")
		}
	}
	where := strings.Join(terms, " AND ")
	if !byContent {
		return where
	}
	return "ctid = (SELECT ctid FROM ONLY " + c.rel.name + " WHERE " + where + " LIMIT 1 FOR UPDATE)"
}

// textOf is the text of a value as its output function writes it, which is what pgoutput sent. A cast to text is not: it
// writes true for t, and trims char(n).
func textOf(col string) string { return `pg_catalog.concat(` + col + `) COLLATE pg_catalog."C"` }

// insert is the statement for one row of rel.
func (rel *applyRel) insert() *applyStmt {
	if st := rel.stmts["I"]; st != nil {
		return st
	}
	cols, params := make([]string, len(rel.Columns)), make([]string, len(rel.Columns))
	for i, col := range rel.Columns {
		cols[i], params[i] = quoteIdent(col.Name), rel.param(i, i+1)
	}
	sql := "INSERT INTO " + rel.name + " (" + strings.Join(cols, ", ") + ") OVERRIDING SYSTEM VALUE VALUES (" +
		strings.Join(params, ", ") + ")"
	if len(cols) == 0 {
		sql = "INSERT INTO " + rel.name + " DEFAULT VALUES"
	}
	st := &applyStmt{sql: sql}
	rel.stmts["I"] = st
	return st
}

// nodeTree is the type of expressions in the catalog (a copy of pg_class has it), which PostgreSQL reads from nobody.
const nodeTree = 194

// param is parameter n as a value of column i.
func (rel *applyRel) param(i, n int) string {
	p := "$" + strconv.Itoa(n)
	if rel.Columns[i].Type == nodeTree {
		return "mtm.node_tree(pg_catalog.textout(" + p + "::pg_catalog.text))"
	}
	return p
}

// byCopy reports whether COPY can load the table.
func (rel *applyRel) byCopy() bool {
	return len(rel.Columns) > 0 && !slices.ContainsFunc(rel.Columns, func(c pgoutput.Column) bool { return c.Type == nodeTree })
}

// copySQL loads many rows of rel.
func (rel *applyRel) copySQL() string {
	cols := make([]string, len(rel.Columns))
	for i, col := range rel.Columns {
		cols[i] = quoteIdent(col.Name)
	}
	return "COPY " + rel.name + " (" + strings.Join(cols, ", ") + ") FROM STDIN"
}

// appendCopyRow writes a row in COPY's text format.
func appendCopyRow(b []byte, row pgoutput.Tuple) ([]byte, error) {
	for i, v := range row {
		if i > 0 {
			b = append(b, '\t')
		}
		switch v.Kind {
		case pgoutput.Null:
			b = append(b, `\N`...)
		case pgoutput.Text:
			b = appendCopyText(b, v.Data)
		default:
			return nil, pgoutput.ErrMalformed
		}
	}
	return append(b, '\n'), nil
}

func appendCopyText(b, data []byte) []byte {
	for {
		i := bytes.IndexAny(data, "\\\t\n\r")
		if i < 0 {
			return append(b, data...)
		}
		b = append(append(b, data[:i]...), '\\')
		switch data[i] {
		case '\t':
			b = append(b, 't')
		case '\n':
			b = append(b, 'n')
		case '\r':
			b = append(b, 'r')
		default:
			b = append(b, '\\')
		}
		data = data[i+1:]
	}
}
