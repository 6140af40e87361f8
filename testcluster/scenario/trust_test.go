package scenario

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/testcluster"
)

// TestWhoIsNotTrusted is what a role without rights tries, to get some on other nodes, or to have the nodes differ.
func TestWhoIsNotTrusted(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	root := c.Node(1).Connect()
	execSQL(t, root, "CREATE ROLE mallory LOGIN; CREATE ROLE boss LOGIN SUPERUSER; CREATE SCHEMA own AUTHORIZATION mallory; CREATE TABLE own.t (id int PRIMARY KEY, v text)")
	execSQL(t, root, "ALTER TABLE own.t OWNER TO mallory; INSERT INTO own.t VALUES (1, 'one')")
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"what others say is not believed", forgedMessages},
		{"nor what is said in our words", ownWords},
		{"what DDL calls has the rights of its role", containedDDL},
		{"what rows call has the rights of its owner", containedRows},
		{"orders of prepared transactions", ordersAnywhere},
		{"announcements of other sessions", announcedByOthers},
		{"only administrators ask for other nodes", forgedQuestions},
		{"nobody sees a token", tokensAreSecret},
		{"a session with a name of ours", namedLikeOurs},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := c.For(t)
			one.test(t, c)
			requireNonePrepared(t, c)
			for _, n := range c.Nodes() {
				require.False(t, ofNode[bool](t, n, "SELECT bool_or(rolsuper OR rolcreaterole) FROM pg_roles WHERE rolname = 'mallory'"), "node %d", n.ID)
				require.False(t, ofNode[bool](t, n, "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'evil')"), "node %d", n.ID)
			}
			c.RequireEqual()
		})
	}
}

func ofNode[T any](t testing.TB, n *testcluster.Node, sql string) T {
	return one[T](t, n.ConnectPg(), sql)
}

// connectAs is a client of node n, with settings of his connection.
func connectAs(t testing.TB, n *testcluster.Node, user string, settings map[string]string, notice func(*pgconn.Notice)) *pgx.Conn {
	t.Helper()
	conf, err := pgx.ParseConfig(n.URL())
	require.NoError(t, err)
	conf.User = user
	for k, v := range settings {
		conf.RuntimeParams[k] = v
	}
	if notice != nil {
		conf.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	}
	db, err := pgx.ConnectConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close(context.Background()) }) //nolint:errcheck // the test is over
	return db
}

func mallory(t testing.TB, n *testcluster.Node) *pgx.Conn {
	return connectAs(t, n, "mallory", nil, nil)
}

func forgedMessages(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(1))
	ddl := `{"v":1,"text":"ALTER ROLE mallory SUPERUSER","role":"postgres","session_user":"postgres","search_path":"public"}`
	say := func(prefix, content string) string {
		return fmt.Sprintf("SELECT pg_logical_emit_message(true, '%s', '%s')", prefix, strings.ReplaceAll(content, "'", "''"))
	}
	for i, forged := range []string{
		say("mtm.ddl", ddl), say("mtm.ddl", mtm.TokenPrefix+"1-00 "+ddl), say("mtm.ddlend", "temporary"),
		say("mtm.rows", `{"head":{"v":1,"schema":"own","name":"t","columns":[{"name":"id","type":23}]},"first":true,"rows":[["7"]]}`),
		say("mtm.missing", `{"v":1,"schema":"own","name":"t","column":"v","value":"{x}"}`), say("mtm.recovered", ""),
		say("mtm.open", "mtm-1-1-1 1"), say("mtm.ddlbefore", ""),
	} {
		execSQL(t, db, "BEGIN")
		execSQL(t, db, "UPDATE own.t SET v = $1 WHERE id = 1", fmt.Sprint(i))
		execSQL(t, db, forged)
		execSQL(t, db, "COMMIT")
	}
	// Inside a statement that is told: its end is not mallory's to say.
	execSQL(t, db, "CREATE FUNCTION own.hide() RETURNS int LANGUAGE sql AS $$ SELECT 1 FROM pg_logical_emit_message(true, 'mtm.ddlend', 'temporary') $$")
	execSQL(t, db, "CREATE TABLE own.told AS SELECT own.hide() AS a")
	execSQL(t, db, "DROP TABLE own.told; DROP FUNCTION own.hide()")
}

// ownWords: functions and tables of ours.
func ownWords(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(2))
	for _, sql := range []string{
		"SELECT mtm.say('mtm.ddl', '{}')", "INSERT INTO mtm.said (prefix, content) VALUES ('mtm.ddl', '{}')", "SELECT mtm.send_rows(0)", "SELECT mtm.end_ddl()",
		"SELECT mtm.ask('d3')", "SELECT mtm.proof(1, '', '')", "SELECT mtm.carry_out('d3')", "SELECT mtm.drop_node(3)", "SELECT key FROM mtm.daemon_state",
		"UPDATE mtm.prepared SET commits = true", "INSERT INTO mtm.prepared VALUES ('a', 'b', 'c', now())", "SELECT mtm.nested_ddl()",
	} {
		require.Equal(t, "42501", stateOf(t, db, sql), sql)
	}
	root := c.Node(1).Connect()
	execSQL(t, root, "CREATE SEQUENCE bosses; CREATE TABLE theirs (a int)")
	execSQL(t, db, "CREATE SEQUENCE own.s; SELECT setval('own.s', 1000)")
	for _, sql := range []string{"SELECT mtm.setval_done('bosses', 1000, true, 1)", "INSERT INTO mtm.setvals VALUES ('bosses', 1000, true)", "SELECT setval('bosses', 1000)",
		"SELECT mtm.make_table_local('theirs')", "INSERT INTO mtm.local_tables VALUES ('theirs'::regclass)"} {
		require.Equal(t, "42501", stateOf(t, db, sql), sql)
	}
	for _, n := range c.Nodes() {
		require.Greater(t, ofNode[int](t, n, "SELECT last_value::int FROM own.s"), 900, "node %d", n.ID)
		require.Less(t, ofNode[int](t, n, "SELECT last_value::int FROM bosses"), 20, "node %d", n.ID)
	}
	execSQL(t, root, "GRANT pg_read_all_data, pg_write_all_data TO mallory; DROP SEQUENCE bosses; DROP TABLE theirs")
	for _, sql := range []string{
		"INSERT INTO mtm.said (prefix, content) VALUES ('mtm.ddl', '{}')", "UPDATE mtm.prepared SET commits = true",
		"INSERT INTO mtm.noted_roles (xid) VALUES (pg_current_xact_id())", "INSERT INTO mtm.recovered (at) VALUES (1)", "UPDATE mtm.blocks SET next = 1",
		"UPDATE mtm.sequences SET user_increment = 7", "DELETE FROM mtm.local_tables", "DELETE FROM mtm.full_identity", "INSERT INTO mtm.node (id) VALUES (9)",
	} {
		require.Equal(t, "42501", stateOf(t, db, sql), sql)
	}
	require.Zero(t, one[int](t, db, "SELECT (SELECT count(*) FROM mtm.daemon_state) + (SELECT count(*) FROM mtm.peers)"))
	execSQL(t, root, "REVOKE pg_read_all_data, pg_write_all_data FROM mallory")
}

func containedDDL(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(1))
	execSQL(t, db, "CREATE TABLE own.tried (what text)")
	execSQL(t, db, `CREATE FUNCTION own.try(what text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE what; EXECUTE 'ALTER ROLE mallory SUPERUSER'; RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 1; END $$`)
	for i, what := range []string{"RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION postgres", "RESET ROLE", "SET ROLE boss"} {
		execSQL(t, db, fmt.Sprintf("ALTER TABLE own.t ADD CHECK (own.try('%s') = 1)", what))
		execSQL(t, db, fmt.Sprintf("ALTER TABLE own.t DROP CONSTRAINT t_check, ADD n%d int", i))
		execSQL(t, db, fmt.Sprintf("DO $$ BEGIN EXECUTE 'ALTER TABLE own.t ALTER n%d TYPE text USING own.try(''%s'')::text'; END $$", i, what))
		execSQL(t, db, fmt.Sprintf("ALTER TABLE own.t DROP n%d", i))
	}
	// Names that mallory defined, where a worker looks for PostgreSQL's.
	execSQL(t, db, `CREATE FUNCTION own.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM own.try('SELECT 1'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
		CREATE OPERATOR own.= (LEFTARG = text, RIGHTARG = text, FUNCTION = own.eq)`)
	execSQL(t, db, "SET search_path = own, pg_catalog")
	execSQL(t, db, "CREATE TABLE own.named (a int)")
	execSQL(t, db, "DO $$ BEGIN CREATE TABLE own.nested (a int); END $$")
	execSQL(t, db, "PREPARE p AS SELECT 1 AS a")
	execSQL(t, db, "CREATE TABLE own.executed AS EXECUTE p")
	execSQL(t, db, "RESET search_path")
	// A function of another's, that runs as him, for somebody who is not his.
	root := c.Node(1).Connect()
	execSQL(t, root, "CREATE FUNCTION own.make() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN CREATE TABLE own.bosses (a int); END $$; ALTER FUNCTION own.make() OWNER TO boss")
	execSQL(t, db, "SELECT own.make()")
	for _, n := range c.Nodes() {
		require.Equal(t, "boss mallory mallory", ofNode[string](t, n, "SELECT string_agg(tableowner, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'own' AND tablename IN ('bosses', 'named', 'nested')"))
	}
	execSQL(t, root, "DROP FUNCTION own.make(); DROP TABLE own.bosses")
	execSQL(t, db, "DROP TABLE own.named, own.nested, own.executed, own.tried; DROP OPERATOR own.= (text, text); DROP FUNCTION own.eq(text, text), own.try(text)")
}

// containedRows: functions in indexes, checks, generated columns, domains and keys of partitions run wherever the row is applied.
func containedRows(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(1))
	execSQL(t, db, `CREATE FUNCTION own.work(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('mtm.gateway', true) = 'on' THEN RETURN; END IF;
		BEGIN EXECUTE what; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$`)
	execSQL(t, db, "CREATE FUNCTION own.evil(what text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM own.work(what); RETURN 1; END $$") // not so immutable
	execSQL(t, db, "CREATE DOMAIN own.evil_text AS text CHECK (own.evil(VALUE) = 1)")
	execSQL(t, db, "CREATE TABLE own.plain (id int PRIMARY KEY, v text)")
	for name, ddl := range map[string]string{
		"expr":    "CREATE TABLE own.expr (id int PRIMARY KEY, v text); CREATE INDEX ON own.expr (own.evil(v))",
		"pred":    "CREATE TABLE own.pred (id int PRIMARY KEY, v text); CREATE INDEX ON own.pred (id) WHERE own.evil(v) = 1",
		"checked": "CREATE TABLE own.checked (id int PRIMARY KEY, v text CHECK (own.evil(v) = 1))",
		"gen":     "CREATE TABLE own.gen (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (own.evil(v)) STORED)",
		"dom":     "CREATE TABLE own.dom (id int PRIMARY KEY, v own.evil_text)",
		"comp":    "CREATE TYPE own.pair AS (a own.evil_text); CREATE TABLE own.comp (id int PRIMARY KEY, v text, p own.pair)",
		"parts":   "CREATE TABLE own.parts (id int, v text) PARTITION BY LIST (own.evil(v)); CREATE TABLE own.parts_1 PARTITION OF own.parts FOR VALUES IN (1)",
		"builtin": "CREATE VIEW own.seen AS SELECT own.evil('RESET SESSION AUTHORIZATION') AS e; CREATE TABLE own.builtin (id int PRIMARY KEY, v text CHECK (table_to_xml('own.seen', true, false, '') IS NOT NULL))",
		"nokey":   "CREATE TABLE own.nokey (id int, v text); CREATE INDEX ON own.nokey (own.evil(v))",
	} {
		for _, s := range strings.Split(ddl, "; ") {
			execSQL(t, db, s)
		}
		for i, what := range []string{
			"RESET SESSION AUTHORIZATION", "RESET ROLE", "SET ROLE boss", "SET search_path = own, pg_catalog", "DEALLOCATE ALL", "SET client_encoding = GBK",
			"DO $x$ DECLARE f oid; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'run mtm%' LOOP EXECUTE 'ALTER FUNCTION ' || f::regprocedure || ' SECURITY INVOKER'; END LOOP; END $x$",
		} {
			execSQL(t, db, "BEGIN")
			state := stateOf(t, db, fmt.Sprintf("INSERT INTO own.%s (id, v) VALUES (%d, %s)", name, i, quote(what)))
			require.Empty(t, state, "%s: %s", name, what)
			execSQL(t, db, fmt.Sprintf("INSERT INTO own.plain VALUES (%d, 'plain') ON CONFLICT (id) DO UPDATE SET v = own.plain.v || 'é'", i))
			execSQL(t, db, fmt.Sprintf("UPDATE own.%s SET v = v || ' ' WHERE id = %d", name, i))
			execSQL(t, db, fmt.Sprintf("INSERT INTO own.%s (id, v) VALUES (%d, 'RESET SESSION AUTHORIZATION')", name, 100+i))
			if state := stateOf(t, db, "COMMIT"); state != "" { // what it did to mtm's function was noticed
				require.Equal(t, "42501", state, "%s: %s", name, what)
				require.Contains(t, what, "ALTER FUNCTION")
			}
		}
		execSQL(t, db, fmt.Sprintf("INSERT INTO own.%s (id, v) SELECT g, 'RESET ROLE' FROM generate_series(200, 300) g", name))
		execSQL(t, db, fmt.Sprintf("DELETE FROM own.%s WHERE id BETWEEN 200 AND 250", name))
		execSQL(t, db, fmt.Sprintf("ALTER TABLE own.%s ADD n float DEFAULT random()", name))
	}
	execSQL(t, db, "CREATE FUNCTION own.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM own.evil('RESET SESSION AUTHORIZATION'); RETURN new; END $$")
	execSQL(t, db, "CREATE TRIGGER fire BEFORE INSERT ON own.plain FOR EACH ROW EXECUTE FUNCTION own.fire()")
	execSQL(t, db, "CREATE RULE also AS ON INSERT TO own.plain DO ALSO SELECT own.evil('RESET SESSION AUTHORIZATION')")
	for _, sql := range []string{"ENABLE ALWAYS TRIGGER fire", "ENABLE REPLICA TRIGGER fire", "ENABLE ALWAYS RULE also", "ENABLE REPLICA RULE also"} {
		require.Equal(t, "42501", stateOf(t, db, "ALTER TABLE own.plain "+sql), sql)
	}
	for _, n := range c.Nodes() {
		require.False(t, ofNode[bool](t, n, "SELECT EXISTS (SELECT FROM pg_proc WHERE proname LIKE 'run mtm%')"))
	}
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// ordersAnywhere: an order is carried out on all nodes, or on none.
func ordersAnywhere(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(1))
	for i := range 7 {
		for _, sql := range []string{"BEGIN", fmt.Sprintf("INSERT INTO own.t VALUES (%d, 'prepared')", 100+i), fmt.Sprintf("PREPARE TRANSACTION 'p%d'", i)} {
			execSQL(t, db, sql)
		}
	}
	left := func() string {
		return holds(t, c.Node(3))
	}
	finish := func(n int, commit bool) string {
		return fmt.Sprintf("SELECT mtm.finish_prepared('p%d', %v)", n, commit)
	}
	run := func(want string, sql ...string) {
		t.Helper()
		for i, s := range append(append([]string{"BEGIN"}, sql...), "COMMIT") {
			state := stateOf(t, db, s)
			if i <= len(sql) {
				require.Empty(t, state, s)
			} else {
				require.Equal(t, want, state, s)
			}
		}
	}
	run("", finish(0, true), finish(1, false))
	run("", "INSERT INTO own.t VALUES (50, 'x')", "SAVEPOINT s", finish(2, true), "ROLLBACK TO s")
	run("", "SAVEPOINT s", finish(3, true), "INSERT INTO own.t SELECT g, repeat('x', 200) FROM generate_series(1000, 4000) g", "ROLLBACK TO s",
		"INSERT INTO own.t SELECT g, repeat('x', 200) FROM generate_series(1000, 4000) g", finish(4, true))
	run("0A000", "CREATE TEMPORARY TABLE held_open (a int)", "INSERT INTO own.t VALUES (51, 'x')", finish(5, true))
	execSQL(t, db, "BEGIN")
	execSQL(t, db, finish(6, true))
	require.Equal(t, "0A000", stateOf(t, db, "PREPARE TRANSACTION 'order'"))
	require.Equal(t, "0A000", stateOf(t, db, "DO $$ BEGIN PERFORM mtm.finish_prepared('p6', true); END $$"))
	require.Regexp(t, "^p2 mallory .*, p3 mallory .*, p5 mallory .*, p6 mallory [^,]*$", left())
	for _, n := range c.Nodes() {
		require.Equal(t, "100 104", ofNode[string](t, n, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM own.t WHERE v = 'prepared'"), "node %d", n.ID)
	}
	for _, i := range []int{2, 3, 5, 6} {
		execSQL(t, mallory(t, c.Node(2)), fmt.Sprintf("ROLLBACK PREPARED 'p%d'", i))
	}
	execSQL(t, db, "DELETE FROM own.t WHERE id > 1")
}

// announcedByOthers: another session of the same role cannot announce what one has prepared.
func announcedByOthers(t *testing.T, c *testcluster.Cluster) {
	db := mallory(t, c.Node(1))
	for _, sql := range []string{"BEGIN", "INSERT INTO own.t VALUES (200, 'prepared')", "PREPARE TRANSACTION 'mine'"} {
		execSQL(t, db, sql)
	}
	gid := prepared(t, c.Node(1).ConnectPg())[0]
	other := mallory(t, c.Node(1))
	for _, sql := range []string{"BEGIN", "UPDATE own.t SET v = 'announced' WHERE id = 1"} {
		execSQL(t, other, sql)
	}
	require.Equal(t, "23505", stateOf(t, other, "SELECT mtm.announce_prepared('"+gid+"', 'theirs')"))
	execSQL(t, other, "ROLLBACK")
	// As if the announcement had not come yet.
	root := c.Node(1).ConnectPg()
	execSQL(t, root, "SET default_transaction_read_only = off; SET session_replication_role = replica")
	execSQL(t, root, "DELETE FROM mtm.prepared WHERE name = 'mine'")
	execSQL(t, other, "BEGIN")
	execSQL(t, other, "UPDATE own.t SET v = 'announced' WHERE id = 1")
	execSQL(t, other, "SELECT mtm.announce_prepared('"+gid+"', 'theirs')")
	require.Equal(t, "55000", stateOf(t, other, "COMMIT"))
	execSQL(t, root, "INSERT INTO mtm.prepared SELECT 'mine', gid, 'mallory', prepared FROM pg_prepared_xacts WHERE gid = $1", gid)
	execSQL(t, db, "ROLLBACK PREPARED 'mine'")
}

func forgedQuestions(t *testing.T, c *testcluster.Cluster) {
	for _, user := range []string{"mallory", "boss"} {
		db := connectAs(t, c.Node(1), user, nil, nil)
		execSQL(t, db, "SET application_name = 'mtm?000001 d3'")
		execSQL(t, db, "SELECT mtm.outcome('mtm-1-1-1')") // the daemon looks
		execSQL(t, db, "SET application_name = 'mtm?000001000000000000 d3'")
		execSQL(t, db, "SELECT mtm.outcome('mtm-1-1-1')")
		execSQL(t, db, "SELECT pg_sleep(1.2)")
	}
	require.Len(t, c.Node(1).Status().GenConfigured, 3)
}

// tokensAreSecret: the server may tell its client much of what it does.
func tokensAreSecret(t *testing.T, c *testcluster.Cluster) {
	root := c.Node(1).ConnectPg()
	execSQL(t, root, "ALTER SYSTEM SET log_statement = 'all'")
	execSQL(t, root, "ALTER SYSTEM SET log_min_duration_statement = 0")
	execSQL(t, root, "SELECT pg_reload_conf()")
	defer func() {
		execSQL(t, root, "ALTER SYSTEM RESET log_statement")
		execSQL(t, root, "ALTER SYSTEM RESET log_min_duration_statement")
		execSQL(t, root, "SELECT pg_reload_conf()")
	}()
	var mu sync.Mutex
	var seen []string
	db := connectAs(t, c.Node(1), "mallory", map[string]string{
		"client_min_messages": "log", "debug_print_plan": "on", "log_parameter_max_length_on_error": "-1",
	}, func(n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, n.Message+n.Detail+n.Where)
	})
	execSQL(t, db, "CREATE TABLE own.shown (a int)")
	execSQL(t, db, "DROP TABLE own.shown")
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(seen, "\n")
	require.Contains(t, all, "own.shown", "PostgreSQL tells its client what it logs")
	require.NotContains(t, all, mtm.TokenPrefix)
	var spelled strings.Builder // as debug_print_plan shows a constant
	for _, b := range []byte(mtm.TokenPrefix) {
		fmt.Fprintf(&spelled, "%d ", b)
	}
	require.NotContains(t, all, spelled.String())
}

// namedLikeOurs: a session that calls itself like one of mtm's gives way like any other.
func namedLikeOurs(t *testing.T, c *testcluster.Cluster) {
	db := connectAs(t, c.Node(1), "mallory", map[string]string{"application_name": "mtm_apply"}, nil)
	execSQL(t, db, "BEGIN")
	execSQL(t, db, "UPDATE own.t SET v = 'mine' WHERE id = 1")
	execSQL(t, c.Node(2).Connect(), "UPDATE own.t SET v = 'other' WHERE id = 1")
	require.Equal(t, "40001", stateOf(t, db, "UPDATE own.t SET v = 'again' WHERE id = 1"))
	execSQL(t, db, "ROLLBACK")
}
