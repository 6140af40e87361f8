package logrep

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mtm"
	"mtm/logrep/pgoutput"
)

// PostgreSQL checks foreign keys, and unique keys that are DEFERRABLE, by triggers, and in a session that replicates they
// do not fire. The origin has checked, but against what it saw. So a worker checks again, at the end of the transaction, as
// constraints may be deferred:
//
//   - Of each row that refers to another the parent is locked FOR KEY SHARE, as at the origin. So on every node who
//     deletes a parent, or changes its key, and who refers to it meet at that row's lock, and one of them gives way; what the
//     parent's own triggers do (RESTRICT, CASCADE) was done at the origin under the same lock, on all rows there were.
//   - The triggers of DEFERRABLE keys are made to fire always (sql/schema), and deferred up to PREPARE TRANSACTION.
//
// Recovery checks nothing: what it applies was decided by those who did.

// tableFacts is what is to be checked of a table's rows.
type tableFacts struct {
	ForeignKeys []*foreignKey `json:"fks"`
	Deferrable  bool          `json:"deferrable"` // it has a key that is checked at the end
	Owner       string        `json:"owner"`      // empty: a superuser
	Code        bool          `json:"code"`       // a change of a row may run what somebody wrote

	Fires bool              `json:"fires"` // it has triggers that fire in a session that replicates
	Types map[string]string `json:"types"` // of its columns, quoted, without modifiers

	Generated []string `json:"generated"` // columns
}

// foreignKey is one that a table's rows must fulfil.
type foreignKey struct {
	Name    string     `json:"name"`
	Parent  string     `json:"parent"` // quoted; with ONLY, as PostgreSQL's own check
	Columns []fkColumn `json:"columns"`

	one, many string // SQL: one row's parent, many rows' parents
}

type fkColumn struct {
	Name   string `json:"name"`
	Parent string `json:"parent"` // quoted
	Type   string `json:"type"`   // of the column that refers
	Equal  string `json:"equal"`  // the operator, parent = child
}

// Foreign keys with PERIOD (18) are left out: a range is covered by several parents.
const factsSQL = `SELECT pg_catalog.json_build_object(
  'fks', COALESCE((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', c.conname,
      'parent', CASE p.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.format('%I.%I', n.nspname, p.relname),
      'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', ca.attname, 'parent', pg_catalog.quote_ident(pa.attname),
            'type', pg_catalog.format_type((WITH RECURSIVE base (oid) AS (SELECT ca.atttypid UNION ALL
                SELECT t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
              SELECT b.oid FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'), -1), 'equal', pg_catalog.format('OPERATOR(%I.%s)', opn.nspname, o.oprname)) ORDER BY k.n)
          FROM ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey), pg_catalog.unnest(c.conpfeqop)) WITH ORDINALITY AS k (child, parent, op, n)
          JOIN pg_catalog.pg_attribute ca ON ca.attrelid = c.conrelid AND ca.attnum = k.child
          JOIN pg_catalog.pg_attribute pa ON pa.attrelid = c.confrelid AND pa.attnum = k.parent
          JOIN pg_catalog.pg_operator o ON o.oid = k.op JOIN pg_catalog.pg_namespace opn ON opn.oid = o.oprnamespace)))
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint c ON c.oid = t.tgconstraint
    JOIN pg_catalog.pg_class p ON p.oid = c.confrelid JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
    WHERE t.tgrelid = r.oid AND t.tgfoid = 'pg_catalog."RI_FKey_check_ins"'::pg_catalog.regproc AND t.tgenabled <> 'D'
      AND (pg_catalog.to_jsonb(c) ->> 'conperiod') IS DISTINCT FROM 'true'), '[]'),
  'deferrable', EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = r.oid AND t.tgdeferrable
      AND t.tgfoid = 'pg_catalog.unique_key_recheck'::pg_catalog.regproc),
  'owner', COALESCE((SELECT o.rolname FROM pg_catalog.pg_class k JOIN pg_catalog.pg_roles o ON o.oid = k.relowner
      WHERE k.oid = r.oid AND NOT o.rolsuper), ''),
  'code', ` + codeSQL + `,
  'fires', EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = r.oid AND t.tgenabled IN ('A', 'R')
      AND t.tgfoid <> 'pg_catalog.unique_key_recheck'::pg_catalog.regproc),
  'types', (SELECT pg_catalog.json_object_agg(a.attname, pg_catalog.format('%I.%I', n.nspname, y.typname)) FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type y ON y.oid = a.atttypid JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
      WHERE a.attrelid = r.oid AND a.attnum > 0),
  'generated', (SELECT pg_catalog.json_agg(a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = r.oid AND a.attgenerated <> ''))
FROM (SELECT pg_catalog.to_regclass($1)::pg_catalog.oid AS oid) r`

// codeSQL reports whether a change of a row of r can run more than PostgreSQL's own immutable functions: in an index, a check, a generated
// column, the key of a partitioned table above it, or the check of a domain. When in doubt it can; functions in C are trusted if their
// owner is a superuser.
const codeSQL = `EXISTS (SELECT FROM (
    SELECT x.indexprs::pg_catalog.text AS tree FROM pg_catalog.pg_index x WHERE x.indrelid = r.oid
    UNION ALL SELECT x.indpred::pg_catalog.text FROM pg_catalog.pg_index x WHERE x.indrelid = r.oid
    UNION ALL SELECT c.conbin::pg_catalog.text FROM pg_catalog.pg_constraint c WHERE c.conrelid = r.oid AND c.contype = 'c'
    UNION ALL SELECT d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
      WHERE d.adrelid = r.oid AND a.attgenerated <> ''
    UNION ALL SELECT p.partexprs::pg_catalog.text FROM pg_catalog.pg_partition_ancestors(r.oid) n JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = n.relid
    UNION ALL SELECT c.conbin::pg_catalog.text FROM pg_catalog.pg_constraint c WHERE c.contypid <> 0 AND EXISTS (
      SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND a.atttypid >= 16384)) trees
  WHERE tree ~ ':[a-z_]*typ[a-z_]* [0-9]{5}' OR EXISTS (SELECT FROM pg_catalog.regexp_matches(tree, ':(?:op)?funcid (\d+)', 'g') f (n)
      JOIN pg_catalog.pg_proc p ON p.oid = f.n[1]::pg_catalog.oid WHERE p.provolatile <> 'i' OR p.oid >= 16384 AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_language l, pg_catalog.pg_roles o WHERE l.oid = p.prolang AND l.lanname IN ('c', 'internal')
          AND o.oid = p.proowner AND o.rolsuper)))
  OR EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
      WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.oid >= 16384 AND (COALESCE(e.typtype, t.typtype) IN ('c', 'r', 'm')
        OR t.typtype IN ('c', 'r', 'm') OR COALESCE(e.typtype, t.typtype) = 'd' AND COALESCE(e.typbasetype, t.typbasetype) >= 16384))`

// noParent is in the error of a check that found no parent.
const noParent = "mtm: parents: "

// init makes the SQL of fk, whose rows are in child. Who has no parent may have gone, too, in the same transaction: a row that is
// still there must have one.
func (fk *foreignKey) init(child string) {
	one, many, unnest, names, gone, goneMany := "", "", "", "", "", ""
	for i, c := range fk.Columns {
		n := strconv.Itoa(i + 1)
		if i > 0 {
			one, many, unnest, names = one+" AND ", many+" AND ", unnest+", ", names+", "
			gone, goneMany = gone+" AND ", goneMany+" AND "
		}
		one += "p." + c.Parent + " " + c.Equal + " $" + n + "::" + c.Type
		many += "p." + c.Parent + " " + c.Equal + " v.c" + n + "::" + c.Type
		unnest += "$" + n + "::pg_catalog.text[]"
		names += "c" + n
		has := "c." + quoteIdent(c.Name) + "::pg_catalog.text = "
		gone += has + "$" + n + "::" + c.Type + "::pg_catalog.text"
		goneMany += has + "v.c" + n + "::" + c.Type + "::pg_catalog.text"
	}
	fk.one = "WITH p AS MATERIALIZED (SELECT 1 FROM " + fk.Parent + " p WHERE " + one + " FOR KEY SHARE) " +
		"SELECT CASE WHEN pg_catalog.count(*) = 0 AND EXISTS (SELECT 1 FROM " + child + " c WHERE " + gone + ") " +
		"THEN ('" + noParent + "' || pg_catalog.count(*))::pg_catalog.int4 ELSE 1 END FROM p"
	fk.many = "WITH v AS MATERIALIZED (SELECT * FROM unnest(" + unnest + ") WITH ORDINALITY AS v (" + names + ", n)), " +
		"l AS MATERIALIZED (SELECT v.n FROM v JOIN " + fk.Parent + " p ON " + many + " FOR KEY SHARE OF p) " +
		"SELECT n::pg_catalog.text FROM v WHERE n NOT IN (SELECT n FROM l) " +
		"AND EXISTS (SELECT 1 FROM " + child + " c WHERE " + goneMany + ")"
}

// reference is a value of a foreign key whose parent is to be found.
type reference struct {
	rel    *applyRel
	fk     *foreignKey
	values [][]byte
}

// fkChecks is what a transaction has to check at its end.
type fkChecks struct {
	seen map[string]bool
	todo []reference
	open []reference // whose parent was not there at an earlier look: it may come
}

const (
	fkSingles = 8    // so many are checked one by one, in the write that prepares
	fkMost    = 4096 // so many are held back; then they are checked, and those kept that have no parent yet
)

// relFK is a foreign key as a payload's relation has it: the columns by their place.
type relFK struct {
	fk    *foreignKey
	index []int
}

// learnFacts makes sure that rel's facts are known, and what they ask for is done.
func (t *applyTxn) learnFacts(rel *applyRel) error {
	if t.state == nil {
		t.state = t.cfg.Catalog.now.Load()
		if t.job.payload.Has(mtm.PayloadDDL) {
			t.state = newCatalogState() // what is not committed is not for others
		}
	}
	if rel.state != t.state {
		facts, err := t.loadFacts(rel.name)
		if err != nil {
			return err
		}
		rel.facts, rel.state = facts, t.state
		rel.leaveOut(facts.Generated)
		rel.fks = rel.fks[:0]
		for _, fk := range facts.ForeignKeys {
			if index := rel.columnsOf(fk); index != nil {
				rel.fks = append(rel.fks, relFK{fk, index})
			}
		}
	}
	if rel.facts.Deferrable && !t.deferred {
		t.deferred = true
		t.sendOnce("SET CONSTRAINTS ALL DEFERRED", sentStmt{})
	}
	return nil
}

// leaveOut takes columns, which are generated here, out of rel and of each row of it: PostgreSQL 18 sends them.
func (rel *applyRel) leaveOut(columns []string) {
	if rel.sent == nil && len(columns) == 0 {
		return
	}
	if rel.sent == nil {
		rel.sent = rel.Columns
	}
	rel.Columns, rel.stmts = nil, map[string]*applyStmt{}
	for _, c := range rel.sent {
		if !slices.Contains(columns, c.Name) {
			rel.Columns = append(rel.Columns, c)
		}
	}
}

// strip leaves of a row what leaveOut has left of rel. What has another length than the columns that were sent stays as it is.
func (rel *applyRel) strip(row pgoutput.Tuple) pgoutput.Tuple {
	if len(rel.sent) == len(rel.Columns) || len(row) != len(rel.sent) {
		return row
	}
	kept := make(pgoutput.Tuple, 0, len(rel.Columns))
	for i, v := range row {
		if n := len(kept); n < len(rel.Columns) && rel.Columns[n].Name == rel.sent[i].Name {
			kept = append(kept, v)
		}
	}
	return kept
}

func (t *applyTxn) loadFacts(name string) (*tableFacts, error) {
	if f := t.state.get(name); f != nil {
		return f, nil
	}
	rows, err := t.rows(factsSQL, name)
	if err != nil {
		return nil, err
	}
	f := &tableFacts{}
	if len(rows) == 1 {
		if err := json.Unmarshal([]byte(rows[0]), f); err != nil {
			return nil, fmt.Errorf("foreign keys of %s: %w", name, err)
		}
	}
	for _, fk := range f.ForeignKeys {
		fk.init(name)
	}
	t.state.put(name, f)
	return f, nil
}

// columnsOf finds the columns of fk in rel. nil: one is not in the payload (it is generated).
func (rel *applyRel) columnsOf(fk *foreignKey) []int {
	var index []int
	for _, c := range fk.Columns {
		for i, have := range rel.Columns {
			if have.Name == c.Name {
				index = append(index, i)
			}
		}
	}
	if len(index) != len(fk.Columns) {
		return nil
	}
	return index
}

// refer notes what a new row refers to. set, of an UPDATE, says which columns may be new.
func (t *applyTxn) refer(rel *applyRel, row pgoutput.Tuple, set []byte) {
	if t.fk == nil {
		return
	}
	for _, f := range rel.fks {
		values, ok := f.values(row, set)
		if !ok {
			continue
		}
		key := fmt.Appendf(nil, "%p", f.fk)
		for _, v := range values {
			key = append(strconv.AppendInt(append(key, ' '), int64(len(v)), 10), ' ')
			key = append(key, v...)
		}
		if !t.fk.seen[string(key)] {
			t.fk.seen[string(key)] = true
			t.fk.todo = append(t.fk.todo, reference{rel, f.fk, values})
		}
	}
}

// values are those of the foreign key in row. False: it refers to nothing, or to what it referred to before.
func (f relFK) values(row pgoutput.Tuple, set []byte) ([][]byte, bool) {
	changed := set == nil
	values := make([][]byte, 0, len(f.index))
	for _, i := range f.index {
		if row[i].Kind != pgoutput.Text {
			return nil, false
		}
		changed = changed || set[i] == 's'
		values = append(values, append([]byte(nil), row[i].Data...))
	}
	return values, changed
}

// fkFull reports whether references should be checked before more come.
func (t *applyTxn) fkFull() bool { return t.fk != nil && len(t.fk.todo) >= fkMost }

// checkSoFar checks what was noted; what has no parent yet is kept.
func (t *applyTxn) checkSoFar() error {
	missing, err := t.missingParents(t.fk.todo)
	t.fk.open = append(t.fk.open, missing...)
	t.fk.todo, t.fk.seen = nil, map[string]bool{}
	return err
}

// forgetReferences drops what the rows of a table refer to: it is truncated, perhaps with their parents.
func (t *applyTxn) forgetReferences(rel *applyRel) {
	if t.fk == nil {
		return
	}
	gone := func(r reference) bool { return r.rel.name == rel.name }
	t.fk.todo, t.fk.open, t.fk.seen = slices.DeleteFunc(t.fk.todo, gone), slices.DeleteFunc(t.fk.open, gone), map[string]bool{}
}

// referencesAgain drops what need not be checked any more, because DDL took the foreign key or its parent away.
func (t *applyTxn) referencesAgain() error {
	if t.fk == nil {
		return nil
	}
	kept := map[*foreignKey]bool{}
	var first error
	gone := func(r reference) bool {
		keep, known := kept[r.fk]
		if !known && first == nil {
			found, err := t.rows("SELECT conname FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conname = $1 "+
				"AND conrelid = pg_catalog.to_regclass($2)", r.fk.Name, r.rel.name)
			keep, first = err != nil || len(found) > 0, err
			kept[r.fk] = keep
		}
		return !keep
	}
	t.fk.todo, t.fk.open = slices.DeleteFunc(t.fk.todo, gone), slices.DeleteFunc(t.fk.open, gone)
	return first
}

// checkReferences locks every parent, at the transaction's end.
func (t *applyTxn) checkReferences() error {
	if t.fk == nil {
		return nil
	}
	todo := append(t.fk.open, t.fk.todo...)
	if len(todo) > fkSingles {
		missing, err := t.missingParents(todo)
		if err == nil && len(missing) > 0 {
			err = &parentError{rel: missing[0].rel, fk: missing[0].fk}
		}
		return err
	}
	for _, r := range todo {
		st := t.fkStmts[r.fk.one]
		if st == nil {
			st = &applyStmt{sql: r.fk.one}
			t.fkStmts[r.fk.one] = st
		}
		if err := t.send(st, r.values, sentStmt{rel: r.rel, fk: r.fk}); err != nil {
			return err
		}
	}
	return nil
}

// missingParents locks the parents of refs and returns those that have none.
func (t *applyTxn) missingParents(refs []reference) (missing []reference, err error) {
	for len(refs) > 0 {
		fk := refs[0].fk
		var batch, rest []reference
		for _, r := range refs {
			if r.fk == fk && len(batch) < fkMost {
				batch = append(batch, r)
			} else {
				rest = append(rest, r)
			}
		}
		refs = rest
		params := make([]string, len(fk.Columns))
		for i := range params {
			params[i] = arrayLiteral(batch, i)
		}
		found, err := t.rows(fk.many, params...)
		if err != nil {
			return nil, err
		}
		for _, text := range found {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > len(batch) {
				return nil, fmt.Errorf("check of foreign key %s: row %q", fk.Name, text)
			}
			missing = append(missing, batch[n-1])
		}
	}
	return missing, nil
}

// arrayLiteral is the text form of an array of the i-th values.
func arrayLiteral(refs []reference, i int) string {
	var b strings.Builder
	b.WriteByte('{')
	for n, r := range refs {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for _, c := range r.values[i] {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
