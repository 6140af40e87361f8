package logrep

import (
	"encoding/json"
	"fmt"
	"regexp"

	"mtm/logrep/pgoutput"
)

// rowsMessage is the content of a logical message "mtm.rows": rows that a DDL statement computed at its origin, and that take the
// place of what its text makes here. With First, all that is there goes before.
type rowsMessage struct {
	Head struct {
		V       int    `json:"v"` // 1
		Schema  string `json:"schema"`
		Name    string `json:"name"`
		View    bool   `json:"view"` // it is a materialized view
		Columns []struct {
			Name string `json:"name"`
			Type uint32 `json:"type"` // OID at the origin
		} `json:"columns"`
	} `json:"head"`
	First bool        `json:"first"`
	Rows  [][]*string `json:"rows"` // as the types' output functions write them
}

// missingMessage is the content of a logical message "mtm.missing": what a column that was added holds in the rows that were there before.
type missingMessage struct {
	V      int    `json:"v"` // 1
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Column string `json:"column"`
	Value  string `json:"value"` // an array of one
}

// fill takes rows over. Nothing but REFRESH writes to a materialized view: it is a table meanwhile, for this transaction only.
func (t *applyTxn) fill(content []byte) error {
	var m rowsMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrPayload, prefixRows, err)
	}
	r := pgoutput.Relation{Schema: m.Head.Schema, Name: m.Head.Name}
	for _, c := range m.Head.Columns {
		r.Columns = append(r.Columns, pgoutput.Column{Name: c.Name, Type: c.Type})
	}
	rel := newApplyRel(r, 0)
	rel.quirk = t.quirks[rel.name]
	t.findPath(rel)
	became := func(what string) string {
		return "UPDATE pg_catalog.pg_class SET " + what + " WHERE oid = pg_catalog.to_regclass(" + quoteLiteral(rel.name) + ")"
	}
	switch {
	case m.Head.View:
		t.sendOnce(became("relkind = 'r', relispopulated = true"), sentStmt{one: true})
	case m.First:
		if err := t.learnFacts(rel); err != nil {
			return err
		}
		if err := t.sendRow(&applyStmt{sql: "DELETE FROM ONLY " + t.through(rel).name}, nil, sentStmt{rel: rel}); err != nil {
			return err
		}
	}
	if err := t.learnFacts(rel); err != nil {
		return err
	}
	if err := t.fillRows(rel, m.Rows); err != nil {
		return err
	}
	if m.Head.View {
		t.sendOnce(became("relkind = 'm'"), sentStmt{one: true})
	}
	return t.drain()
}

func (t *applyTxn) fillRows(rel *applyRel, rows [][]*string) error {
	var buf []byte
	tuple := make(pgoutput.Tuple, len(rel.Columns))
	params := make([][]byte, len(rel.Columns))
	for _, row := range rows {
		if len(row) != len(rel.Columns) {
			return fmt.Errorf("%w: %s: %d values for %d columns", ErrPayload, prefixRows, len(row), len(rel.Columns))
		}
		for i, v := range row {
			tuple[i], params[i] = pgoutput.Value{Kind: pgoutput.Null}, nil
			if v != nil {
				params[i] = []byte(*v)
				tuple[i] = pgoutput.Value{Kind: pgoutput.Text, Data: params[i]}
			}
		}
		if !rel.byCopy() || t.guarded(rel) {
			if err := t.sendRow(t.through(rel).insert(), params, sentStmt{rel: rel}); err != nil {
				return err
			}
			continue
		}
		var err error
		if buf, err = appendCopyRow(buf, tuple); err != nil {
			return err
		}
	}
	if len(buf) == 0 {
		return t.drain()
	}
	return t.copyAll(rel, buf)
}

// fillMissing sets a value as PostgreSQL keeps it, in the catalog, unless the rows have been written anew here since.
func (t *applyTxn) fillMissing(content []byte) error {
	var m missingMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrPayload, prefixMissing, err)
	}
	t.sendOnce("UPDATE pg_catalog.pg_attribute SET attmissingval = pg_catalog.array_in("+quoteLiteral(m.Value)+", atttypid, atttypmod) "+
		"WHERE attrelid = pg_catalog.to_regclass("+quoteLiteral(quoteIdent(m.Schema, m.Name))+") AND attname = "+quoteLiteral(m.Column)+
		" AND atthasmissing", sentStmt{})
	return t.drain()
}

// setvalMessage is the content of a logical message "mtm.setval".
type setvalMessage struct {
	V      int    `json:"v"` // 1
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Value  int64  `json:"value"`
	Called bool   `json:"called"`
}

// followSetval moves this node's sequence on, to where the client wanted it.
func (t *applyTxn) followSetval(content []byte) error {
	var m setvalMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrPayload, prefixSetval, err)
	}
	t.sendOnce(fmt.Sprintf("SELECT mtm.follow_setval(%s, %s, %d, %t)", quoteLiteral(m.Schema), quoteLiteral(m.Name), m.Value, m.Called), sentStmt{})
	return t.drain()
}

// blockMessage is the content of a logical message "mtm.block", of a sequence of mode block.
type blockMessage struct {
	V      int     `json:"v"` // 1
	Schema string  `json:"schema"`
	Name   string  `json:"name"`
	Start  *string `json:"start"` // the first value drawn, a whole number; nil: the sequence begins anew
	Next   string  `json:"next"`  // the first that is not, perhaps past the end of bigint
}

// wholeNumber is as blockMessage has them.
var wholeNumber = regexp.MustCompile(`^-?[0-9]{1,30}$`)

// followBlock notes what was drawn, so that this node does not draw it.
func (t *applyTxn) followBlock(content []byte) error {
	var m blockMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrPayload, prefixBlock, err)
	}
	start := "NULL"
	if m.Start != nil {
		start = *m.Start
	}
	if m.V != 1 || !wholeNumber.MatchString(m.Next) || m.Start != nil && !wholeNumber.MatchString(start) {
		return fmt.Errorf("%w: %s", ErrPayload, prefixBlock)
	}
	t.sendOnce(fmt.Sprintf("SELECT mtm.follow_block(%s, %s, %s, %s)", quoteLiteral(m.Schema), quoteLiteral(m.Name), start, m.Next), sentStmt{})
	return t.drain()
}
