package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"mtm/testcluster"
)

// past is a comment that the lexer does not take.
var past = "/* " + strings.Repeat("=", 300) + " */"

// alones are ways to have PostgreSQL commit by itself what it should not: each writes row # or fails, and no node is to differ. before is run first, as
// simple Queries; then script one by one and in one go, simple and extended.
var alones = []struct{ before, script string }{
	// A block that only said that it is READ ONLY.
	{"", "BEGIN READ ONLY; BEGIN READ WRITE; SELECT lone(#); COMMIT"},
	{"", "BEGIN READ ONLY; START TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT lone(#); COMMIT"},
	{"", "BEGIN READ ONLY; BEGIN; SELECT lone(#); COMMIT"},
	{"", "BEGIN READ ONLY; ROLLBACK; BEGIN; SELECT lone(#); COMMIT"},
	// A guard that is off when a COMMIT has come between, before the gateway can know.
	{"", "SET default_transaction_read_only = off; COMMIT; SELECT lone(#)"},
	{"", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; COMMIT; SELECT lone(#)"},
	{"", "SELECT unguard(); COMMIT; SELECT lone(#)"},
	{"SELECT unguard()", "SELECT unguard() FROM forget(); SELECT 1; SELECT lone(#)"},
	{"", "INSERT INTO alone VALUES (#); ALTER DATABASE postgres SET vacuum_cost_page_hit = 1"},
	{"", "ALTER DATABASE postgres SET vacuum_cost_page_hit = 1; INSERT INTO alone VALUES (#)"},
	{"", `SET U&"transaction\005fread_only" = off; SELECT lone(#)`},
	// Who has his transactions READ ONLY.
	{"SET default_transaction_read_only = on", "SET default_transaction_read_only = off; BEGIN; COMMIT; INSERT INTO alone VALUES (#)"},
	{"SET default_transaction_read_only = on", "SELECT unguard(); COMMIT; INSERT INTO alone VALUES (#)"},
	{"SET default_transaction_read_only = on", "DO 'BEGIN COMMIT\\; SET TRANSACTION READ WRITE\\; INSERT INTO alone VALUES (#)\\; END'"},
	{"SET default_transaction_read_only = on", "SET transaction_read_only = off " + past + "; SELECT lone(#)"},
	// A COMMIT that the lexer does not take.
	{"", "BEGIN; INSERT INTO alone VALUES (#); COMMIT " + past},
	{"", "BEGIN; INSERT INTO alone VALUES (#); ; /* \n */ end -- " + past},
	{"SET standard_conforming_strings = off", `BEGIN; INSERT INTO alone VALUES (#); COMMIT /* \ */`},
	// What runs at COMMIT.
	{"CREATE TEMP TABLE notes (id int); CREATE CONSTRAINT TRIGGER d AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lone()",
		"BEGIN; INSERT INTO notes VALUES (#); COMMIT"},
	{"CREATE TEMP TABLE notes (id int); CREATE CONSTRAINT TRIGGER d AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lone()",
		"DECLARE c CURSOR WITH HOLD FOR SELECT 1; INSERT INTO notes VALUES (#)"},
	{"", "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT lone(#); COMMIT"},
	{"", "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT lone(#); COMMIT AND CHAIN; COMMIT"},
	{"", "DECLARE c CURSOR WITH HOLD FOR SELECT lone(#)"},
	{"", "BEGIN; DELETE FROM lone_log; DECLARE c CURSOR WITH HOLD FOR SELECT lone(#); COMMIT"},
	// What the question of what was written does not see.
	{"CREATE TEMP TABLE notes (id int)", "INSERT INTO information_schema.alone VALUES (#)"},
	{"", "BEGIN; DO 'BEGIN CREATE TYPE lone_# AS ENUM ()\\; END'; RESET ALL; COMMIT"},
}

// nothingAlone: what was written is on all nodes, or on none, by whatever way PostgreSQL may commit. The cluster's own end looks for incidents.
func nothingAlone(t *testing.T, c *testcluster.Cluster) {
	execAll(t, c.Node(1).Connect(), "CREATE TABLE alone (id int PRIMARY KEY)", "CREATE TABLE information_schema.alone (id int PRIMARY KEY)", "CREATE TABLE lone_log (id int PRIMARY KEY)",
		"CREATE FUNCTION lone(x int) RETURNS void LANGUAGE sql AS 'INSERT INTO alone VALUES (x)'",
		"CREATE FUNCTION lone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM lone(NEW.id); RETURN NULL; END'",
		"CREATE FUNCTION unguard() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('default_transact' || 'ion_read_only', 'off', false); END $$",
		"CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; END'")
	const state = `SELECT concat((SELECT array_agg(id ORDER BY id) FROM alone), (SELECT array_agg(id ORDER BY id) FROM information_schema.alone),
		(SELECT array_agg(typname ORDER BY 1) FROM pg_type WHERE typname LIKE 'lone\_%'))`
	same := func(what string) {
		t.Helper()
		want := one[string](t, c.Node(1).Connect(), state)
		for _, n := range c.Nodes()[1:] {
			require.Equal(t, want, one[string](t, n.Connect(), state), "node %d: %s", n.ID, what)
		}
	}
	id := 0
	texts := func(script string) []string {
		id++
		script = strings.ReplaceAll(strings.ReplaceAll(script, `\;`, "\x00"), "lone(#)", "lone(#) AS fresh_"+strings.Repeat("x", id)) // no text that is known to write
		stmts := strings.Split(strings.ReplaceAll(script, "#", fmt.Sprint(id)), ";")
		for i := range stmts {
			stmts[i] = strings.ReplaceAll(stmts[i], "\x00", ";")
		}
		return stmts
	}
	pipeline := func(db *pgconn.PgConn, stmts ...string) {
		p := db.StartPipeline(t.Context())
		for _, one := range stmts {
			p.SendQueryParams(one, nil, nil, nil, nil)
		}
		require.NoError(t, p.Sync())
		p.Close() //nolint:errcheck // it may fail
	}
	simple := func(db *pgconn.PgConn, sql string) { db.Exec(t.Context(), sql).Close() } //nolint:errcheck // so may this
	for way, run := range map[string]func(*pgconn.PgConn, []string){
		"simple":     func(db *pgconn.PgConn, stmts []string) { each(stmts, func(one string) { simple(db, one) }) },
		"one string": func(db *pgconn.PgConn, stmts []string) { simple(db, strings.Join(stmts, ";")) },
		"extended":   func(db *pgconn.PgConn, stmts []string) { each(stmts, func(one string) { pipeline(db, one) }) },
		"pipeline":   func(db *pgconn.PgConn, stmts []string) { pipeline(db, stmts...) },
	} {
		for _, a := range alones {
			db := c.Node(1).Connect()
			execSQL(t, db, a.before)
			run(db.PgConn(), texts(a.script))
			require.NoError(t, db.Close(t.Context()))
			same(way + ": " + a.script)
		}
	}
	db := c.Node(1).Connect()
	execAll(t, db, "BEGIN", "CREATE VIEW lone_view AS SELECT 1", "SAVEPOINT a")
	pipeline(db.PgConn(), "SELECT 1/0", "ROLLBACK AND CHAIN")
	execAll(t, db, "ROLLBACK TO a", "COMMIT")
	require.Equal(t, 1, one[int](t, c.Node(2).Connect(), "SELECT * FROM lone_view"))

	execAll(t, db, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE lone_new (id int PRIMARY KEY)")
	execAll(t, db, "DO 'BEGIN INSERT INTO lone_new VALUES (1); END'", "COMMIT")
	require.Equal(t, 1, one[int](t, c.Node(2).Connect(), "SELECT * FROM lone_new"))

	execAll(t, db, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT * FROM lone_log")
	execSQL(t, c.Node(2).Connect(), "TRUNCATE lone_log") // it is in the way
	execSQL(t, db, "ROLLBACK AND CHAIN")
	require.Equal(t, "on repeatable read", one[string](t, db, "SELECT concat(current_setting('transaction_read_only'), ' ', current_setting('transaction_isolation'))"))
	execSQL(t, db, "ROLLBACK")

	execAll(t, db, "CREATE FUNCTION lone_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO alone VALUES (0); END'",
		"CREATE EVENT TRIGGER lone_event ON ddl_command_end WHEN TAG IN ('CREATE SUBSCRIPTION') EXECUTE FUNCTION lone_event()",
		"CREATE SUBSCRIPTION lone CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false, slot_name = NONE)", "DROP EVENT TRIGGER lone_event", "DROP SUBSCRIPTION lone")
	require.Equal(t, 1, one[int](t, db, "SELECT count(*)::int FROM alone WHERE id = 0"))
	same("an event trigger")

	// A portal that another Bind did not replace.
	frontend := db.PgConn().Frontend()
	sync := func(msgs ...pgproto3.FrontendMessage) {
		for _, m := range append(msgs, &pgproto3.Sync{}) {
			frontend.Send(m)
		}
		require.NoError(t, frontend.Flush())
		for done := false; !done; {
			m, err := frontend.Receive()
			require.NoError(t, err)
			_, done = m.(*pgproto3.ReadyForQuery)
		}
	}
	execAll(t, db, "BEGIN", "INSERT INTO alone VALUES (-2)")
	sync(&pgproto3.Parse{Name: "lone_c", Query: "COMMIT"}, &pgproto3.Bind{DestinationPortal: "lone_p", PreparedStatement: "lone_c"})
	sync(&pgproto3.Parse{Query: "SAVEPOINT a"}, &pgproto3.Bind{}, &pgproto3.Execute{})
	sync(&pgproto3.Parse{Name: "lone_s", Query: "SELECT 1"}, &pgproto3.Bind{DestinationPortal: "lone_p", PreparedStatement: "lone_s"})
	sync(&pgproto3.Parse{Query: "ROLLBACK TO a"}, &pgproto3.Bind{}, &pgproto3.Execute{})
	sync(&pgproto3.Execute{Portal: "lone_p"})
	require.Equal(t, 1, one[int](t, c.Node(1).Connect(), "SELECT count(*)::int FROM alone WHERE id = -2"))
	same("a portal")

	db, err := c.Node(1).ConnectErr(t.Context())
	require.NoError(t, err)
	cfg := db.Config()
	require.NoError(t, db.Close(t.Context()))
	cfg.RuntimeParams["Default_Transaction_Read_Only"] = "off"
	p, err := pgconn.ConnectConfig(t.Context(), &cfg.Config)
	require.NoError(t, err)
	require.NoError(t, p.Exec(t.Context(), "SELECT lone(-1) AS fresh").Close())
	require.NoError(t, p.Close(t.Context()))
	same("a startup parameter")
}

func each(all []string, f func(string)) {
	for _, one := range all {
		f(one)
	}
}
