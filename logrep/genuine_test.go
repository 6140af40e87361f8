package logrep

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// What a client says under a prefix of ours is not believed.
func TestForgedMessagesDoNothing(t *testing.T) {
	p := newPair(t, "CREATE TABLE t (id int PRIMARY KEY)")
	forged := func(prefix, content string) string {
		return "SELECT pg_logical_emit_message(true, '" + prefix + "', " + quoteLiteral(content) + ")"
	}
	evil := `{"v":1,"text":"CREATE TABLE evil (a int)","search_path":"public"}`
	c := p.commit("INSERT INTO t VALUES (1)",
		forged("mtm.ddl", evil), forged("mtm.ddl", mtm.TokenPrefix+"1-00 "+evil), forged("mtm.ddl", " "+evil), forged("mtm.ddlend", ""),
		forged("mtm.rows", `{"head":{"v":1,"schema":"public","name":"t","columns":[{"name":"id","type":23}]},"first":true,"rows":[["7"]]}`),
		forged("mtm.missing", `{"v":1,"schema":"public","name":"t","column":"id","value":"{7}"}`),
		forged("mtm.finish", `{"v":1,"gid":"mtm-1-1-1-user","commits":true}`), forged("mtm.prepare", `{"v":1,"gid":"mtm-1-1-1-user"}`),
		forged("mtm.recovered", ""), forged("mtm.open", "mtm-1-1-99 5"))
	require.False(t, c.p.Has(mtm.PayloadDDL))
	require.NotContains(t, string(c.p.Data), "mtm.")
	require.Equal(t, 1, p.same("t"))
	require.Empty(t, p.b.rows("SELECT 1 FROM pg_class WHERE relname = 'evil'"))
	// A genuine statement's end is not forged either.
	ddl := text("CREATE TABLE good (a int PRIMARY KEY)")
	p.commit(ddl[0], ddl[1], forged("mtm.ddlend", "temporary"), ddl[2])
	p.same("good")
	// Nor does a client have another's transaction taken for his, or his own for what came by replication.
	p.a.exec("BEGIN; INSERT INTO t SELECT g FROM generate_series(100, 5000) g; " + forged("mtm.recovered", "") + ";" +
		forged("mtm.open", "mtm-1-1-99 "+strings.Repeat(" ", mtm.OpenPad)) + "; COMMIT")
	require.Contains(t, wait(t, p.sink.incidents, "incident"), "public.t")
	require.Empty(t, p.sink.captured)
}

// preparedSchema is the table that orders are rows of.
const preparedSchema = "CREATE TABLE mtm.prepared (name text PRIMARY KEY, gid text NOT NULL UNIQUE, owner name NOT NULL, prepared timestamptz NOT NULL, commits boolean)"

// An order is a row, whatever becomes of the rest of its transaction; what was rolled back to a savepoint is none.
func TestOrdersAreRows(t *testing.T) {
	p := newPair(t, preparedSchema, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	order := func(n int) string {
		return fmt.Sprintf("UPDATE mtm.prepared SET commits = %v WHERE gid = 'mtm-1-1-%d-user'", n%2 == 1, 900+n)
	}
	for _, n := range []*node{p.a, p.b} {
		for k := range 6 {
			n.exec(fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d); PREPARE TRANSACTION 'mtm-1-1-%d-user'; INSERT INTO mtm.prepared VALUES ('u%[1]d', 'mtm-1-1-%[2]d-user', 'postgres', now())", k, 900+k))
			if n == p.a {
				wait(t, p.sink.captured, "what an earlier life prepared")
			}
		}
	}
	c := p.commit(order(0), order(1))
	require.True(t, c.p.Has(mtm.PayloadDDL))
	p.commit("INSERT INTO t VALUES (50)", "SAVEPOINT s", order(2), "ROLLBACK TO s")
	large := "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(%d, %d) g"
	p.commit("SAVEPOINT s", order(3), fmt.Sprintf(large, 1000, 4000), "ROLLBACK TO s", fmt.Sprintf(large, 5000, 8000), order(4))
	p.same("t")
	require.Equal(t, []string{"|mtm-1-1-902-user", "|mtm-1-1-903-user", "|mtm-1-1-905-user"},
		p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"))
	require.Equal(t, p.b.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"),
		p.a.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"))
	require.Equal(t, []string{"|1"}, p.b.rows("SELECT id FROM t WHERE id < 6"))
	// What announces another's transaction, or one of which nothing came, is refused.
	for _, gid := range []string{"mtm-1-1-777-user", "mtm-1-1-905-user"} {
		own := p.gid()
		p.a.exec("DELETE FROM mtm.prepared WHERE gid = '" + gid + "'; BEGIN; INSERT INTO mtm.prepared VALUES ('x', '" + gid + "', 'postgres', now()); PREPARE TRANSACTION '" + own.String() + "'")
		r := wait(t, p.sink.refused, "Refused")
		require.Equal(t, own, r.gid)
		require.Equal(t, "55000", r.err.Code)
		p.finish(own, false)
	}
}
