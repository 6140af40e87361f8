package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/testcluster"
)

// TestOneCluster is what needs a cluster but does it no harm.
func TestOneCluster(t *testing.T) {
	c := testcluster.Start(t, testcluster.Options{})
	for _, one := range []struct {
		name string
		test func(*testing.T, *testcluster.Cluster)
	}{
		{"what one node commits the others read at once", committedIsRead},
		{"blocks that change their access mode", accessModes},
		{"nothing commits on its node alone", nothingAlone},
		{"status and nodes on all", statusOnAll},
		{"numbers of serial and identity columns never meet", numbersNeverMeet},
		{"a monotonic sequence goes past what other nodes have given", monotonicSequences},
		{"numbers drawn in blocks come once", blockSequences},
		{"local tables", localTables},
		{"roles that DO makes and changes", rolesInDo},
		{"rights on all tables", rightsOfMany},
		{"outcomes are asked", outcomesAreAsked},
		{"scripts print what stock PostgreSQL prints", scripts},
		{"dumped and restored", dumpAndRestore},
		{"what PostgreSQL cannot decode stops nobody", undecodable},
		{"direct connections are read-only", directIsReadOnly},
		{"a client that cancels while its commit waits", cancelDuringCommit},
		{"a client that leaves while its commit waits", leaveDuringCommit},
		{"sessions killed under load", killedSessions},
		{"mtm.check_query without false alarms", checkQueries},
		{"garbage on the port for clients", garbageToGateway},
		{"garbage on the port for peers", garbageToPeers},
		{"a second init-cluster is refused", initTwice},
		{"NOTIFY reaches listeners on every node", notifications},
		{"NOTIFY when a node was killed and is back", notificationsOfARestartedNode},
	} {
		t.Run(one.name, func(t *testing.T) { one.test(t, c.For(t)) })
	}
}

func committedIsRead(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE seen (id int PRIMARY KEY, by int NOT NULL)")
	id := 0
	for range 20 {
		for _, writer := range c.Nodes() {
			id++
			w := writer.Connect()
			execSQL(t, w, "INSERT INTO seen VALUES ($1, $2)", id, writer.ID)
			for _, reader := range c.Nodes() {
				require.Equal(t, writer.ID, one[int](t, reader.Connect(), "SELECT by FROM seen WHERE id = $1", id),
					"row %d of node %d, read on node %d", id, writer.ID, reader.ID)
			}
		}
	}
}

// accessModes: what a block wrote is on all nodes, whenever it was, or was made, READ ONLY.
func accessModes(t *testing.T, c *testcluster.Cluster) {
	db := c.Node(1).Connect()
	execAll(t, db, "CREATE TABLE modes (id int PRIMARY KEY)", "CREATE FUNCTION put(x int) RETURNS void LANGUAGE sql AS 'INSERT INTO modes VALUES (x)'")
	ways := []func(stmts []string) error{
		func(stmts []string) error { // one by one
			for _, one := range stmts {
				if err := db.PgConn().Exec(t.Context(), one).Close(); err != nil {
					return err
				}
			}
			return nil
		},
		func(stmts []string) error { return db.PgConn().Exec(t.Context(), strings.Join(stmts, ";")).Close() },
		func(stmts []string) error { // extended
			for _, one := range stmts {
				if err := db.PgConn().ExecParams(t.Context(), one, nil, nil, nil, nil).Read().Err; err != nil {
					return err
				}
			}
			return nil
		},
		func(stmts []string) error { // extended, in one go
			p := db.PgConn().StartPipeline(t.Context())
			for _, one := range stmts {
				p.SendQueryParams(one, nil, nil, nil, nil)
			}
			if err := p.Sync(); err != nil {
				return err
			}
			return p.Close()
		},
	}
	id := 0
	for _, script := range []string{
		"BEGIN; INSERT INTO modes VALUES (#); SET TRANSACTION READ ONLY; COMMIT",
		"BEGIN; INSERT INTO modes VALUES (#); SET LOCAL transaction_read_only = on; COMMIT",
		"BEGIN; INSERT INTO modes VALUES (#); SET TRANSACTION READ ONLY; COMMIT AND CHAIN; COMMIT",
		"BEGIN READ ONLY; SET TRANSACTION READ WRITE; INSERT INTO modes VALUES (#); COMMIT",
		"BEGIN READ ONLY; SET TRANSACTION READ WRITE; SELECT put(#); COMMIT",
		"BEGIN READ ONLY; SET transaction_read_only = off; INSERT INTO modes VALUES (#); COMMIT",
		"BEGIN READ ONLY; SET transaction_read_only = off; SELECT put(#); COMMIT",
		"BEGIN; SAVEPOINT a; SET TRANSACTION READ ONLY; ROLLBACK TO a; INSERT INTO modes VALUES (#); COMMIT",
		"BEGIN READ ONLY; ROLLBACK AND CHAIN; SET TRANSACTION READ WRITE; SELECT put(#); COMMIT",
		"SET TRANSACTION READ WRITE; SELECT put(#)",
		"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE; SELECT put(#)",
		"SET transaction_read_only = off; SELECT put(#)",
		"RESET transaction_read_only; SELECT put(#)",
		"SELECT 1; BEGIN READ WRITE; INSERT INTO modes VALUES (#); COMMIT",
		"INSERT INTO modes VALUES (#); BEGIN /* now */ READ ONLY; SELECT 1; COMMIT",
	} {
		for way, run := range ways {
			id++
			require.NoError(t, run(strings.Split(strings.ReplaceAll(script, "#", fmt.Sprint(id)), ";")), "way %d: %s", way, script)
			for _, n := range c.Nodes() {
				require.Equal(t, 1, one[int](t, n.Connect(), "SELECT count(*)::int FROM modes WHERE id = $1", id), "node %d, way %d: %s", n.ID, way, script)
			}
		}
	}
	for script, code := range map[string]string{
		"SELECT 1; BEGIN READ ONLY; INSERT INTO modes VALUES (0)":                "25006",
		"SELECT 1; START TRANSACTION READ ONLY; SELECT put(0)":                   "25006",
		"SELECT * FROM modes; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT put(0)": "25001",
	} {
		require.Equal(t, code, sqlState(ways[1](strings.Split(script, ";"))), script)
		execSQL(t, db, "ROLLBACK")
		require.Zero(t, one[int](t, db, "SELECT count(*)::int FROM modes WHERE id = 0"), script)
	}
	// Who has his transactions READ ONLY, but for one.
	execSQL(t, db, "SET default_transaction_read_only = on")
	for way, run := range ways {
		for _, script := range []string{"SET TRANSACTION READ WRITE; SELECT put(#)", "BEGIN; SET TRANSACTION READ WRITE; SELECT put(#); COMMIT", "BEGIN READ WRITE; SELECT put(#); COMMIT"} {
			id++
			err := run(strings.Split(strings.ReplaceAll(script, "#", fmt.Sprint(id)), ";"))
			if strings.HasPrefix(script, "SET") && way != 1 && way != 3 { // it was a transaction of its own
				require.Equal(t, "25006", sqlState(err), "way %d", way)
				continue
			}
			require.NoError(t, err, "way %d: %s", way, script)
			for _, n := range c.Nodes() {
				require.Equal(t, 1, one[int](t, n.Connect(), "SELECT count(*)::int FROM modes WHERE id = $1", id), "node %d, way %d: %s", n.ID, way, script)
			}
		}
	}
	execSQL(t, db, "SET default_transaction_read_only = off")
	for _, way := range []int{0, 2} { // simple, extended
		run := ways[way]
		value := func(sql string) string {
			if way == 0 {
				res, err := db.PgConn().Exec(t.Context(), sql).ReadAll()
				require.NoError(t, err)
				return string(res[len(res)-1].Rows[0][0])
			}
			res := db.PgConn().ExecParams(t.Context(), sql, nil, nil, nil, nil).Read()
			require.NoError(t, res.Err)
			return string(res.Rows[0][0])
		}
		shown := func(want ...string) {
			t.Helper()
			for _, sql := range []string{"SHOW %s", "SELECT current_setting('%s')"} {
				require.Equal(t, want, []string{value(fmt.Sprintf(sql, "default_transaction_read_only")), value(fmt.Sprintf(sql, "transaction_read_only"))}, "way %d", way)
			}
		}
		shown("off", "off")
		require.NoError(t, run([]string{"BEGIN"}))
		shown("off", "off")
		require.NoError(t, run([]string{"ROLLBACK", "BEGIN READ ONLY"}))
		shown("off", "on")
		require.NoError(t, run([]string{"ROLLBACK", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"}))
		shown("on", "on")
		require.Equal(t, "25006", sqlState(run([]string{"SELECT put(0)"})), "way %d", way)
		require.NoError(t, run([]string{"SET default_transaction_read_only TO off", "SET transaction_read_only = on"}))
		shown("off", "off")
		id++
		require.NoError(t, run([]string{fmt.Sprintf("SELECT put(%d)", id)}))
	}
	for _, script := range []string{"SET default_transaction_read_only = on; SELECT 1", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; BEGIN; COMMIT"} {
		execSQL(t, db, script)
		require.Equal(t, "25006", sqlState(ways[0]([]string{"INSERT INTO modes VALUES (0)"})), script)
		id++
		execAll(t, db, "SELECT 1; SET default_transaction_read_only = off; COMMIT", fmt.Sprintf("INSERT INTO modes VALUES (%d)", id))
	}
	execAll(t, db, "CREATE TEMP TABLE notes (a int)", "BEGIN READ ONLY", "INSERT INTO notes VALUES (1)", "COMMIT")
}

func statusOnAll(t *testing.T, c *testcluster.Cluster) {
	for _, n := range c.Nodes() {
		db := n.Connect()
		await(t, c, "status in SQL", func() error {
			// A busy machine may have had an election: any generation of all three will do.
			got := one[string](t, db, `SELECT (my_node_id, status, connected, gen_num > 0, gen_members, gen_members_online, gen_configured)::text
				FROM mtm.status()`)
			want := fmt.Sprintf(`(%d,online,"{1,2,3}",t,"{1,2,3}","{1,2,3}","{1,2,3}")`, n.ID)
			if got != want {
				return fmt.Errorf("node %d says %s, not %s", n.ID, got, want)
			}
			return nil
		})
		require.Equal(t, []string{"1 t t", "2 t t", "3 t t"},
			one[[]string](t, db, "SELECT array_agg(format('%s %s %s', id, enabled, connected) ORDER BY id) FROM mtm.nodes()"))
		require.Equal(t, n.ID, one[int](t, db, "SELECT id FROM mtm.nodes() WHERE is_self"))
	}
}

func numbersNeverMeet(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(2).Connect(), `CREATE TABLE numbered (a serial PRIMARY KEY, b bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
		c int GENERATED BY DEFAULT AS IDENTITY (START 100) UNIQUE, d smallserial UNIQUE)`)
	for _, n := range c.Nodes() {
		db := n.Connect()
		for range 20 {
			execSQL(t, db, "INSERT INTO numbered DEFAULT VALUES")
		}
		execSQL(t, db, "INSERT INTO numbered (c) SELECT nextval('numbered_c_seq') FROM generate_series(1, 20)")
	}
	for _, n := range c.Nodes() {
		require.Equal(t, 120, one[int](t, n.Connect(), "SELECT count(*) FROM numbered"))
	}
}

// rolesInDo: PostgreSQL has no event triggers for roles; those that DO makes, changes and drops do so on all nodes, before what names them.
func rolesInDo(t *testing.T, c *testcluster.Cluster) {
	const state = `SELECT coalesce(string_agg(x, E'\n' ORDER BY x), '') FROM (
		SELECT format('%s %s %s %s %s %s', rolname, rolinherit, rolcreatedb, rolconnlimit, rolpassword, rolvaliduntil), oid FROM pg_authid
		UNION ALL SELECT format('%s in %s %s', member::regrole, roleid::regrole, admin_option), roleid FROM pg_auth_members
		UNION ALL SELECT format('%s %s', setrole::regrole, setconfig), setrole FROM pg_db_role_setting WHERE setrole <> 0
		UNION ALL SELECT description, objoid FROM pg_shdescription WHERE classoid = 'pg_authid'::regclass) s (x, oid) WHERE oid >= 16384`
	same := func(n int, contains ...string) {
		t.Helper()
		want := one[string](t, c.Node(n).Connect(), state)
		for _, part := range contains {
			require.Contains(t, want, part)
		}
		for _, n := range c.Nodes() {
			require.Equal(t, want, one[string](t, n.Connect(), state), "node %d", n.ID)
		}
	}
	execSQL(t, c.Node(1).Connect(), `DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'in_do') THEN CREATE ROLE in_do LOGIN PASSWORD 'secret'; END IF;
		CREATE ROLE "odd ""role" NOINHERIT CREATEDB CONNECTION LIMIT 5 VALID UNTIL '2030-01-01';
		GRANT in_do TO "odd ""role" WITH ADMIN OPTION;
		ALTER ROLE in_do SET search_path = "$user", public;
		ALTER ROLE in_do SET work_mem = '8MB';
		COMMENT ON ROLE in_do IS 'it''s';
		CREATE TABLE owned_in_do (i int PRIMARY KEY);
		ALTER TABLE owned_in_do OWNER TO in_do;
		ALTER ROLE in_do SET "DateStyle" = 'ISO, DMY'; END $$`)
	same(1, `search_path=\"$user\", public`, "SCRAM-SHA-256", `"odd ""role" in in_do t`, "it's")

	db := c.Node(2).Connect()
	execAll(t, db, "BEGIN", "SAVEPOINT s", "DO $$ BEGIN DROP ROLE \"odd \"\"role\"; END $$", "ROLLBACK TO s", `DO $$ BEGIN
		ALTER ROLE in_do RENAME TO done; ALTER ROLE done RESET work_mem; REVOKE ADMIN OPTION FOR done FROM "odd ""role"; INSERT INTO owned_in_do VALUES (1); END $$`)
	_, err := db.PgConn().ExecParams(t.Context(), "DO 'BEGIN CREATE ROLE later IN ROLE done; END'", nil, nil, nil, nil).Close()
	require.NoError(t, err)
	execSQL(t, db, "COMMIT")
	same(2, "later in done f", `"odd ""role" in done f`)

	db = c.Node(3).Connect()
	_, err = db.PgConn().ExecParams(t.Context(), `DO 'BEGIN DROP ROLE "odd ""role"; CREATE ROLE "odd ""role"; END'`, nil, nil, nil, nil).Close()
	require.NoError(t, err)
	same(3, `odd "role t f -1`)
	execSQL(t, db, `DO $$ BEGIN DROP ROLE "odd ""role", later; END $$; SELECT 1; DO $$ BEGIN DROP OWNED BY done; DROP ROLE done; END $$`)
	same(3)
	require.NotContains(t, one[string](t, db, state), "done")
	execAll(t, db, "BEGIN READ ONLY", "DO $$ BEGIN PERFORM current_user; END $$", "COMMIT")

	// What one may do to his own role the other nodes do as superusers, and no more than that; nor what somebody else did, and undid.
	execSQL(t, db, `CREATE ROLE "anybody%1$s" LOGIN; CREATE ROLE granted; CREATE ROLE "odd.one"`)
	his := c.Node(3).Connect()
	execAll(t, his, `SET SESSION AUTHORIZATION "anybody%1$s"`,
		`SELECT set_config('search_path', 'a;ALTER/**/ROLE/**/"anybody%1$s"/**/SUPERUSER/**/--, "B""c", D', false)`,
		`DO $$ BEGIN ALTER ROLE "anybody%1$s" SET search_path FROM CURRENT; END $$`,
		"RESET search_path", "BEGIN", "SELECT mtm.note_roles()")
	execSQL(t, db, `GRANT granted TO "anybody%1$s"`)
	execSQL(t, his, "SELECT mtm.tell_roles(true)")
	execSQL(t, db, `REVOKE granted FROM "anybody%1$s"; DO $$ BEGIN GRANT granted TO "odd.one"; GRANT "anybody%1$s" TO granted; ALTER ROLE granted SET odd."table" = 'x=y'; END $$`)
	execSQL(t, his, "COMMIT")
	for _, n := range c.Nodes() {
		require.False(t, one[bool](t, n.Connect(), `SELECT rolsuper FROM pg_roles WHERE rolname = 'anybody%1$s'`), "node %d", n.ID)
		require.ElementsMatch(t, []string{`"anybody%1$s" in granted`, `granted in "odd.one"`}, one[[]string](t, n.Connect(),
			`SELECT array_agg(format('%s in %s', roleid::regrole, member::regrole)) FROM pg_auth_members WHERE roleid >= 16384 AND member >= 16384`), "node %d", n.ID)
		settings := one[[]string](t, n.Connect(), `SELECT array_agg(c) FROM pg_db_role_setting, unnest(setconfig) c WHERE setrole >= 16384`)
		require.Contains(t, settings, "odd.table=x=y")
		if n.ID != 3 { // which has it as he wrote it; it means the same
			require.Contains(t, settings, `search_path="a;alter/**/role/**/""anybody%1$s""/**/superuser/**/--", "B""c", d`)
		}
	}
	execSQL(t, db, `DO $$ BEGIN DROP ROLE "anybody%1$s", granted, "odd.one"; END $$`)
	same(3)
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM mtm.noted_roles"))
	}
}

// rightsOfMany: what comes to all tables, or to all that are made later, comes to the same ones on all nodes.
func rightsOfMany(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE ROLE sweeper; CREATE SCHEMA swept")
	const rights = "SELECT coalesce(string_agg(relname || coalesce(relacl::text, ''), ',' ORDER BY relname), '') FROM pg_class WHERE relnamespace = 'swept'::regnamespace AND relkind = 'r'"
	for i, many := range []string{
		"ALTER DEFAULT PRIVILEGES IN SCHEMA swept GRANT SELECT ON TABLES TO sweeper",
		"ALTER DEFAULT PRIVILEGES IN SCHEMA swept REVOKE SELECT ON TABLES FROM sweeper",
		"GRANT INSERT ON ALL TABLES IN SCHEMA swept TO sweeper",
		"DO $$ BEGIN EXECUTE 'REVOKE ALL ON ALL TABLES IN SCHEMA swept FROM sweeper'; END $$",
	} {
		create := fmt.Sprintf("CREATE TABLE swept.t%d (id int PRIMARY KEY)", i)
		for j, order := range [][2]string{{create, many}, {many, strings.Replace(create, ".t", ".u", 1)}} {
			slow, quick := c.Node(2).Connect(), c.Node(1).Connect()
			execAll(t, slow, "BEGIN", order[0])
			execSQL(t, quick, order[1])
			state := stateOf(t, slow, "COMMIT")
			require.Contains(t, []string{"", "40001"}, state, "%d, %s", j, many)
			want := one[string](t, quick, rights)
			for _, n := range c.Nodes() {
				require.Equal(t, want, one[string](t, n.Connect(), rights), "node %d, %s", n.ID, order)
			}
		}
	}
	execSQL(t, c.Node(3).Connect(), "DROP SCHEMA swept CASCADE; DROP OWNED BY sweeper; DROP ROLE sweeper")
}

// monotonicSequences: each commit's number is greater than all that were committed before, on whatever node.
func monotonicSequences(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(2).Connect(), "CREATE ROLE counter; GRANT CREATE ON SCHEMA public TO counter; SET ROLE counter; SET mtm.sequence_mode = monotonic; CREATE TABLE ascending (id serial PRIMARY KEY, k int GENERATED ALWAYS AS IDENTITY, node int)")
	last, lastK := 0, 0
	insert := func(n *testcluster.Node, db *pgx.Conn) {
		var id, k int
		for try := 1; ; try++ {
			err := db.QueryRow(t.Context(), "INSERT INTO ascending (node) VALUES ($1) RETURNING id, k", n.ID).Scan(&id, &k)
			if err == nil {
				break
			}
			require.True(t, try < 4 && sqlState(err) == mtm.CodeSerialization, err)
		}
		require.Equal(t, n.ID, 1+(id-1)%16)
		require.Greater(t, id, last)
		require.Greater(t, k, lastK)
		last, lastK = id, k
	}
	for range 5 {
		for _, n := range c.Nodes() {
			db := n.Connect()
			for range 3 {
				insert(n, db)
			}
		}
	}
	require.Less(t, last, 45*3*16)
	execSQL(t, c.Node(3).Connect(), "INSERT INTO ascending (id, node) SELECT 10000 + g, 3 FROM generate_series(1, 500) g")
	last = 10500
	insert(c.Node(1), c.Node(1).Connect())
	execSQL(t, c.Node(3).Connect(), "SET mtm.sequence_mode = off; CREATE SEQUENCE ordinary")
	for _, n := range c.Nodes() {
		require.Equal(t, 1, one[int](t, n.ConnectPg(), "SELECT seqincrement::int FROM pg_sequence WHERE seqrelid = 'ordinary'::regclass"), "the mode goes along")
	}
	execSQL(t, c.Node(1).Connect(), "DO $$ BEGIN SET LOCAL mtm.sequence_mode = monotonic; CREATE SEQUENCE nested; END $$")
	for _, n := range c.Nodes() {
		require.Equal(t, "monotonic", one[string](t, n.Connect(), "SELECT mode FROM mtm.sequences WHERE seqid = 'nested'::regclass"))
	}
	execSQL(t, c.Node(1).Connect(), "DROP TABLE ascending; DROP SEQUENCE ordinary, nested; DROP OWNED BY counter; DROP ROLE counter")
}

// undecodable makes PostgreSQL's logical decoding wait for locks that would never go, or not soon.
func undecodable(t *testing.T, c *testcluster.Cluster) {
	ctx := t.Context()
	code := func(err error) string {
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e)
		return e.Code
	}
	db := c.Node(1).Connect()
	for _, block := range []string{
		"CREATE TYPE place AS (street text); CREATE TABLE homes (p place); INSERT INTO homes VALUES (ROW('high'))",
		"CREATE TYPE place AS (street text); CREATE TABLE homes (p place); INSERT INTO homes VALUES (ROW('high')); CREATE TEMP TABLE mine (a int)",
		"CREATE TYPE place AS (street text); CREATE TABLE homes (p place); INSERT INTO homes SELECT ROW(repeat('x', 2000))::place FROM generate_series(1, 50000)",
	} {
		for _, end := range []string{"COMMIT", "PREPARE TRANSACTION 'undecodable'"} {
			_, err := db.Exec(ctx, "BEGIN; "+block)
			if err == nil {
				_, err = db.Exec(ctx, end)
			}
			require.Equal(t, "0A000", code(err), "%v%s", err, logs(c))
			_, err = db.Exec(ctx, "ROLLBACK")
			require.NoError(t, err)
		}
	}
	// A session that is idle keeps to itself a type that the walsender has not met: through the gateway, and past it.
	for kind, idle := range map[string]*pgx.Conn{"0A000": c.Node(1).Connect(), "57P01": c.Node(1).ConnectPg()} {
		execSQL(t, db, "DROP TABLE IF EXISTS homes; DROP TYPE IF EXISTS place")
		execSQL(t, db, "CREATE TYPE place AS (street text); CREATE TABLE homes (p place)")
		execSQL(t, db, "SELECT ROW('low')::place") // so that this session need not look at it again
		execSQL(t, idle, "BEGIN READ WRITE")
		execSQL(t, idle, "ALTER TYPE place RENAME ATTRIBUTE street TO road")
		execSQL(t, db, "INSERT INTO homes VALUES (ROW('low'))")
		_, err := idle.Exec(ctx, "SELECT 1")
		require.Equal(t, kind, code(err))
	}
	execSQL(t, db, "DROP TABLE homes; DROP TYPE place")
	c.RequireEqual()
}

// scripts runs each script on each node and on one stock PostgreSQL. psql must print the same, to the letter, errors with
// their fields included.
func scripts(t *testing.T, c *testcluster.Cluster) {
	stock := testcluster.Start(t, testcluster.Options{Nodes: 1, PostgresOnly: true}).Node(1)
	files, err := filepath.Glob("testdata/*.sql")
	require.NoError(t, err)
	more, err := filepath.Glob("../../sql/testdata/*.sql")
	require.NoError(t, err)
	for _, file := range append(files, more...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want := runScript(t, stock.Info().PgBin, stock.PgURL(), file)
			for _, n := range c.Nodes() {
				got := runScript(t, n.Info().PgBin, n.URL(), file)
				require.Equal(t, want, got, "node %d", n.ID)
				c.For(t).RequireEqual()
			}
		})
	}
}

// schemaMade finds the schemas that a script makes for itself.
var schemaMade = regexp.MustCompile(`(?im)^create schema (corpus_\w+)`)

// runScript runs a script by psql, in a schema of its own that is left for comparison until the next one.
func runScript(t *testing.T, bin, url, file string) string {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	head := "\\set VERBOSITY verbose\n\\set ECHO queries\n\\pset null NULL\nSET client_min_messages = error;\n" +
		"DROP SCHEMA IF EXISTS script CASCADE;\nCREATE SCHEMA script;\n"
	for _, m := range schemaMade.FindAllStringSubmatch(string(text), -1) {
		head += "DROP SCHEMA IF EXISTS " + m[1] + " CASCADE;\n"
	}
	head += "RESET client_min_messages;\n"
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, testcluster.Program(bin, "psql"), "-X", "-q", "-d", url)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c search_path=script -c timezone=UTC -c statement_timeout=60s", "PGAPPNAME=script")
	cmd.Stdin = strings.NewReader(head + string(text))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	if filepath.Base(file) == "sequences.sql" {
		out = failingRow.ReplaceAll(out, nil) // it holds numbers, which differ
	}
	return string(out)
}

var failingRow = regexp.MustCompile(`(?m)^DETAIL:  Failing row contains .*\n`)

func directIsReadOnly(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE guarded (id int PRIMARY KEY)")
	for _, n := range c.Nodes() {
		db := n.ConnectPg()
		for _, sql := range []string{"INSERT INTO guarded VALUES (1)", "CREATE TABLE slipped (x int)", "TRUNCATE guarded", "DROP TABLE guarded"} {
			_, err := db.Exec(t.Context(), sql)
			require.Equal(t, "25006", sqlState(err), "node %d: %s: %v", n.ID, sql, err)
		}
		require.Zero(t, one[int](t, db, "SELECT count(*) FROM guarded"))
	}
}

// initTwice: a node already in a cluster is named, and nothing is changed.
func initTwice(t *testing.T, c *testcluster.Cluster) {
	before := catalogs(t, c)
	out, code := mtmctl(t, "init-cluster", "--dev", c.Dev().Dir(), "--cluster", c.Dev().Name())
	require.Equal(t, 4, code, out)
	require.Contains(t, out, "belongs to a cluster already")
	require.Equal(t, before, catalogs(t, c))
	c.WaitOnline()
}

// withinCommit begins a commit on node 1 that must wait, because PostgreSQL of node 3 is frozen, and calls f when it
// waits. Node 3 goes on when f has returned. It gives the answer of the commit.
func withinCommit(t *testing.T, c *testcluster.Cluster, sql string, f func(session *pgx.Conn, watch *pgx.Conn)) error {
	t.Helper()
	db, err := c.Node(1).ConnectErr(t.Context())
	require.NoError(t, err)
	watch := c.Node(1).ConnectPg()
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c.Node(3).FreezePostgres()
	defer c.Node(3).ThawPostgres()
	go func() {
		_, err := db.Exec(ctx, sql)
		db.Close(context.Background()) //nolint:errcheck // it may be broken
		answer <- err
	}()
	await(t, c, "a commit that waits", func() error {
		if len(prepared(t, watch)) == 0 {
			return fmt.Errorf("nothing is prepared on node 1")
		}
		return nil
	})
	f(db, watch)
	return <-answer // its context ends it, if nothing else does
}

// nowhereNow requires that a table is empty on all nodes, and that nothing is prepared any more.
func nowhereNow(t *testing.T, c *testcluster.Cluster, table string) {
	t.Helper()
	requireNonePrepared(t, c)
	for _, n := range c.Nodes() {
		require.Zero(t, one[int](t, n.Connect(), "SELECT count(*) FROM "+table), "node %d", n.ID)
	}
	c.RequireEqual()
}

func cancelDuringCommit(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE cancelled (id int)")
	err := withinCommit(t, c, "INSERT INTO cancelled VALUES (1)", func(session, _ *pgx.Conn) {
		require.NoError(t, session.PgConn().CancelRequest(t.Context()))
	})
	require.Equal(t, "57014", sqlState(err), "%v", err)
	nowhereNow(t, c, "cancelled")
}

func leaveDuringCommit(t *testing.T, c *testcluster.Cluster) {
	execSQL(t, c.Node(1).Connect(), "CREATE TABLE left_alone (id int)")
	err := withinCommit(t, c, "INSERT INTO left_alone VALUES (1)", func(session, watch *pgx.Conn) {
		// Only the socket closes: no Terminate message, no cancel request.
		require.NoError(t, session.PgConn().Conn().Close())
		await(t, c, "the rollback on node 1, with node 3 still frozen", func() error {
			if left := prepared(t, watch); len(left) > 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	})
	require.Error(t, err)
	nowhereNow(t, c, "left_alone")
}

// killedSessions ends PostgreSQL's processes of sessions that write, in whatever they do, on all nodes.
func killedSessions(t *testing.T, c *testcluster.Cluster) {
	l := newLoad(t, c, 3)
	l.start(t)
	for range 10 {
		for _, n := range c.Nodes() {
			db := n.ConnectPg()
			await(t, c, "a session to kill", func() error {
				if one[int](t, db, "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'load' ORDER BY random() LIMIT 1) x") == 0 {
					return fmt.Errorf("none on node %d", n.ID)
				}
				return nil
			})
		}
		l.awaitProgress(t, c, 2)
	}
	l.finish()
	l.tell(t)
	l.check(t, c)
	for _, n := range c.Nodes() {
		require.Equal(t, "online", n.Status().Status)
	}
}
