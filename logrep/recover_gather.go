package logrep

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"mtm/logrep/pgoutput"
)

// gather holds back what the transactions that recovery commits together change, and sends the rows of one table many at a
// time: with a statement each, PostgreSQL spends most of the time on beginning and ending statements.
//
// The changes of one table keep their order, but for an UPDATE of a row that waits for another, which takes its place. Changes of
// different tables change places. Nobody sees the rows before all are committed, foreign keys are not checked here, and tables
// with triggers that fire all the same, or whose rows run what somebody wrote, are left out; so what is left to notice it are unique
// keys, for moments. They make the transaction fail, and it is done again without this.
type gather struct {
	t      *applyTxn            // sends
	tables map[string]*gathered // by quoted name
	order  []*gathered          // in the order of their first rows
	bytes  int
}

// gathered is what is held back of one table: changes of one kind.
type gathered struct {
	rel     *applyRel
	shape   string         // of the changes: which columns are set, and how rows are found; empty: INSERTs
	rows    [][]byte       // INSERTs
	changes []*rowChange   // UPDATEs or DELETEs, of different rows
	byKey   map[string]int // place in changes
}

// gatherSizes are how many rows one UPDATE or DELETE changes; what is left goes one by one.
var gatherSizes = []int{64, 8}

const (
	gatherMaxBytes  = 4 << 20 // held back
	changeBytes     = 300     // what a change costs beside its values, about
	gatherMaxParams = 1 << 14 // of a statement
)

func newGather(s *applySession) *gather {
	return &gather{t: &applyTxn{applySession: s}, tables: map[string]*gathered{}}
}

// gathers reports whether rel's rows may be held back; if not, what is held back is sent: all of it, when rel has triggers
// that may look at other tables.
func (t *applyTxn) gathers(rel *applyRel) (bool, error) {
	switch {
	case t.gather == nil:
		return false, nil
	case rel.facts.Fires || rel.facts.Code: // what somebody wrote may look at other tables, and run as another role
		return false, t.gather.flush()
	case rel.quirk != 0 || !rel.byCopy():
		return false, t.gather.flushTable(t.gather.tables[rel.name])
	}
	return true, nil
}

// gatherInsert holds an INSERT back. False: it is not done.
func (t *applyTxn) gatherInsert(id uint32, body []byte) (bool, error) {
	rel, err := t.rel(id)
	if err != nil {
		return false, err
	}
	if err := t.learnFacts(rel); err != nil {
		return false, err
	}
	if ok, err := t.gathers(rel); !ok || err != nil {
		return false, err
	}
	if err := t.endRun(); err != nil {
		return false, err
	}
	g, err := t.gather.of(rel, "")
	if err != nil {
		return false, err
	}
	g.rows = append(g.rows, body)
	return true, t.gather.grew(len(body))
}

// gatherChange holds back a change of a row that is found by its key. False: it is not done.
func (t *applyTxn) gatherChange(c *rowChange, key byte) (bool, error) {
	if ok, err := t.gathers(c.rel); !ok || err != nil {
		return false, err
	}
	sets := slices.Contains(c.set, 's')
	if key == 'O' || c.moves() || c.rel.oddKey() || len(c.set) > 0 && !sets || slices.Contains(c.where, whereNull) {
		return false, t.gather.flushTable(t.gather.tables[c.rel.name])
	}
	shape := string(kindOf(c, false)) + string(c.set) + "/" + string(c.where)
	g, err := t.gather.of(c.rel, shape)
	if err != nil {
		return false, err
	}
	row := c.keyText()
	if i, found := g.byKey[row]; found && sets {
		g.changes[i] = c
	} else {
		g.byKey[row] = len(g.changes)
		g.changes = append(g.changes, c)
	}
	size := changeBytes
	for _, p := range c.params {
		size += len(p) + 4
	}
	return true, t.gather.grew(size)
}

// moves reports whether c changes the row's key: then the same key may be another row's later.
func (c *rowChange) moves() bool {
	for i, s := range c.set {
		if s == 's' && c.where[i] != whereNot {
			return true
		}
	}
	return false
}

// keyText is the same for changes of the same row, among those of one shape.
func (c *rowChange) keyText() string {
	n := 0
	for _, s := range c.set {
		if s == 's' {
			n++
		}
	}
	var b []byte
	for _, p := range c.params[n:] {
		b = append(strconv.AppendInt(b, int64(len(p)), 10), ':')
		b = append(b, p...)
	}
	return string(b)
}

// of finds where a change of rel is held back. What is held back of another kind precedes it, so it is sent.
func (g *gather) of(rel *applyRel, shape string) (*gathered, error) {
	if one := g.tables[rel.name]; one != nil {
		if one.rel == rel && one.shape == shape {
			return one, nil
		}
		if err := g.flushTable(one); err != nil {
			return nil, err
		}
	}
	one := &gathered{rel: rel, shape: shape, byKey: map[string]int{}}
	g.tables[rel.name] = one
	g.order = append(g.order, one)
	return one, nil
}

func (g *gather) grew(bytes int) error {
	if g.bytes += bytes; g.bytes < gatherMaxBytes {
		return nil
	}
	return g.flush()
}

// flush sends all that is held back.
func (g *gather) flush() error {
	if g == nil {
		return nil
	}
	order := g.order
	g.order, g.bytes = nil, 0
	for _, one := range order {
		if err := g.flushTable(one); err != nil {
			return err
		}
	}
	return nil
}

func (g *gather) flushTable(one *gathered) error {
	if one == nil {
		return nil
	}
	if g.tables[one.rel.name] == one {
		delete(g.tables, one.rel.name)
	}
	rows, changes := one.rows, one.changes
	one.rows, one.changes = nil, nil
	if len(rows) > 0 {
		return g.t.insertAll(one.rel, rows)
	}
	for _, size := range gatherSizes {
		for len(changes) >= size {
			st := one.rel.many(changes[0], one.shape, size)
			if st == nil {
				break
			}
			var params [][]byte
			for _, c := range changes[:size] {
				params = append(params, c.params...)
			}
			if err := g.t.send(st, params, sentStmt{rel: one.rel, rows: int64(size)}); err != nil {
				return err
			}
			changes = changes[size:]
		}
	}
	for _, c := range changes {
		if err := g.t.change(c); err != nil {
			return err
		}
	}
	return nil
}

// insertAll sends INSERTs of one table, by COPY if they are many.
func (t *applyTxn) insertAll(rel *applyRel, rows [][]byte) error {
	if len(rows) >= copyFrom {
		return t.copyRows(rel, rows)
	}
	for _, body := range rows {
		row, err := t.parseRow(rel, body)
		if err != nil {
			return err
		}
		if err := t.insertRow(rel, row); err != nil {
			return err
		}
	}
	return nil
}

// gatherCopy is how many bytes of rows go out at a time: PostgreSQL loads them while the next are made.
const gatherCopy = 128 << 10

// copyRows loads rows of rel by COPY.
func (t *applyTxn) copyRows(rel *applyRel, rows [][]byte) (err error) {
	t.beginCopy(rel)
	buf := make([]byte, 0, gatherCopy+gatherCopy/8)
	for _, body := range rows {
		var row pgoutput.Tuple
		if row, err = t.parseRow(rel, body); err == nil {
			buf, err = appendCopyRow(buf, row)
		}
		if err != nil {
			break
		}
		if len(buf) < gatherCopy {
			continue
		}
		t.fe.Send(&pgproto3.CopyData{Data: buf})
		if err := t.flush(); err != nil {
			return err
		}
		buf = buf[:0]
	}
	if err != nil {
		t.fe.Send(&pgproto3.CopyFail{Message: "recovery failed"})
		return cmp.Or(err, t.finishCopy(rel))
	}
	t.fe.Send(&pgproto3.CopyData{Data: buf})
	t.fe.Send(&pgproto3.CopyDone{})
	return t.finishCopy(rel)
}

// copyAll loads rows that are in COPY's text format already.
func (t *applyTxn) copyAll(rel *applyRel, rows []byte) error {
	t.beginCopy(rel)
	t.fe.Send(&pgproto3.CopyData{Data: rows})
	t.fe.Send(&pgproto3.CopyDone{})
	return t.finishCopy(rel)
}

// beginCopy begins a COPY. It goes out with what precedes it: PostgreSQL passes over rows of a COPY that it refuses, and over a COPY
// behind a statement that failed.
func (t *applyTxn) beginCopy(rel *applyRel) {
	t.sync() // so that the COPY is answered whatever became of what precedes it
	t.fe.SendQuery(&pgproto3.Query{String: rel.copySQL()})
	t.syncs++
}

// finishCopy sends what is left of it, and learns what became of it, and of what preceded it.
func (t *applyTxn) finishCopy(rel *applyRel) error {
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.answers(); err != nil {
		return err
	}
	if err := t.ready(); err != nil {
		return err
	}
	return t.copied(rel)
}

// copied reads the answers to a COPY and its rows.
func (t *applyTxn) copied(rel *applyRel) (err error) {
	for {
		msg, broken := receive(t.conn)
		if broken != nil {
			return &brokenError{broken}
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			err = &stmtError{rel: rel, err: pgconn.ErrorResponseToPgError(msg)}
		case *pgproto3.ReadyForQuery:
			t.syncs--
			return err
		}
	}
}

// many is the statement that does to n rows what c does to one, or nil if there is none. Its parameters are those of n such
// changes, one after the other.
func (rel *applyRel) many(c *rowChange, shape string, n int) *applyStmt {
	if n*len(c.params) > gatherMaxParams {
		return nil
	}
	name := shape + "*" + strconv.Itoa(n)
	if st := rel.stmts[name]; st != nil {
		return st
	}
	sql := rel.manySQL(c, n)
	if sql == "" {
		return nil
	}
	st := &applyStmt{sql: sql}
	rel.stmts[name] = st
	return st
}

// manySQL is that statement's text; empty: the type of a column is not known here.
func (rel *applyRel) manySQL(c *rowChange, n int) string {
	var types, names, set, where []string
	add := func(i int) (col, value string, ok bool) {
		typ := rel.facts.Types[rel.Columns[i].Name]
		types = append(types, typ)
		names = append(names, "c"+strconv.Itoa(len(types)))
		return quoteIdent(rel.Columns[i].Name), "v." + names[len(names)-1], typ != ""
	}
	for i, s := range c.set {
		if s == 's' {
			col, value, ok := add(i)
			if !ok {
				return ""
			}
			set = append(set, col+" = "+value)
		}
	}
	for i, how := range c.where {
		if how != whereNot {
			col, value, ok := add(i)
			if !ok {
				return ""
			}
			where = append(where, "t."+col+" = "+value)
		}
	}
	var values strings.Builder
	for row := range n {
		if row > 0 {
			values.WriteString(", ")
		}
		for i, typ := range types {
			sep := ", "
			if i == 0 {
				sep = "("
			}
			values.WriteString(sep + "$" + strconv.Itoa(row*len(types)+i+1) + "::" + typ)
		}
		values.WriteByte(')')
	}
	from := "(VALUES " + values.String() + ") v (" + strings.Join(names, ", ") + ") WHERE " + strings.Join(where, " AND ")
	if len(set) == 0 {
		return "DELETE FROM ONLY " + rel.name + " t USING " + from
	}
	return "UPDATE ONLY " + rel.name + " t SET " + strings.Join(set, ", ") + " FROM " + from
}

// parseRow reads an INSERT of rel.
func (t *applyTxn) parseRow(rel *applyRel, body []byte) (pgoutput.Tuple, error) {
	m, err := t.parser.Parse('I', body)
	if err != nil {
		return nil, err
	}
	return rel.check(m.(*pgoutput.Insert).New)
}
