package logrep

import (
	"testing"

	"github.com/stretchr/testify/require"

	"mtm"
)

// localSetup is what sql/schema makes, without the triggers.
var localSetup = []string{
	"CREATE TABLE mtm.local_tables (relid regclass PRIMARY KEY)",
	"CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE \"Loc\" (id int PRIMARY KEY)",
	"CREATE UNLOGGED TABLE un (id int)",
}

// list makes a table local, as the triggers do it.
func list(name string) []string {
	return []string{
		"LOCK TABLE ONLY " + name + " IN SHARE ROW EXCLUSIVE MODE",
		"UPDATE pg_class SET relname = relname WHERE oid = '" + name + "'::regclass",
		"INSERT INTO mtm.local_tables VALUES ('" + name + "')",
	}
}

// TestLocalTables: a table stops being replicated when the transaction that lists it commits, on both nodes, whatever was captured of
// it before.
func TestLocalTables(t *testing.T) {
	p := newPair(t, localSetup...)
	note := "SELECT pg_logical_emit_message(true, 'mtm', '')"
	p.commit(`INSERT INTO "Loc" VALUES (1)`)

	// Rolled back: nothing.
	c := p.prepare(list(`"Loc"`)...)
	require.Nil(t, p.apply(c))
	p.finish(c.gid, false)
	p.commit(append([]string{"SAVEPOINT a"}, append(list(`"Loc"`), "ROLLBACK TO a", `INSERT INTO "Loc" VALUES (2)`)...)...)
	require.Empty(t, p.b.rows("SELECT relid FROM mtm.local_tables"))
	require.Equal(t, 2, p.same(`"Loc"`))

	// What the transaction itself writes is on all nodes, before and after.
	c = p.commit(append([]string{`INSERT INTO "Loc" VALUES (3)`}, append(list(`"Loc"`), `INSERT INTO "Loc" VALUES (4)`)...)...)
	require.True(t, c.p.Has(mtm.PayloadDDL))
	require.Equal(t, 4, p.same(`"Loc"`, "mtm.local_tables")-1)

	c = p.commit(`INSERT INTO "Loc" VALUES (5)`, `TRUNCATE "Loc"`, `INSERT INTO "Loc" VALUES (6)`, note)
	require.Equal(t, mtm.PayloadEmpty, c.p.Flags)
	require.Len(t, p.b.rows(`SELECT id FROM "Loc"`), 4)
	p.commit(`TRUNCATE "Loc", un, t`, "INSERT INTO t VALUES (1, 'a')")
	p.same("t")
	require.Len(t, p.b.rows(`SELECT id FROM "Loc"`), 4)

	// By another name, large and in a new stream.
	p.commit(text(`ALTER TABLE "Loc" RENAME TO other`)...)
	c = p.commit("INSERT INTO other SELECT generate_series(10, 200000)", "INSERT INTO t VALUES (2, 'b')")
	require.Empty(t, c.p.Spill)
	p.a.exec("SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '" + p.a.cfg.Slot + "'")
	p.commit("INSERT INTO other VALUES (7)", "INSERT INTO t VALUES (3, 'c')")
	p.same("t")
	require.Len(t, p.b.rows("SELECT id FROM other"), 4)
	p.a.exec("INSERT INTO other VALUES (8)")
	p.commit("INSERT INTO t VALUES (4, 'd')")
	require.Empty(t, p.sink.incidents, "it concerns nobody else")

	// In one transaction with the DDL that makes it, and dropped.
	p.commit(append(text("CREATE TABLE late (id int)"), append(list("late"), "INSERT INTO late VALUES (1)")...)...)
	p.commit("INSERT INTO late VALUES (2)", note)
	require.Len(t, p.b.rows("SELECT id FROM late"), 1)
	p.commit(append(text("DROP TABLE late"), text("CREATE TABLE late (id int)")...)...)
	p.commit("INSERT INTO late VALUES (3)")
	require.Equal(t, 1, p.same("late"))
}

// TestTableOfAnotherNodesListIsLocalHere: it was listed by a transaction that this node's slot need not show.
func TestTableOfAnotherNodesListIsLocalHere(t *testing.T) {
	p := newPair(t, localSetup...)
	p.commit(`INSERT INTO "Loc" VALUES (1)`)
	p.a.exec("BEGIN")
	p.a.exec("INSERT INTO t VALUES (1, 'before')") // it has begun, and writes to the table later
	other := p.a.session()
	require.NoError(t, run(t.Context(), other, "SELECT pg_replication_origin_create('mtm_w77'), pg_replication_origin_session_setup('mtm_w77'); BEGIN"))
	for _, sql := range list(`"Loc"`) {
		require.NoError(t, run(t.Context(), other, sql))
	}
	require.NoError(t, run(t.Context(), other, "PREPARE TRANSACTION 'mtm-2-1-1'"))
	require.NoError(t, run(t.Context(), other, "COMMIT PREPARED 'mtm-2-1-1'"))
	require.NoError(t, run(t.Context(), other, "SELECT pg_replication_origin_session_reset(), pg_replication_origin_drop('mtm_w77')"))
	gid := p.gid()
	p.a.exec(`INSERT INTO "Loc" VALUES (2)`)
	p.a.exec(gid.SQL("PREPARE TRANSACTION"))
	p.capture.Expect(gid)
	c := wait(t, p.sink.captured, "Captured")
	require.Nil(t, p.apply(c))
	p.finish(c.gid, true)
	require.Equal(t, 1, p.same("t"))
	require.Len(t, p.b.rows(`SELECT id FROM "Loc"`), 1)
}
