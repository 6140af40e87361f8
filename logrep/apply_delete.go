package logrep

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"mtm/logrep/pgoutput"
)

// DELETEs of rows that only their content identifies search the whole table, each of them. Consecutive ones of one table go
// as one statement, which reads it once.
const (
	deleteTogether = 8       // so few go one by one
	deleteMaxRows  = 10000   // in one statement
	deleteMaxBytes = 1 << 20 // of their content
)

// hold keeps a DELETE back until it is clear whether it is one of many. false: it is not such a DELETE.
func (t *applyTxn) hold(c *rowChange, m *pgoutput.Delete) (bool, error) {
	if m.OldKind != 'O' || t.guarded(c.rel) {
		return false, nil
	}
	if len(t.gone) > 0 && t.gone[0].rel != c.rel || len(t.gone) >= deleteMaxRows || t.goneBytes > deleteMaxBytes {
		if err := t.endGone(); err != nil {
			return true, err
		}
	}
	key := contentKey(m.Old)
	t.gone, t.goneKeys, t.goneBytes = append(t.gone, c), append(t.goneKeys, key), t.goneBytes+2*len(key)
	return true, nil
}

// endGone sends the DELETEs that were held back.
func (t *applyTxn) endGone() error {
	gone, keys := t.gone, t.goneKeys
	t.gone, t.goneKeys, t.goneBytes = nil, nil, 0
	if len(gone) < deleteTogether {
		for _, c := range gone {
			if err := t.change(c); err != nil {
				return err
			}
		}
		return nil
	}
	rel := gone[0].rel
	st := rel.stmts["Gone"]
	if st == nil {
		st = &applyStmt{sql: rel.deleteManySQL()}
		rel.stmts["Gone"] = st
	}
	return t.send(st, [][]byte{textArray(keys), []byte(strconv.Itoa(len(keys)))}, sentStmt{rel: rel})
}

// contentKey is all of a row as one text: rows with the same values have the same, others another.
func contentKey(row pgoutput.Tuple) string {
	var b strings.Builder
	for _, v := range row {
		if v.Kind == pgoutput.Null {
			b.WriteByte('n')
			continue
		}
		b.WriteString(strconv.Itoa(utf8.RuneCount(v.Data)))
		b.WriteByte(':')
		b.Write(v.Data)
	}
	return b.String()
}

// contentKeySQL is contentKey in SQL.
func (rel *applyRel) contentKeySQL() string {
	parts := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		col := quoteIdent(c.Name)
		parts[i] = "CASE WHEN " + col + " IS DISTINCT FROM NULL THEN pg_catalog.concat(pg_catalog.length(pg_catalog.concat(" + col +
			")), ':', " + col + ") ELSE 'n' END"
	}
	return "(" + strings.Join(parts, " || ") + `) COLLATE pg_catalog."C"`
}

// deleteManySQL deletes as many rows of each content as there are elements of $1 that equal it, and fails unless they are $2 in all.
func (rel *applyRel) deleteManySQL() string {
	return "WITH u AS (DELETE FROM ONLY " + rel.name + " USING (SELECT m.c FROM (SELECT c, k, pg_catalog.row_number() OVER (PARTITION BY k) AS n " +
		"FROM (SELECT ctid AS c, " + rel.contentKeySQL() + " AS k FROM ONLY " + rel.name + ") r) m JOIN (" +
		"SELECT k, pg_catalog.row_number() OVER (PARTITION BY k) AS n FROM pg_catalog.unnest($1::pg_catalog.text[]) g(k)) d " +
		"ON m.k = d.k AND m.n = d.n) x WHERE ctid = x.c RETURNING 1) SELECT CASE pg_catalog.count(*) WHEN $2::pg_catalog.int8 THEN 1 ELSE ('" + wrongCount +
		"' || pg_catalog.count(*))::pg_catalog.int4 END FROM u"
}

// textArray is an array in PostgreSQL's text form.
func textArray(values []string) []byte {
	b := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		for j := range len(v) {
			if v[j] == '"' || v[j] == '\\' {
				b = append(b, '\\')
			}
			b = append(b, v[j])
		}
		b = append(b, '"')
	}
	return append(b, '}')
}
